"""Embeddings on disk, so that the second question about a picture costs no encoder pass, in any process.

One safetensors file a picture, named after what its embedding depends on: the bytes of the picture's file (the pixels,
where there is none), the model's fingerprint, which covers the preprocessing, and the precision. Stored in a precision
of its own; a fresh embedding is rounded like a stored one, so that no answer depends on what is in the cache.
"""

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

from sspsam.devices import checked_dtype, dtype_name
from sspsam.errors import EmbeddingError, StorageError, warn
from sspsam.images.embedding import pack, unpack
from sspsam.models import ImageFeatures
from sspsam.utils.files import make_directory, replace_file

_LAYOUT: Final = "1"  # changes when the same bytes would give another embedding
_KEPT: Final = 0.9  # of the limit, when old entries have to go
_UNSEEN: Final = 0.05  # of the limit, that is written before a look at what other processes wrote
_ABANDONED: Final = 3600.0  # seconds after which a file that was never finished is nobody's


class EmbeddingCache:
    """A folder of embeddings; processes and threads may share it.

    Args:
        directory: made when the first embedding is stored.
        max_bytes: the least recently used embeddings are removed when there is more; None: no limit.
        dtype: of the stored tensors: float32 loses nothing, float16 and bfloat16 take half the space.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        max_bytes: int | None = None,
        dtype: str | torch.dtype = "float32",
    ) -> None:
        if max_bytes is not None and max_bytes < 1:
            raise ValueError(f"max_bytes is a number of bytes or None, not {max_bytes}")
        self.directory = Path(directory)
        self.max_bytes = max_bytes
        self.dtype = checked_dtype(dtype)
        self._lock = threading.Lock()
        self._bytes = 0
        self._unseen: float | None = None  # bytes written since the last look; None: there was none yet
        self._complained = False

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(EmbeddingCache, max_bytes=self.max_bytes, dtype=self.dtype), (self.directory,)

    def key(self, digest: str, fingerprint: str, precision: str) -> str:
        """The name of an entry.

        Args:
            digest: of the picture.
            fingerprint: of the model.
            precision: that the model computes in, and where.
        """
        parts = (_LAYOUT, digest, fingerprint, precision, dtype_name(self.dtype))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def rounded(self, features: ImageFeatures) -> ImageFeatures:
        """The features as they come back from a file; what does not fit into the precision is left as it is."""
        rounded = ImageFeatures(*(tensor.to(self.dtype).float() for tensor in features))
        return rounded if all(bool(tensor.isfinite().all()) for tensor in rounded) else features

    def load(self, key: str, size: tuple[int, int], fingerprint: str) -> ImageFeatures | None:
        """The features of an entry, None where there is none.

        Args:
            key: from `key`.
            size: height and width of the picture.
            fingerprint: of the model.
        """
        path = self._path(key)
        if not _is_there(path):
            return None
        try:
            about, tensors = unpack(path)
            expected = {"key": key, "height": str(size[0]), "width": str(size[1]), "fingerprint": fingerprint}
            if {name: about.get(name) for name in expected} != expected:
                raise EmbeddingError(f"{path} belongs to another picture or model")
            if any(tensor.dtype != self.dtype for tensor in tensors.values()):
                raise EmbeddingError(f"{path} is not of {dtype_name(self.dtype)}")
        except EmbeddingError as error:
            if not _is_there(path):
                return None  # removed by another process in the meantime
            warn(f"an embedding in the cache is removed and made again: {error}")
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):  # a cache that may not be written still serves
            os.utime(path)
        return ImageFeatures(tensors["clip_features"].float(), tensors["sam_embedding"].float())

    def store(self, key: str, features: ImageFeatures, size: tuple[int, int], fingerprint: str) -> None:
        """Keep features. What cannot be written is warned of once, and costs nothing but time.

        Args:
            key, size, fingerprint: as in `load`.
            features: as `rounded` returns them.
        """
        clip, sam = (tensor.to(self.dtype) for tensor in features)
        if not (clip.isfinite().all() and sam.isfinite().all()):
            return
        about = {"key": key, "height": str(size[0]), "width": str(size[1]), "fingerprint": fingerprint}
        data = pack(clip, sam, about)
        try:
            if self.max_bytes is not None and len(data) > self.max_bytes:
                raise StorageError(f"an embedding has {len(data):,} bytes, more than max_bytes = {self.max_bytes:,}")
            path = self._path(key)
            make_directory(path.parent)
            replace_file(path, data)
        except StorageError as error:
            if not self._complained:
                self._complained = True
                warn(f"embeddings are not kept: {error}")
            return
        with self._lock:
            self._tidy_up(len(data))

    def _tidy_up(self, written: int) -> None:
        """Once so many bytes are written: remove what a crash left, and what there is no room for."""
        first = self._unseen is None
        self._unseen = (self._unseen or 0) + written
        self._bytes += written
        if first:
            self._remove_abandoned()
        if self.max_bytes is not None and (
            first or self._bytes > self.max_bytes or self._unseen > _UNSEEN * self.max_bytes
        ):
            self._unseen = 0
            self._evict(self.max_bytes)

    def _path(self, key: str) -> Path:
        return self.directory / key[:2] / f"{key}.safetensors"

    def _evict(self, limit: int) -> None:
        """Count what is there, and remove the least recently used until there is room."""
        entries = sorted(self._entries())
        self._bytes = sum(size for _, size, _ in entries)
        if self._bytes <= limit:
            return
        for _, size, path in entries:
            if self._bytes <= _KEPT * limit:
                break
            with suppress(OSError):
                path.unlink()
            self._bytes -= size

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """When each entry was used last, its bytes and place."""
        for path in self.directory.glob("[0-9a-f][0-9a-f]/*.safetensors"):
            with suppress(OSError):
                status = path.stat()
                yield status.st_mtime, status.st_size, path

    def _remove_abandoned(self) -> None:
        for path in self.directory.glob("[0-9a-f][0-9a-f]/.sspsam-*"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED:
                    path.unlink()


def _is_there(path: Path) -> bool:
    """Whether a file is there and may be seen."""
    try:
        return path.exists()
    except OSError:
        return False
