"""Embeddings on disk, so that a later question about an image costs no encoder pass, in any process.

The cache holds one safetensors file for each image. The key of an entry covers everything that the embedding depends
on: the bytes of the image file (the pixels, where there is no file), the fingerprint of the image encoders, which
covers the preprocessing, and the precision, so that all models with the same encoders share the entries. Entries are
stored in a precision of their own; a new embedding is rounded to that precision too, so that no answer depends on cache
hits.
"""

import hashlib
import os
import re
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
from sspsam.images.embedding import pack_embedding, unpack_embedding
from sspsam.messages import OptionMessage, message_of
from sspsam.models import ImageFeatures
from sspsam.utils.arguments import whole_number
from sspsam.utils.files import make_directory, replace_file
from sspsam.utils.paths import user_path

_KEY_VERSION: Final = "2"  # part of every key; changes when the same bytes would give another embedding
_EARLIER_KEY_VERSION: Final = "1"  # of keys with the fingerprint of the whole model; such entries are read, not written
_FILL_AFTER_EVICTION: Final = 0.9  # share of max_bytes that an eviction leaves in use
_RESCAN_FRACTION: Final = 0.05  # rescan the folder after writing this share of max_bytes, for other processes' entries
_ENTRY_NAME: Final = re.compile(r"[0-9a-f]{64}\.safetensors")  # a key
_STALE_SECONDS: Final = 3600.0  # age at which a temporary file is taken for the leftover of a crash


class EmbeddingCache:
    """A folder of embeddings; processes and threads may share it.

    Args:
        directory: created when the first embedding is stored.
        max_bytes: size at which the least recently used embeddings are removed; None: no limit.
        dtype: of the stored tensors: float32 is exact, float16 and bfloat16 take half the space.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        max_bytes: int | None = None,
        dtype: str | torch.dtype = "float32",
    ) -> None:
        if max_bytes is not None:
            max_bytes = whole_number("max_bytes", max_bytes, 1)
        self.directory = user_path(directory, "the embedding cache", StorageError)
        self.max_bytes = max_bytes
        self.dtype = checked_dtype(dtype)
        self._lock = threading.Lock()
        self._bytes = 0
        self._bytes_since_scan: float | None = None  # None: the folder was not scanned yet
        self._has_warned = False

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(EmbeddingCache, max_bytes=self.max_bytes, dtype=self.dtype), (self.directory,)

    def key(self, digest: str, fingerprint: str, precision: str) -> str:
        """Return the key of an entry.

        Args:
            digest: of the image.
            fingerprint: of the image encoders.
            precision: of the model and its kind of device, see `PredictorIdentity.precision`.
        """
        return self._key(_KEY_VERSION, digest, fingerprint, precision)

    def earlier_key(self, digest: str, fingerprint: str, precision: str) -> str:
        """Return the key that earlier versions of sspsam gave an entry, whose `fingerprint` is that of the model."""
        return self._key(_EARLIER_KEY_VERSION, digest, fingerprint, precision)

    def _key(self, *parts: str) -> str:
        parts = (*parts, dtype_name(self.dtype))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def rounded(self, features: ImageFeatures) -> ImageFeatures:
        """Return the features with the values that a cache hit gives; unchanged if a value overflows in `dtype`."""
        rounded = ImageFeatures(*(tensor.to(self.dtype).float() for tensor in features))
        return rounded if all(bool(tensor.isfinite().all()) for tensor in rounded) else features

    def load(self, key: str, size: tuple[int, int], fingerprint: str) -> ImageFeatures | None:
        """Return the features of an entry on a cache hit, None on a miss.

        A damaged entry is removed with a warning and counts as a miss.

        Args:
            key: from `key`.
            size: height and width of the image.
            fingerprint: that the key was made with.
        """
        path = self._path(key)
        if not os.path.exists(path):
            return None
        try:
            metadata, tensors = unpack_embedding(path)
            expected = _metadata(key, size, fingerprint)
            if {name: metadata.get(name) for name in expected} != expected:
                raise EmbeddingError(f"{path} belongs to another image or model")
            if any(tensor.dtype != self.dtype for tensor in tensors.values()):
                raise EmbeddingError(f"{path} holds tensors of another dtype than {dtype_name(self.dtype)}")
        except EmbeddingError as error:
            if not os.path.exists(path):
                return None  # another process has removed it in the meantime
            warn(OptionMessage("a cached embedding is removed and the image is encoded again: ", message_of(error)))
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):  # a read-only cache still gives hits
            os.utime(path)
        return ImageFeatures(tensors["clip_features"].float(), tensors["sam_embedding"].float())

    def store(self, key: str, features: ImageFeatures, size: tuple[int, int], fingerprint: str) -> None:
        """Store features. If they cannot be written, one warning is given and the answers do not change.

        Args:
            key, size, fingerprint: as in `load`.
            features: from `rounded`.
        """
        clip_features, sam_embedding = (tensor.to(self.dtype) for tensor in features)
        if not (clip_features.isfinite().all() and sam_embedding.isfinite().all()):
            return
        data = pack_embedding(clip_features, sam_embedding, _metadata(key, size, fingerprint))
        try:
            if self.max_bytes is not None and len(data) > self.max_bytes:
                raise StorageError(f"an embedding has {len(data):,} bytes, more than max_bytes = {self.max_bytes:,}")
            path = self._path(key)
            make_directory(path.parent)
            replace_file(path, data)
        except StorageError as error:
            if not self._has_warned:
                self._has_warned = True
                warn(OptionMessage("embeddings are not stored in the cache: ", message_of(error)))
            return
        with self._lock:
            self._maintain(len(data))

    def _maintain(self, written: int) -> None:
        """Remove leftovers of crashes at the first write, and evict entries when the cache may exceed its limit."""
        is_first_write = self._bytes_since_scan is None
        self._bytes_since_scan = (self._bytes_since_scan or 0) + written
        self._bytes += written
        if is_first_write:
            self._remove_stale_files()
        if self.max_bytes is not None and (
            is_first_write or self._bytes > self.max_bytes or self._bytes_since_scan > _RESCAN_FRACTION * self.max_bytes
        ):
            self._bytes_since_scan = 0
            self._evict(self.max_bytes)

    def _path(self, key: str) -> Path:
        return self.directory / key[:2] / f"{key}.safetensors"

    def _evict(self, limit: int) -> None:
        """Count the bytes of all entries; above the limit remove the least recently used ones."""
        entries = sorted(self._entries())
        self._bytes = sum(size for _, size, _ in entries)
        if self._bytes <= limit:
            return
        for _, size, path in entries:
            if self._bytes <= _FILL_AFTER_EVICTION * limit:
                break
            with suppress(OSError):
                path.unlink()
            self._bytes -= size

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """Yield the time of the last use, the bytes and the path of each entry; other files are never touched."""
        for path in self.directory.glob("[0-9a-f][0-9a-f]/*.safetensors"):
            if not _ENTRY_NAME.fullmatch(path.name):
                continue
            with suppress(OSError):
                status = path.stat()
                yield status.st_mtime, status.st_size, path

    def _remove_stale_files(self) -> None:
        for path in self.directory.glob("[0-9a-f][0-9a-f]/.sspsam-*.tmp"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    path.unlink()


def _metadata(key: str, size: tuple[int, int], fingerprint: str) -> dict[str, str]:
    return {"key": key, "height": str(size[0]), "width": str(size[1]), "fingerprint": fingerprint}
