"""The tensors of a TorchScript archive, such as the authors' `CS-*.pt`; no code in the archive is read or run.

Such an archive is a zip file with the records `data.pkl` (the module as a tree of attributes), `data/<number>` (tensor
data), `constants.pkl` and `code/` (both are not needed). The names of the tensors are the paths of the attributes, as
in the module's `state_dict`.
"""

import math
import re
import zipfile
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from sspsam.checkpoints.archive_check import CheckedArchive, check_archive
from sspsam.checkpoints.pickle_check import check_pickle
from sspsam.checkpoints.pickle_values import Call, Global, Instance, Reference, read_values
from sspsam.errors import CheckpointError
from sspsam.utils.paths import shown

_MAX_PARTS: Final = 50_000  # modules and attributes; CLIP has a few thousand
_REBUILD: Final = "torch._utils._rebuild_tensor_v2"
_DTYPES: Final[Mapping[str, torch.dtype]] = {
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
_NAMES: Final = re.compile(r"__torch__(\.\w+)+|torch\.jit\._pickle\.\w+")  # types of the archive itself, and its lists


class _AllowedNames(Container[str]):
    """The names that the pickle of a TorchScript archive may have; none of them is ever looked up."""

    def __contains__(self, name: object) -> bool:
        text = str(name)
        return text in _DTYPES or text in (_REBUILD, "collections.OrderedDict") or _NAMES.fullmatch(text) is not None


def is_torchscript(path: Path) -> bool:
    """True if a file is a zip archive with the records of TorchScript."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except Exception:  # zipfile raises many kinds for damaged archives; `check_archive` describes them
        return False


def read_torchscript_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a TorchScript archive by their names in the module's `state_dict`.

    Raises:
        CheckpointNotFoundError: no such file.
        UnsafeCheckpointError: the pickle names a class or function that no such archive needs; nothing was run.
        CheckpointError: damaged, or not such an archive.
    """
    archive = check_archive(path, is_script=True)
    check_pickle(archive.index, _AllowedNames(), path)
    try:
        calls = _tensor_calls(read_values(archive.index))
        with zipfile.ZipFile(path) as records:
            reader = _TensorReader(records, archive)
            return {name: reader.tensor(call.arguments) for name, call in calls.items()}
    except CheckpointError as error:
        raise CheckpointError(f"{shown(path)}: {error}") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise CheckpointError(f"{shown(path)} is damaged: {type(error).__name__}: {shown(error)}") from error


def _tensor_calls(root: Any) -> dict[str, Call]:
    """The calls that would make the tensors of a module and of its submodules, by name."""
    calls: dict[str, Call] = {}
    pending, parts = [("", root)], 0
    while pending:
        prefix, module = pending.pop()
        attributes = module.state if isinstance(module, Instance) and isinstance(module.state, dict) else {}
        parts += 1 + len(attributes)
        if parts > _MAX_PARTS:
            raise CheckpointError("its module has more parts than any CLIP")
        for name, value in attributes.items():
            if isinstance(value, Instance):
                pending.append((f"{prefix}{name}.", value))
            elif isinstance(value, Call) and value.function == Global(_REBUILD):
                calls[f"{prefix}{name}"] = value
    if not calls:
        raise CheckpointError("the archive holds no module with tensors")
    return calls


class _TensorReader:
    """Reads tensors from the records of an archive; several tensors can be views of one record."""

    def __init__(self, records: zipfile.ZipFile, archive: CheckedArchive) -> None:
        self._records = records
        self._folder = archive.folder
        self._storages: dict[tuple[str, torch.dtype], Tensor] = {}

    def tensor(self, arguments: Any) -> Tensor:
        """Return the tensor that `_rebuild_tensor_v2` would build from these arguments."""
        reference, offset, shape, strides = arguments[:4]
        numbers = (offset, *shape, *strides)
        if len(shape) != len(strides) or not all(type(number) is int and 0 <= number < 1 << 40 for number in numbers):
            raise CheckpointError("a tensor has an impossible shape")
        storage = self._storage(reference)
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if math.prod(shape) > storage.numel() or (math.prod(shape) and last >= storage.numel()):
            raise CheckpointError(f"a tensor claims shape {list(shape)[:10]}, more than the file holds")
        return storage.as_strided(shape, strides, offset)

    def _storage(self, reference: Any) -> Tensor:
        if not isinstance(reference, Reference) or not isinstance(reference.content, tuple):
            raise CheckpointError("a tensor has no data")
        _, kind, key, _, claimed = reference.content
        dtype = _DTYPES.get(kind.name) if isinstance(kind, Global) else None
        if dtype is None or not isinstance(key, str) or type(claimed) is not int:
            raise CheckpointError("a tensor has data of an unknown kind")
        if (key, dtype) not in self._storages:
            data = bytearray(self._records.read(f"{self._folder}data/{key}"))
            self._storages[key, dtype] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        storage = self._storages[key, dtype]
        if not 0 <= claimed <= storage.numel():
            raise CheckpointError("its data.pkl claims sizes that its records do not have")
        return storage
