"""The images of `POST /v1/images`: embeddings by id, bounded in number, bytes and age."""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from sspsam.errors import RefusalError
from sspsam.images.embedding import ImageEmbedding
from sspsam.serving.options import ServeOptions
from sspsam.utils.paths import shown_repr

_PREPARED_SHARE = 3  # a prepared embedding, which the predictor keeps for recent images, takes about twice its size


@dataclass
class _Entry:
    embedding: ImageEmbedding
    size: int  # bytes
    expires: float


class ImageStore:
    """Embeddings by id; threads may share it.

    Args:
        options: with the limits.
        clock: seconds.
    """

    def __init__(self, options: ServeOptions, clock: Callable[[], float] = time.monotonic) -> None:
        self._options, self._clock = options, clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # the least recently used first
        self._lock = threading.Lock()
        self.size = 0  # bytes

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, embedding: ImageEmbedding) -> str:
        """Keep an embedding, and return an id that cannot be guessed.

        Raises:
            RefusalError: 413, the embedding alone is larger than the limit.
        """
        size = _PREPARED_SHARE * (embedding.clip_features.nbytes + embedding.sam_embedding.nbytes)
        if size > self._options.max_image_memory:
            message = f"an embedding of this model takes {size:,} bytes, more than the server keeps for all images"
            raise RefusalError(message, status=413, kind="StoreTooSmall")
        name = self._options.replica + secrets.token_urlsafe(16)
        with self._lock:
            self._remove_expired()
            self._entries[name] = _Entry(embedding, size, self._clock() + self._options.image_expiry)
            self.size += size
            while len(self) > self._options.max_images or self.size > self._options.max_image_memory:
                self._remove(next(iter(self._entries)))
        return name

    def get(self, name: str) -> ImageEmbedding:
        """Return an embedding, whose expiry begins anew.

        Raises:
            RefusalError: 404, there is no such image, or no longer.
        """
        with self._lock:
            self._remove_expired()
            entry = self._entries.get(name)
            if entry is None:
                raise self._unknown(name)
            entry.expires = self._clock() + self._options.image_expiry
            self._entries.move_to_end(name)
            return entry.embedding

    def remove(self, name: str) -> None:
        """Remove an image.

        Raises:
            RefusalError: 404, there is no such image.
        """
        with self._lock:
            if name not in self._entries:
                raise self._unknown(name)
            self._remove(name)

    def remove_expired(self) -> None:
        """Remove all images that were not used for a time."""
        with self._lock:
            self._remove_expired()

    def _remove_expired(self) -> None:
        now = self._clock()
        # the order of use is the order of expiry
        while self._entries and next(iter(self._entries.values())).expires <= now:
            self._remove(next(iter(self._entries)))

    def _remove(self, name: str) -> None:
        self.size -= self._entries.pop(name).size

    def _unknown(self, name: str) -> RefusalError:
        return RefusalError(
            f"there is no image {shown_repr(name)}: images are removed {self._options.image_expiry:g} s after their "
            "last use, and when newer ones need their place. Post the image again.",
            status=404,
            kind="UnknownImage",
        )
