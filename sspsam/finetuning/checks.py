"""Checks of all lines before a step is taken; every problem is reported at once."""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from sspsam.errors import DatasetError, FinetuningError, ImageError, LinesError, TextError, warn
from sspsam.evaluation.datasets.entry import Entry
from sspsam.evaluation.protocols import box_iou
from sspsam.finetuning.corrections import Remark
from sspsam.finetuning.expressions import same_words
from sspsam.finetuning.lines import SourceLine
from sspsam.images.loading import DEFAULT_MAX_PIXELS, load_image_with_digest
from sspsam.messages import OptionMessage, argument, message_of
from sspsam.segmentation.postprocessing import box_of_mask
from sspsam.text.tokenizer import Tokenizer
from sspsam.utils.arrays import FloatBox, Mask
from sspsam.utils.paths import shown, shown_repr
from sspsam.utils.progress import item_progress

_SAME_MASK: Final = 0.8  # IoU from which two masks of one expression are the same
_INSIDE: Final = 0.5  # share of the box that must lie in the image
_FITTING: Final = 0.3  # IoU from which a box is that of a mask
_FEW_TARGETS: Final = 30  # lines with a target below which a fine-tuning is hardly worth its time
_FEW_IMAGES: Final = 5  # images below which there is nothing to hold out


@dataclass(frozen=True, eq=False)
class CheckedLine:
    """A line that can be learned from.

    Args:
        entry: of the line.
        where: file and line.
        image: key of the image, a digest of its bytes, so that copies of a file count as one image.
    """

    entry: Entry
    where: str
    image: str


@dataclass(frozen=True)
class CheckedData:
    """The result of the checks.

    Args:
        lines: that can be learned from.
        problems: one message for each line that cannot.
        duplicates: lines that repeat an earlier one; they are left out.
        remarks: a sentence about each kind of remark, and about the lines that later files replaced.
    """

    lines: list[CheckedLine]
    problems: list[str]
    duplicates: int
    remarks: tuple[str, ...] = ()

    def require_no_problems(self) -> None:
        """Refuse lines with problems.

        Raises:
            LinesError: there are problems; it lists them.
        """
        if self.problems:
            message = OptionMessage(
                f"{len(self.problems):,} lines have problems: correct them, or leave these lines out with ",
                argument("skip_problems=True", "--skip-problems"),
            )
            raise LinesError(message, tuple(self.problems))

    def notes(self) -> list[str]:
        """Return a sentence about each shortage of the data.

        Raises:
            FinetuningError: there are too few images to hold one out.
        """
        images = len({line.image for line in self.lines})
        targets = sum(not line.entry.no_target for line in self.lines)
        if images < _FEW_IMAGES:
            raise FinetuningError(
                f"{images} images are too few: at least {_FEW_IMAGES} are needed, of which one is held out; some "
                "hundred lines about some hundred images are a good beginning"
            )
        notes = []
        if targets < _FEW_TARGETS:
            notes.append(
                f"only {targets} lines have a target: below {_FEW_TARGETS} a fine-tuning is hardly worth it, and its "
                "held-out numbers say little; annotate more images first"
            )
        if self.duplicates:
            notes.append(f"{self.duplicates:,} lines repeat an earlier line and are left out")
        return notes


def check_lines(
    lines: Iterable[SourceLine | Remark | DatasetError],
    tokenizer: Tokenizer,
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    show: bool = False,
) -> CheckedData:
    """Check every line: its words, its image, its mask, and its agreement with the other lines.

    Args:
        lines: from `read_lines`.
        tokenizer: of the model.
        max_pixels: largest width times height of an image.
        show: whether to show a bar.

    Returns:
        The lines without a problem, in order, and all problems.
    """
    all_lines = list(lines)
    checker = _Checker(tokenizer, max_pixels)
    with item_progress("lines checked", len(all_lines), 0, show) as advance:
        for line in all_lines:
            checker.add(line)
            advance()
    return CheckedData(list(checker.kept.values()), checker.problems, checker.duplicates, checker.all_remarks())


@dataclass(frozen=True, eq=False)
class _Seen:
    """The first line about an image and an expression, and a digest of its mask."""

    number: int
    line: SourceLine
    mask: str


