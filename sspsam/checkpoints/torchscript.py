"""The tensors of a TorchScript archive, such as the authors' `CS-*.pt`; no code in the archive is read or run.

Such an archive is a zip file with the records `data.pkl` (the module as a tree of attributes), `data/<number>` (tensor
data), `constants.pkl` and `code/` (both are not needed). The names of the tensors are the paths of the attributes, as
in the module's `state_dict`.
"""

import re
import zipfile
from collections.abc import Container
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from sspsam.checkpoints.archive_check import check_archive
from sspsam.checkpoints.archive_tensors import STORAGES, TensorReader, is_tensor
from sspsam.checkpoints.pickle_check import check_pickle
from sspsam.checkpoints.pickle_names import ORDERED_DICT, REBUILD_TENSOR
from sspsam.checkpoints.pickle_values import Unbuilt, read_values
from sspsam.errors import CheckpointError
from sspsam.utils.paths import shown

_MAX_PARTS: Final = 50_000  # modules and attributes; CLIP has a few thousand
_MAX_DEPTH: Final = 50  # of modules in modules
_NAMES: Final = re.compile(r"__torch__(\.\w+)+|torch\.jit\._pickle\.\w+")  # types of the archive itself, and its lists


class _AllowedNames(Container[str]):
    """The names that the pickle of a TorchScript archive may have; none of them is ever looked up."""

    def __contains__(self, name: object) -> bool:
        text = str(name)
        return text in STORAGES or text in (REBUILD_TENSOR, ORDERED_DICT) or _NAMES.fullmatch(text) is not None


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
        reader = TensorReader(path, archive)
        return {name: reader.named(name, value) for name, value in _tensors(read_values(archive.index)).items()}
    except CheckpointError as error:
        raise CheckpointError(f"{shown(path)}: {error}") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise CheckpointError(f"{shown(path)} is damaged: {type(error).__name__}: {shown(error)}") from error


def _tensors(root: Any) -> dict[str, Unbuilt]:
    """The values that stand for the tensors of a module and of its submodules, by name."""
    tensors: dict[str, Unbuilt] = {}
    pending, parts = [("", root)], 0
    while pending:
        prefix, module = pending.pop()
        attributes = module.state if isinstance(module, Unbuilt) and isinstance(module.state, dict) else {}
        parts += 1 + len(attributes)
        if parts > _MAX_PARTS or prefix.count(".") > _MAX_DEPTH:
            raise CheckpointError("its module has more parts than any CLIP")
        for name, value in attributes.items():
            if not isinstance(name, str):
                raise CheckpointError("its module has something other than a name as a key")
            if is_tensor(value):
                tensors[f"{prefix}{name}"] = value
            elif isinstance(value, Unbuilt):
                pending.append((f"{prefix}{name}.", value))
    if not tensors:
        raise CheckpointError("the archive holds no module with tensors")
    return tensors
