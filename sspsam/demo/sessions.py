"""The encoded image of each open page: bounded in number, bytes and age, and never shared between pages."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from sspsam.demo.limits import Limits
from sspsam.images.embedding import ImageEmbedding


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """An encoded image and the time that it took.

    Args:
        digest: SHA-256 of the file.
        embedding: of the image, with its pixels.
        decode_seconds: from the file to pixels.
        encode_seconds: from pixels to the embedding.
        is_shown_by_browsers: whether browsers can show the file itself.
    """

    digest: str
    embedding: ImageEmbedding
    decode_seconds: float
    encode_seconds: float
    is_shown_by_browsers: bool = True

    @property
    def nbytes(self) -> int:
        """Memory of embedding and pixels."""
        pixels = self.embedding.pixels
        tensors = self.embedding.clip_features.nbytes + self.embedding.sam_embedding.nbytes
        return tensors + (0 if pixels is None else pixels.nbytes)


class SessionStore:
    """The latest encoded image of each session, for several threads.

    Args:
        limits: of number, bytes and age.
        clock: seconds; replaced by tests.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._lock = threading.Lock()
        self._images: OrderedDict[str, tuple[EncodedImage, float]] = OrderedDict()  # the latest used last

    def get(self, session: str, digest: str) -> EncodedImage | None:
        """Return the image of a session if it is the one of the digest, and note its use."""
        with self._lock:
            self._drop_expired()
            image, _ = self._images.get(session, (None, 0.0))
            if image is None or image.digest != digest:
                return None
            self._keep(session, image)
            return image

    def put(self, session: str, image: EncodedImage) -> None:
        """Keep the image of a session instead of its earlier one; drop what is beyond the limits."""
        with self._lock:
            self._drop_expired()
            self._keep(session, image)
            while len(self._images) > self._limits.max_sessions or self._nbytes() > self._limits.max_session_bytes:
                self._images.popitem(last=False)

    def drop(self, session: str) -> None:
        """Release the image of a session."""
        with self._lock:
            self._images.pop(session, None)

    def __len__(self) -> int:
        with self._lock:
            self._drop_expired()
            return len(self._images)

    def _keep(self, session: str, image: EncodedImage) -> None:
        self._images[session] = image, self._clock()
        self._images.move_to_end(session)

    def _nbytes(self) -> int:
        return sum(image.nbytes for image, _ in self._images.values())

    def _drop_expired(self) -> None:
        oldest = self._clock() - self._limits.session_seconds
        for session in [name for name, (_, used) in self._images.items() if used < oldest]:
            del self._images[session]