class _Checker:
    """Checks lines one after the other.

    Args:
        tokenizer, max_pixels: see `check_lines`.
    """

    def __init__(self, tokenizer: Tokenizer, max_pixels: int) -> None:
        self._tokenizer, self._max_pixels = tokenizer, max_pixels
        self._images: dict[Path, str | ImageError] = {}  # the key of each image, or the reason why it cannot be used
        self._seen: dict[tuple[str, str], _Seen] = {}  # by the image and the words
        self._count = 0
        self.kept: dict[int, CheckedLine] = {}
        self._sources: set[int] = set()
        self._remarks: dict[str, list[str]] = {}  # the places by the sentence
        self._replaced = 0
        self.problems: list[str] = []
        self.duplicates = 0

    def all_remarks(self) -> tuple[str, ...]:
        """Return a sentence with its count for each kind of remark."""
        remarks = [f"{len(places):,} {sentence}; the first: {places[0]}" for sentence, places in self._remarks.items()]
        if len(self._sources) > 1:
            about = "lines of earlier files are replaced by those of later files about the same image and expression"
            remarks.append(f"{self._replaced:,} {about}")
        return tuple(remarks)

    def add(self, line: SourceLine | Remark | DatasetError) -> None:
        """Keep a line, or note its problem."""
        self._count += 1
        if isinstance(line, Remark):
            self._remarks.setdefault(line.sentence, []).append(line.where)
            return
        if isinstance(line, DatasetError):
            self.problems.append(str(line))
            return
        where = line.line.where
        try:
            image, mask = _checked_image(line.line.entry, self._images, self._max_pixels), _checked_mask(line)
            cut_off = self._tokenizer.read(line.line.entry.text)[1]
        except (ImageError, DatasetError, TextError) as error:
            self.problems.append(str(error) if where in str(error) else f"{where}: {shown(error)}")
            return
        if cut_off is not None:
            warn(f"{where}: {self._tokenizer.cut_off_message(line.line.entry.text, cut_off)}")
        self._compare(line, image, mask)

    def _compare(self, line: SourceLine, image: str, mask: Mask) -> None:
        """Compare a line with the earlier one about the same image and words, and keep it if there is none."""
        self._sources.add(line.source)
        key = image, same_words(line.line.entry.text)
        earlier = self._seen.get(key)
        if earlier is not None and earlier.line.source != line.source:
            self._replaced += self.kept.pop(earlier.number, None) is not None  # this line corrects it
            earlier = None
        if earlier is None:
            self._seen[key] = _Seen(self._count, line, _digest(mask))
            self.kept[self._count] = CheckedLine(line.line.entry, line.line.where, image)
        elif earlier.mask == _digest(mask) or _iou(earlier.line.line.entry.mask(), mask) >= _SAME_MASK:
            self.duplicates += 1
        else:
            text, other = shown_repr(line.line.entry.text), earlier.line.line.where
            self.problems.append(f"{line.line.where}: {text} has another mask in {other}")


def _checked_image(entry: Entry, images: dict[Path, str | ImageError], max_pixels: int) -> str:
    """Return the key of the image of an entry, which is decoded once."""
    if entry.image not in images:
        try:
            pixels, digest = load_image_with_digest(entry.image_input, max_pixels)
            images[entry.image] = digest
            if pixels.shape[:2] != entry.size:
                images[entry.image] = ImageError(
                    f"{shown(entry.image)} has {pixels.shape[0]} x {pixels.shape[1]} pixels, its annotation "
                    f"{entry.size[0]} x {entry.size[1]} (height x width)"
                )
        except ImageError as error:
            known = entry.embedded is None
            prefix = f"{shown(entry.image)}: "
            images[entry.image] = error if known else error.with_message(prefix, message_of(error))
    image = images[entry.image]
    if isinstance(image, ImageError):
        raise image
    return image


def _checked_mask(line: SourceLine) -> Mask:
    """Return the mask of a line, which is empty only where the line says that there is no target."""
    entry, where = line.line.entry, line.line.where
    if line.line.contradiction is not None:
        raise DatasetError(
            f"{where} has a mask, but {line.line.contradiction!r} is null, which says that the expression refers to "
            "nothing: leave one of them out"
        )
    mask = entry.mask()
    if not line.line.annotated:
        return mask
    if entry.box is not None and _share_inside(entry) < _INSIDE:
        raise DatasetError(f"{where}: most of the mask is outside of the image ({_sides(entry)})")
    if not mask.any():
        raise DatasetError(f"{where}: the mask is empty; write null if the expression refers to nothing")
    tight = box_of_mask(mask)
    if entry.box is not None and tight is not None and box_iou(tight, _whole_pixels(entry.box)) < _FITTING:
        raise DatasetError(
            f"{where}: {_sides(entry)} is not that of the mask, {', '.join(map(str, tight))}; a box is x0, y0, x1, y1 "
            "in pixels, and may be left out"
        )
    return mask


def _whole_pixels(box: FloatBox) -> FloatBox:
    """Return a box with all pixels that it touches: that of a thin polygon is narrower than its mask."""
    x0, y0, x1, y1 = box
    return math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1)


def _share_inside(entry: Entry) -> float:
    """Return the share of the box that lies in the image."""
    x0, y0, x1, y1 = entry.box or (0, 0, 0, 0)
    area = max(0.0, x1 - x0) * max(0.0, y1 - y0)
    width = max(0.0, min(x1, entry.size[1]) - max(x0, 0.0))
    height = max(0.0, min(y1, entry.size[0]) - max(y0, 0.0))
    return width * height / area if area > 0 else 1.0


def _sides(entry: Entry) -> str:
    return f"box {', '.join(f'{side:g}' for side in entry.box or ())} of {entry.size[1]} x {entry.size[0]} pixels"


def _digest(mask: Mask) -> str:
    return hashlib.sha256(np.packbits(mask).tobytes() + str(mask.shape).encode()).hexdigest()


def _iou(first: Mask, second: Mask) -> float:
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0
