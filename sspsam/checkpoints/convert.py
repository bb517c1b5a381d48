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
from sspsam.checkpoints.saving import check_destination, save_checkpoint
from sspsam.checkpoints.tensor_shapes import tensor_shapes
from sspsam.checkpoints.torchscript import is_torchscript, read_torchscript_state
from sspsam.config import ModelConfig
from sspsam.devices import dtype_name
from sspsam.errors import CheckpointError, CheckpointNotFoundError, StorageError, UnsafeCheckpointError
from sspsam.utils.paths import shown, user_path


class _Ignored:
    """Stands in for objects that a training run saves beside the tensors: it accepts any arguments and keeps none."""

    name = ""  # of the class or function whose place it takes

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


# training options, paths (also under the name of Python 3.13), and NumPy numbers and arrays under the names of NumPy 2
# and 1; their values are not needed, so an `_Ignored` is made in their place and no code of argparse, pathlib or NumPy
# sees the file's content
_EXTRAS: Final = (
    "argparse.Namespace",
    *(
        f"pathlib{part}.{kind}Path"
        for part in ("", "._local")
        for kind in ("", "Pure", "Posix", "Windows", "PurePosix", "PureWindows")
    ),
    *(f"numpy.{core}.multiarray.{name}" for core in ("_core", "core") for name in ("scalar", "_reconstruct")),
    "numpy.dtype",
    "numpy.ndarray",
    "builtins.bytes",  # of an empty array
)
_STORAGES: Final = ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Short", "Char", "Byte", "Bool")
_DTYPES: Final = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
# shorter than the list of `weights_only`, which also calls constructors that allocate as much memory as the file
# demands
_ALLOWED: Final = frozenset(
    [
        *_EXTRAS,
        "__builtin__.bytes",
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

_WRAPPERS: Final = ("model", "state_dict", "model_state_dict")  # entries that hold the state
# parts of names that wrappers of PyTorch add: torch.compile, and DataParallel and its successors
_WRAPPER_PARTS: Final = ("_orig_mod", "module")
_MAX_NAMES: Final = 20  # in a line of the log
_CLIP: Final = "encoder."
_NO_WEIGHTS: Final = ("input_resolution", "context_length", "vocab_size")  # numbers beside the weights of OpenAI's CLIP

_LOG: Final = logging.getLogger(__name__)
_LOADING: Final = threading.Lock()  # torch.serialization.safe_globals changes the whole process


def convert_checkpoint(
    checkpoint: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    clip: str | os.PathLike[str] | None = None,
    dtype: str | torch.dtype = "float32",
    source: str | None = None,
    license: str | None = None,  # named as the entry of config.json
) -> ModelConfig:
    """Convert a checkpoint in the authors' layout to a directory in the library's own format.

    The architecture is inferred from the shapes of the tensors (`docs/method.md`, section 6).

    Args:
        checkpoint: a `.pth` file, with or without `optimizer`, `args` and other entries of a training run, with names
            of the attention weights from before or after CLIP's surgery.
        out_dir: created if it does not exist; a `model.safetensors` or `config.json` in it is replaced only if it is of
            a checkpoint of this library.
        clip: for a checkpoint without CLIP: the authors' `CS-*.pt`, a TorchScript archive of which no code is run, or a
            state of CLIP alone that `torch.save` wrote.
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
    path = user_path(checkpoint, "the checkpoint", CheckpointNotFoundError)
    clip_path = None if clip is None else user_path(clip, "CLIP", CheckpointNotFoundError)
    directory = user_path(out_dir, "the output directory", StorageError)
    check_destination(directory, [path] if clip_path is None else [path, clip_path])
    authors_state = _with_clip(read_authors_state(path), path, clip_path)
    unused_tensors = unused(authors_state)
    _log_unused(unused_tensors)
    try:
        architecture = read_architecture(_shapes(authors_state))
        state = _renamed(authors_state, unused_tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{shown(path)}: {error}") from error
    require_same_tensors(tensor_shapes(architecture), _shapes(state), str(path))
    file_names = path.name if clip_path is None else f"{path.name}, CLIP from {clip_path.name}"
    config = ModelConfig(architecture, source=source or file_names, license=license or "unknown")
    return save_checkpoint(directory, config, state, dtype)


def _with_clip(authors_state: Mapping[str, Tensor], path: Path, clip: Path | None) -> dict[str, Tensor]:
    """The state with the tensors of CLIP, which a checkpoint either holds itself or leaves to another file."""
    has_clip = any(name.startswith(_CLIP) for name in authors_state)
    if clip is None:
        if not has_clip:
            raise CheckpointError(
                f"{shown(path)} has no tensor '{_CLIP}*'. If it is an SSP-SAM checkpoint without CLIP, give the "
                "authors' CS-*.pt with --clip (clip= in Python)"
            )
        return dict(authors_state)
    if has_clip:
        raise CheckpointError(f"{shown(path)} holds CLIP itself; leave --clip (clip= in Python) away")
    return {**authors_state, **{_CLIP + name: tensor for name, tensor in _read_clip_state(clip).items()}}


def _read_clip_state(path: Path) -> dict[str, Tensor]:
    """The tensors of CLIP alone, by OpenAI's names; nothing in the file is run."""
    if is_torchscript(path):
        state = read_torchscript_state(path)
    else:
        state = _read_state(path)
        if all(name.startswith(_CLIP) for name in state):
            state = {name.removeprefix(_CLIP): tensor for name, tensor in state.items()}
    if "visual.conv1.weight" not in state:
        raise CheckpointError(f"{shown(path)} is not CLIP with a vision transformer: no tensor 'visual.conv1.weight'")
    return {name: _checked_tensor(tensor, name, path) for name, tensor in state.items() if name not in _NO_WEIGHTS}


def read_authors_state(path: Path) -> dict[str, Tensor]:
    """Map the tensors of an authors' checkpoint; returns them by the authors' names.

    Raises:
        CheckpointNotFoundError, UnsafeCheckpointError, CheckpointError: as `convert_checkpoint`.
    """
    return {name: _checked_tensor(tensor, name, path) for name, tensor in _read_state(path).items()}


def _read_state(path: Path) -> dict[str, Tensor]:
    """Map the tensors of a state that `torch.save` wrote; their kinds and shapes are not checked."""
    archive = check_archive(path)
    check_pickle(archive.index, _ALLOWED, path)
    try:
        with _LOADING, torch.serialization.safe_globals([(_stand_in(name), name) for name in _EXTRAS]):
            content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        raise CheckpointError(f"{shown(path)} is damaged: {type(error).__name__}: {shown(error)}") from error
    tensors = _model_entries(content, path)
    strided = [tensor for tensor in tensors.values() if tensor.layout == torch.strided and not tensor.is_meta]
    sizes = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in strided}
    if Counter(sizes.values()) - archive.tensor_sizes:
        raise CheckpointError(f"{shown(path)} is damaged: its data.pkl claims sizes that its records do not have")
    return tensors


def _stand_in(name: str) -> type[_Ignored]:
    """A subclass of `_Ignored` that knows the name of the class or function whose place it takes."""
    return type("_Ignored", (_Ignored,), {"name": name})


def _model_entries(content: Any, path: Path) -> dict[str, Tensor]:
    """The entries of the model's state, without the parts of names that wrappers add."""
    # dict's own methods: the file can give an OrderedDict attributes that hide them
    wrapped = [dict.get(content, name) for name in _WRAPPERS] if isinstance(content, dict) else []
    states = [value for value in wrapped if isinstance(value, dict)] or [content]
    state = next((value for value in states if isinstance(value, dict) and dict.__len__(value)), states[0])
    if not isinstance(state, dict) or not dict.__len__(state):
        raise CheckpointError(f"{shown(path)} holds no 'model' state; it is not an SSP-SAM checkpoint")
    entries: dict[str, Tensor] = {}
    for name, value in dict.items(state):
        if isinstance(value, _Ignored):
            raise UnsafeCheckpointError(
                f"{shown(path)} names {value.name} in the place of the tensor '{shown(name)}', which no checkpoint "
                "needs. It was not run."
            )
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{shown(path)}: entry '{shown(name)}' of the state is a {type(value).__name__}, not a tensor"
            )
        plain_name = ".".join(part for part in name.split(".") if part not in _WRAPPER_PARTS)
        if plain_name in entries:
            raise CheckpointError(
                f"{shown(path)} holds '{shown(plain_name)}' twice, the second time as '{shown(name)}'"
            )
        entries[plain_name] = value
    return entries


