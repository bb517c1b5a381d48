"""Conversion of the authors' `.pth` checkpoints to the library's own format; nothing that such a file names is run.

A `.pth` file is a pickle inside a zip archive. Before anything is unpickled, the archive's structure is checked and
every class and function that the pickle names is compared with a short list; the file's tensors are mapped, not read.
"""

import logging
import os
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from sspsam.checkpoints.archive_check import check_archive
from sspsam.checkpoints.authors_layout import our_name, read_architecture, unused
from sspsam.checkpoints.directory import require_same_tensors
from sspsam.checkpoints.pickle_check import check_pickle
from sspsam.checkpoints.saving import save_checkpoint
from sspsam.checkpoints.tensor_shapes import tensor_shapes
from sspsam.config import ModelConfig
from sspsam.devices import dtype_name
from sspsam.errors import CheckpointError


class _Ignored:
    """Stands in for objects that a training run saves beside the tensors: it accepts any arguments and keeps none."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


# training options, and NumPy numbers under the names of NumPy 2 and 1; their values are not needed, so an `_Ignored` is
# made in their place and no code of argparse or NumPy sees the file's content
_EXTRAS: Final = (
    "argparse.Namespace",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
)
_STORAGES: Final = ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Short", "Char", "Byte", "Bool")
_DTYPES: Final = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
# less than `weights_only` allows: that also calls constructors that allocate as much memory as the file demands
_ALLOWED: Final = frozenset(
    [
        *_EXTRAS,
        *(f"torch.{kind}Storage" for kind in _STORAGES),
        *(f"torch.{kind}" for kind in _DTYPES),
        "_codecs.encode",  # NumPy's bytes
        "__builtin__.set",
        "collections.Counter",
        "collections.OrderedDict",
        "torch.Size",
        "torch.device",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_tensor_v2",
    ]
)

_LOG: Final = logging.getLogger(__name__)
_LOADING: Final = threading.Lock()  # torch.serialization.safe_globals changes the whole process


def convert_checkpoint(
    checkpoint: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    dtype: str | torch.dtype = "float32",
    source: str | None = None,
    license: str | None = None,  # named as the entry of config.json
) -> ModelConfig:
    """Convert a checkpoint in the authors' layout to a directory in the library's own format.

    The architecture is inferred from the shapes of the tensors (`docs/method.md`, section 6).

    Args:
        checkpoint: a `.pth` file, with or without `optimizer`, `args` and other entries of a training run, with names
            of the attention weights from before or after CLIP's surgery.
        out_dir: created if it does not exist.
        dtype: of the stored weights: `"float32"`, `"float16"` or `"bfloat16"`. Loading widens them to float32.
        source: origin of the weights, a free text for readers; None: the file's name.
        license: of the weights; None: unknown.

    Returns:
        The configuration that was written.

    Raises:
        CheckpointNotFoundError: no such file.
        UnsafeCheckpointError: the pickle names a class or function that no checkpoint needs; nothing was run.
        CheckpointError: damaged, incomplete, or not an SSP-SAM checkpoint.
        StorageError: `out_dir` cannot be written, or has too little space.
    """
    dtype = dtype_name(dtype)
    path = Path(checkpoint)
    authors_state = read_authors_state(path)
    unused_tensors = unused(authors_state)
    _log_unused(unused_tensors)
    try:
        architecture = read_architecture(_shapes(authors_state))
        state = _renamed(authors_state, unused_tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    require_same_tensors(tensor_shapes(architecture), _shapes(state), str(path))
    config = ModelConfig(architecture, source=source or path.name, license=license or "unknown")
    return save_checkpoint(out_dir, config, state, dtype)


def read_authors_state(path: Path) -> dict[str, Tensor]:
    """Map the tensors of an authors' checkpoint; returns them by the authors' names.

    Raises:
        CheckpointNotFoundError, UnsafeCheckpointError, CheckpointError: as `convert_checkpoint`.
    """
    archive = check_archive(path)
    check_pickle(archive.index, _ALLOWED, path)
    try:
        with _LOADING, torch.serialization.safe_globals([(_Ignored, name) for name in _EXTRAS]):
            content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}: {str(error)[:300]}") from error
    tensors = {name: _checked_tensor(tensor, name, path) for name, tensor in _model_entries(content, path).items()}
    sizes = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors.values()}
    if Counter(sizes.values()) - archive.tensor_sizes:
        raise CheckpointError(f"{path} is damaged: its index claims sizes that its records do not have")
    return tensors


def _model_entries(content: Any, path: Path) -> dict[str, Any]:
    """The entries of the model's state, without the prefix that `DataParallel` adds."""
    # dict's own methods: the file can give an OrderedDict attributes that hide them
    state = dict.get(content, "model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not dict.__len__(state):
        raise CheckpointError(f"{path} holds no 'model' state; it is not an SSP-SAM checkpoint")
    prefix = "module." if all(str(name).startswith("module.") for name in dict.keys(state)) else ""
    entries: dict[str, Any] = {}
    for name, value in dict.items(state):
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path}: entry {str(name)[:80]!r} of the state is a {type(value).__name__}, not a tensor"
            )
        entries[name.removeprefix(prefix)] = value
    return entries


def _checked_tensor(tensor: Tensor, name: str, path: Path) -> Tensor:
    name = name[:200]
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or not tensor.dtype.is_floating_point:
        raise CheckpointError(f"{path}: tensor {name!r} is {tensor.dtype}, {tensor.layout}; floating point is expected")
    if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
        # strides of 0 would let a small file claim terabytes
        raise CheckpointError(f"{path}: tensor {name!r} claims shape {list(tensor.shape)}, more than the file holds")
    return tensor.detach()


def _log_unused(unused_tensors: Mapping[str, str]) -> None:
    for reason in dict.fromkeys(unused_tensors.values()):
        names = [name for name in unused_tensors if unused_tensors[name] == reason]
        _LOG.info("left out: %s (%s)", ", ".join(names), reason)


def _renamed(authors_state: Mapping[str, Tensor], unused_tensors: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors by the library's names, without the unused ones."""
    state: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, tensor in authors_state.items():
        if name in unused_tensors:
            continue
        new_name = our_name(name)
        if new_name is None:
            unknown.append(name[:200])
        elif new_name in state:
            raise CheckpointError(f"the checkpoint holds {new_name[:200]} twice, the second time as {name[:200]!r}")
        else:
            state[new_name] = tensor
    if unknown:
        raise CheckpointError(f"the checkpoint has {len(unknown)} tensors of no known use: {', '.join(unknown[:10])}")
    return state


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
