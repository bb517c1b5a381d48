"""The tensors of an archive that `torch.save` or TorchScript wrote, mapped into memory; nothing in it is run."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from sspsam.checkpoints.archive_check import CheckedArchive
from sspsam.checkpoints.pickle_names import REBUILD_PARAMETER, REBUILD_TENSOR
from sspsam.checkpoints.pickle_values import Global, Reference, Unbuilt
from sspsam.errors import CheckpointError
from sspsam.utils.paths import shown

STORAGES: Final[Mapping[str, torch.dtype]] = {
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
_MAX_SHOWN: Final = 10  # dimensions in an error


def is_tensor(value: Any) -> bool:
    """True if a value of a pickle stands for a tensor or a parameter."""
    return isinstance(value, Unbuilt) and value.maker in (Global(REBUILD_TENSOR), Global(REBUILD_PARAMETER))


class TensorReader:
    """Maps tensors from the records of an archive; several tensors can be views of one record."""

    def __init__(self, path: Path, archive: CheckedArchive) -> None:
        self._archive = archive
        self._bytes = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
        self._storages: dict[tuple[str, torch.dtype], Tensor] = {}

    def named(self, name: str, value: Unbuilt) -> Tensor:
        """Return the tensor that a value stands for which `is_tensor`.

        Args:
            name: of the tensor, for errors.
            value: of the pickle.

        Raises:
            CheckpointError: it claims more than its record holds, or is no tensor that PyTorch writes.
        """
        try:
            return self._tensor(value)
        except Exception as error:  # a damaged pickle can raise anything
            problem = error if isinstance(error, CheckpointError) else f"is damaged: {shown(error)}"
            raise CheckpointError(f"tensor '{shown(name)}' {problem}") from error

    def _tensor(self, value: Unbuilt) -> Tensor:
        if value.maker == Global(REBUILD_PARAMETER):
            value = value.arguments[0]
        if not is_tensor(value) or value.state is not None or value.entries:
            raise CheckpointError("is no plain tensor")
        reference, offset, shape, strides = value.arguments[:4]
        numbers = (offset, *shape, *strides)
        if len(shape) != len(strides) or not all(type(number) is int and 0 <= number < 1 << 40 for number in numbers):
            raise CheckpointError("has an impossible shape")
        storage = self._storage(reference)
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if math.prod(shape) > storage.numel() or (math.prod(shape) and last >= storage.numel()):
            raise CheckpointError(f"claims shape {list(shape)[:_MAX_SHOWN]}, more than the file holds")
        return storage.as_strided(shape, strides, storage.storage_offset() + offset)

    def _storage(self, reference: Any) -> Tensor:
        if not isinstance(reference, Reference) or not isinstance(reference.content, tuple):
            raise CheckpointError("has no data")
        _, kind, key, _, claimed = reference.content
        dtype = STORAGES.get(kind.name) if isinstance(kind, Global) else None
        if dtype is None or not isinstance(key, str) or type(claimed) is not int:
            raise CheckpointError("has data of an unknown kind")
        if (key, dtype) not in self._storages:
            self._storages[key, dtype] = self._typed_record(key, dtype)
        storage = self._storages[key, dtype]
        if not 0 <= claimed <= storage.numel():
            raise CheckpointError("is damaged: its data.pkl claims sizes that its records do not have")
        return storage

    def _typed_record(self, key: str, dtype: torch.dtype) -> Tensor:
        record = self._archive.records.get(key)
        if record is None:
            raise CheckpointError("is damaged: the file does not hold its data")
        start, size = record
        data = self._bytes[start : start + size // dtype.itemsize * dtype.itemsize]
        aligned = start % dtype.itemsize == 0
        return (data if aligned else data.clone()).view(dtype)
