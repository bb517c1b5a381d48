"""The safetensors format at the level of bytes: a canonical header, and the stored bytes of each tensor of a file.

The canonical file of some tensors holds them in the order of their names, without gaps and without other metadata, so
that equal tensors give equal files. Importing this module imports no PyTorch.
"""

import hashlib
import json
import math
import mmap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import numpy as np

from sspsam.checkpoints.tensor_shapes import Shape
from sspsam.config import IMAGE_ENCODERS
from sspsam.errors import CheckpointError
from sspsam.utils.paths import open_regular_file, shown
from sspsam.utils.progress import progress

ITEM_BYTES: Final = {"F32": 4, "F16": 2, "BF16": 2}
_LENGTH_BYTES: Final = 8  # of the header's length
_MAX_HEADER_BYTES: Final = 100_000_000  # as in the safetensors library


class TensorEntry(NamedTuple):
    """A tensor in the header of a file."""

    dtype: str  # a key of ITEM_BYTES
    shape: Shape

    @property
    def nbytes(self) -> int:
        """Size of the data."""
        return ITEM_BYTES[self.dtype] * math.prod(self.shape)


def _entry(content: Mapping[str, Any]) -> TensorEntry:
    """Return an entry of a header, checked."""
    if content["dtype"] not in ITEM_BYTES:
        raise ValueError(f"dtype {content['dtype']!r:.40}")
    return TensorEntry(content["dtype"], tuple(map(int, content["shape"])))


def is_of_encoders(name: str) -> bool:
    """True if a tensor of this name belongs to the image encoders."""
    return name.startswith(IMAGE_ENCODERS)


def header(entries: Mapping[str, TensorEntry]) -> bytes:
    """Return everything before the data: 8 bytes of length, then JSON padded with spaces to a multiple of 8 bytes."""
    content: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name in sorted(entries):
        end = start + entries[name].nbytes
        content[name] = {"dtype": entries[name].dtype, "shape": list(entries[name].shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def canonical_sha256(
    entries: Mapping[str, TensorEntry], data: Callable[[str], Any], task: str = "checking weights"
) -> str:
    """Return the SHA-256 of the canonical file of some tensors, which need not exist.

    Args:
        entries: by name.
        data: returns the bytes of a tensor.
        task: for the progress bar.
    """
    digest = hashlib.sha256(header(entries))
    with progress(task, sum(entry.nbytes for entry in entries.values())) as advance:
        for name in sorted(entries):
            digest.update(data(name))
            advance(entries[name].nbytes)
    return digest.hexdigest()


class TensorFile:
    """A safetensors file, mapped into memory; a context manager.

    Args:
        path: of a file whose structure the safetensors library has checked.

    Raises:
        CheckpointError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        try:
            with open_regular_file(path, CheckpointError) as file:
                length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
                content = json.loads(file.read(min(length, _MAX_HEADER_BYTES)))
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            content.pop("__metadata__", None)
            self.entries = {name: _entry(each) for name, each in content.items()}
            self._starts = {
                name: _LENGTH_BYTES + length + int(each["data_offsets"][0]) for name, each in content.items()
            }
        except (OSError, ValueError, LookupError, TypeError, ArithmeticError, AttributeError, RecursionError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"cannot read {shown(path)}: {shown(error)}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bytes.close()

    def stored(self, name: str) -> bytes:
        """Return the bytes of a tensor as they are stored."""
        start = self._starts[name]
        return self._bytes[start : start + self.entries[name].nbytes]

    def in_float32(self, name: str) -> bytes:
        """Return the bytes of a tensor after widening to float32."""
        data, dtype = self.stored(name), self.entries[name].dtype
        if dtype == "F16":
            return np.frombuffer(data, np.float16).astype(np.float32).tobytes()
        if dtype == "BF16":  # the upper half of a float32
            return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).tobytes()
        return data


def encoder_entries(shapes: Mapping[str, Shape]) -> dict[str, TensorEntry]:
    """Return the entries of the image encoders' tensors in float32, of a model whose tensors have these shapes."""
    return {name: TensorEntry("F32", shape) for name, shape in shapes.items() if is_of_encoders(name)}


def encoders_sha256(path: Path) -> str:
    """Return the digest of the image encoders' tensors in a file, see `sspsam.config.SharedEncoders`.

    Raises:
        CheckpointError: the file cannot be read, or its header does not fit its data.
    """
    with TensorFile(path) as file:
        entries = encoder_entries({name: entry.shape for name, entry in file.entries.items()})
        try:
            return canonical_sha256(entries, file.in_float32, f"checking {shown(path.name)}")
        except (ValueError, OverflowError) as error:  # sizes that do not fit
            raise CheckpointError(f"{shown(path)} is damaged: {shown(error)}") from error


def complete_sha256(weights: Path, encoders: Path) -> str:
    """Return the SHA-256 of the canonical file of a checkpoint whose tensors lie in two files.

    Args:
        weights: holds all tensors but those of the image encoders.
        encoders: holds these, which are taken in float32, and perhaps others.
    """
    with TensorFile(weights) as head, TensorFile(encoders) as other:
        shapes = {name: entry.shape for name, entry in other.entries.items()}
        entries = {**head.entries, **encoder_entries(shapes)}
        return canonical_sha256(
            entries,
            lambda name: other.in_float32(name) if is_of_encoders(name) else head.stored(name),
            f"checking {shown(weights.name)}",
        )


def total_bytes(entries: Iterable[TensorEntry]) -> int:
    """Return the size of the data of some tensors."""
    return sum(entry.nbytes for entry in entries)