def _checked_tensor(tensor: Tensor, name: str, path: Path) -> Tensor:
    where = f"{shown(path)}: tensor '{shown(name)}'"
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or not tensor.dtype.is_floating_point:
        raise CheckpointError(f"{where} is {tensor.dtype}, {tensor.layout}; floating point is expected")
    if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
        # strides of 0 would let a small file claim terabytes
        raise CheckpointError(f"{where} claims shape {list(tensor.shape)[:10]}, more than the file holds")
    return tensor.detach()


def _log_unused(unused_tensors: Mapping[str, str]) -> None:
    for reason in dict.fromkeys(unused_tensors.values()):
        names = [name for name in unused_tensors if unused_tensors[name] == reason]
        rest = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
        _LOG.info("left out: %s%s (%s)", ", ".join(map(shown, names[:_MAX_NAMES])), rest, reason)


def _renamed(authors_state: Mapping[str, Tensor], unused_tensors: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors by the library's names, without the unused ones."""
    state: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, tensor in authors_state.items():
        if name in unused_tensors:
            continue
        new_name = our_name(name)
        if new_name is None:
            unknown.append(shown(name))
        elif new_name in state:
            raise CheckpointError(f"the checkpoint holds {shown(new_name)} twice, the second time as '{shown(name)}'")
        else:
            state[new_name] = tensor
    if unknown:
        raise CheckpointError(f"the checkpoint has {len(unknown)} unrecognised tensors: {', '.join(unknown[:10])}")
    return state


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
