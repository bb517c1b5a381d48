"""Answers for the page: an image file and lines of expressions in, timed answers out."""

import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sspsam.demo.limits import Limits
from sspsam.demo.sessions import EncodedImage, SessionStore
from sspsam.errors import ImageError, ImageTooLargeError, SSPSAMError, TextError
from sspsam.images.loading import decode_image
from sspsam.predictor import SSPSAMPredictor
from sspsam.segmentation.result import Segmentation
from sspsam.serving.decoding import require_format

# PNG, JPEG, GIF, BMP, icons, WebP, AVIF; not TIFF, JPEG 2000 and others that Pillow reads
_SHOWN_BY_BROWSERS: Final = re.compile(
    rb"\x89PNG|\xff\xd8\xff|GIF8|BM|\x00\x00\x01\x00|RIFF....WEBP|....ftypavi[fs]", re.DOTALL
)


@dataclass(frozen=True, eq=False)
class TimedAnswer:
    """The answer to one expression.

    Args:
        text: the expression.
        outcome: the answer, or the error of this expression alone.
        seconds: time that the model took.
    """

    text: str
    outcome: Segmentation | SSPSAMError
    seconds: float


@dataclass(frozen=True, eq=False)
class ImageAnswers:
    """Answers about one image.

    Args:
        image: the encoded image.
        reused: whether the image had been encoded before.
        answers: one for each expression, in order.
    """

    image: EncodedImage
    reused: bool
    answers: tuple[TimedAnswer, ...]

    @property
    def results(self) -> list[Segmentation]:
        """Return the answers of the expressions that have one."""
        return [answer.outcome for answer in self.answers if isinstance(answer.outcome, Segmentation)]


class Answering:
    """A predictor with the encoded images of all open pages.

    Args:
        predictor: computes the answers.
        limits: of images, expressions and sessions.
    """

    def __init__(self, predictor: SSPSAMPredictor, limits: Limits) -> None:
        self.predictor = predictor
        self.limits = limits
        self.sessions = SessionStore(limits)

    def encode(self, session: str, data: bytes, name: str | None = None) -> tuple[EncodedImage, bool]:
        """Encode the image of a session, or return it if it is encoded already.

        Args:
            session: key of the open page.
            data: the image file.
            name: of the file, for errors; None: it has none.

        Returns:
            The encoded image, and whether it had been encoded before.

        Raises:
            ImageError: the file is no image, is damaged, or is larger than the limits.
        """
        digest = hashlib.sha256(data).hexdigest()
        known = self.sessions.get(session, digest)
        if known is not None:
            return known, True
        self.sessions.drop(session)  # the earlier image is released before the next one is decoded
        image = self.encode_once(data, name, digest)
        self.sessions.put(session, image)
        return image, False

    def encode_once(self, data: bytes, name: str | None = None, digest: str = "") -> EncodedImage:
        """Encode an image that belongs to no session; errors are those of `encode`."""
        check_bytes(len(data), self.limits)
        require_format(data, name, "this page")  # before Pillow opens others, one of them by a program of PostScript
        start = time.perf_counter()
        try:
            pixels = decode_image(data, name, self.limits.max_pixels)
        except ImageTooLargeError as error:
            raise ImageTooLargeError(_too_large(error, self.limits)) from error
        decoded = time.perf_counter()
        embedding = self.predictor.encode(pixels, max_pixels=self.limits.max_pixels)
        encoded = time.perf_counter()
        is_shown = _SHOWN_BY_BROWSERS.match(data) is not None
        return EncodedImage(digest, embedding, decoded - start, encoded - decoded, is_shown)

    def answer(self, session: str, data: bytes, texts: Sequence[str], name: str | None = None) -> ImageAnswers:
        """Answer expressions about the image of a session, one after the other, so that each has its time.

        Args:
            session, data, name: as in `encode`.
            texts: the expressions.

        Raises:
            ImageError: as `encode`. An error of an expression stands in the place of its answer.
        """
        image, reused = self.encode(session, data, name)
        return ImageAnswers(image, reused, self.answers_about(image, texts))

    def answers_about(self, image: EncodedImage, texts: Sequence[str]) -> tuple[TimedAnswer, ...]:
        """Answer expressions about an encoded image."""
        return tuple(self._timed_answer(image, text) for text in texts)

    def explained(self, session: str, data: bytes, text: str, name: str | None = None) -> Segmentation:
        """Return the answer to one expression with the maps behind it.

        Args:
            session, data, name: as in `encode`.
            text: the expression.

        Raises:
            ImageError, TextError: the image or the expression cannot be used.
        """
        image, _ = self.encode(session, data, name)
        return self.predictor.predict(text, embedding=image.embedding, explain=True)

    def _timed_answer(self, image: EncodedImage, text: str) -> TimedAnswer:
        start = time.perf_counter()
        outcome: Segmentation | SSPSAMError
        try:
            outcome = self.predictor.predict(text, embedding=image.embedding)
        except SSPSAMError as error:
            outcome = error
        return TimedAnswer(text, outcome, time.perf_counter() - start)


def expressions(lines: str, limits: Limits) -> list[str]:
    """Return the expressions that stand in lines of text, each once, without blank lines.

    Raises:
        TextError: there is none, or more than the limits allow.
    """
    texts = list(dict.fromkeys(" ".join(line.split()) for line in lines.splitlines() if line.strip()))
    if not texts:
        raise TextError("There is no expression yet: type at least one, such as “the red circle”, one on each line.")
    _check_amount(texts, limits)
    return texts


def listed_expressions(texts: Sequence[str], limits: Limits) -> tuple[str, ...]:
    """Return the expressions of a list as they are, duplicates included.

    Raises:
        TextError: there is none, one is blank, or there are more than the limits allow.
    """
    if not texts:
        raise TextError("There is no expression: give at least one, such as “the red circle”.")
    for number, text in enumerate(texts, 1):
        if not text.strip():
            raise TextError(f"Expression {number} is empty; describe the target in words.")
    _check_amount(texts, limits)
    return tuple(texts)


def _check_amount(texts: Sequence[str], limits: Limits) -> None:
    if len(texts) > limits.max_expressions:
        raise TextError(
            f"These are {len(texts)} expressions; this page takes {limits.max_expressions} at a time. Remove some."
        )
    if sum(map(len, texts)) > limits.max_characters:
        raise TextError(f"The expressions have more than {limits.max_characters:,} characters together. Shorten them.")


def check_bytes(count: int, limits: Limits) -> None:
    """Refuse a file that is empty or too large.

    Raises:
        ImageError: empty.
        ImageTooLargeError: more bytes than the limit.
    """
    if count == 0:
        raise ImageError("The file is empty.")
    if count > limits.max_bytes:
        raise ImageTooLargeError(
            f"The file has {count / 2**20:.0f} MiB; this page takes files of up to {limits.max_bytes / 2**20:.0f} MiB."
        )


def _too_large(error: ImageTooLargeError, limits: Limits) -> str:
    """Return the message for an image with too many pixels."""
    subject = f"The image has {error.pixels / 1e6:.0f} megapixels" if error.pixels else "The image is very large"
    return (
        f"{subject}, and this page takes images of up to {limits.max_pixels / 1e6:.0f} megapixels. "
        "Make it smaller, or use the command: sspsam segment"
    )
