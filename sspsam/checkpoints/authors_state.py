"""The state of a model in a `.pth` file, as training scripts save it: wrapped, compiled, beside options and optimizers.

Before anything is read, the archive's structure is checked and every class and function that the pickle names is
compared with those that checkpoints have. Then the pickle is read as plain values, in which nothing is built, and the
tensors of the state are mapped.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from sspsam.checkpoints.archive_check import check_archive
from sspsam.checkpoints.archive_tensors import TensorReader, is_tensor
from sspsam.checkpoints.authors_layout import our_name, unused
from sspsam.checkpoints.pickle_check import check_pickle
from sspsam.checkpoints.pickle_names import CheckpointNames
from sspsam.checkpoints.pickle_values import Global, Unbuilt, mapping_of, read_values
from sspsam.errors import CheckpointError, UnsafeCheckpointError
from sspsam.utils.paths import shown

_WRAPPERS: Final = ("model", "state_dict", "model_state_dict", "module")  # entries that hold the state
_MAX_WRAPPERS: Final = 4  # around each other
# parts of names that wrappers of PyTorch add: torch.compile, DataParallel and its successors, FSDP, and activation
# checkpointing
_WRAPPER_PARTS: Final = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_ATTRIBUTE: Final = "model."  # of a Lightning module that holds the model
# last parts of the names of buffers that hold no weights
_BUFFERS: Final = (
    *("input_resolution", "context_length", "vocab_size"),  # of OpenAI's CLIP
    *("num_batches_tracked", "n_averaged", "position_ids"),
)
_MAX_NAMES: Final = 20  # in a line of the log

_LOG: Final = logging.getLogger(__name__)


def read_authors_state(path: Path) -> dict[str, Tensor]:
    """Map the tensors of an authors' checkpoint; returns them by the authors' names.

    Raises:
        CheckpointNotFoundError: no such file.
        UnsafeCheckpointError: the pickle names a class or function that no checkpoint needs; nothing was run.
        CheckpointError: damaged, or not a state of tensors.
    """
    return weights_of(read_state(path), path)


def read_state(path: Path) -> dict[str, Tensor]:
    """Map the tensors of a state that `torch.save` wrote, without the parts of their names that wrappers add.

    Raises:
        CheckpointNotFoundError, UnsafeCheckpointError, CheckpointError: as `read_authors_state`.
    """
    archive = check_archive(path)
    check_pickle(archive.index, CheckpointNames(), path)
    try:
        entries = _entries(read_values(archive.index))
        reader = TensorReader(path, archive)
        return {name: reader.named(name, value) for name, value in entries.items()}
    except UnsafeCheckpointError as error:
        raise UnsafeCheckpointError(f"{shown(path)} {error}") from error
    except CheckpointError as error:
        raise CheckpointError(f"{shown(path)}: {error}") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise CheckpointError(f"{shown(path)} is damaged: {type(error).__name__}: {shown(error)}") from error


def weights_of(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the floating point tensors of a state; counters and buffers without weights are left out.

    Raises:
        CheckpointError: a tensor has values of another kind.
    """
    weights: dict[str, Tensor] = {}
    counters: list[str] = []
    for name, tensor in state.items():
        if _is_counter(name, tensor):
            counters.append(name)
        elif not tensor.dtype.is_floating_point:
            raise CheckpointError(
                f"{shown(path)}: tensor '{shown(name)}' is {tensor.dtype}; floating point is expected"
            )
        else:
            weights[name] = tensor
    log_left_out(counters, "no weights")
    return weights


def log_left_out(names: Sequence[str], reason: str) -> None:
    """Log the names of entries that are left out, in one line."""
    if names:
        rest = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
        _LOG.info("left out: %s%s (%s)", ", ".join(map(shown, names[:_MAX_NAMES])), rest, reason)


def _is_counter(name: str, tensor: Tensor) -> bool:
    """True for whole numbers that are no weights: buffers that are known by name, and scalars of unknown names."""
    if tensor.dtype.is_floating_point or tensor.dtype.is_complex or tensor.dtype == torch.bool:
        return False
    return name.rpartition(".")[2] in _BUFFERS or (tensor.dim() == 0 and not _is_ours(name))


def _entries(content: Any) -> dict[str, Unbuilt]:
    """The entries of the model's state that stand for tensors, by their names without the parts of wrappers."""
    found = _state_in(content)
    if found is None:
        raise CheckpointError("it holds no 'model' state; it is not an SSP-SAM checkpoint")
    state, is_wrapped = found
    entries: dict[str, Unbuilt] = {}
    left_out: list[str] = []
    for name, value in state.items():
        plain_name = _plain_name(name) if isinstance(name, str) else ""
        if is_tensor(value) and plain_name:
            if plain_name in entries:
                raise CheckpointError(f"it holds '{shown(plain_name)}' twice, the second time as '{shown(name)}'")
            entries[plain_name] = value
        elif is_tensor(value) or _is_ours(plain_name) or (is_wrapped and not isinstance(value, int | float | None)):
            raise _not_a_tensor(name, value)
        else:
            left_out.append(str(name))
    log_left_out(left_out, "not a tensor")
    return entries


def _state_in(content: Any, depth: int = 0) -> tuple[Mapping[Any, Any], bool] | None:
    """The first innermost state that holds tensors, and whether it is wrapped, so that it should hold little else."""
    state = mapping_of(content)
    if state is None or depth > _MAX_WRAPPERS:
        return None
    wrapped = (_state_in(state.get(name), depth + 1) for name in _WRAPPERS)
    own = (state, depth > 0) if any(map(is_tensor, state.values())) else None
    return next((found for found in wrapped if found), own)


def _plain_name(name: str) -> str:
    """A name without the parts that wrappers add; the attribute of a Lightning module is the first part left."""
    plain = ".".join(part for part in name.split(".") if part not in _WRAPPER_PARTS)
    while plain.startswith(_ATTRIBUTE):
        plain = plain.removeprefix(_ATTRIBUTE)
    return plain


def _is_ours(name: str) -> bool:
    """True for a name of the authors' model, or of CLIP alone."""
    return any(our_name(full) is not None or bool(unused([full])) for full in (name, f"encoder.{name}"))


def _not_a_tensor(name: object, value: object) -> CheckpointError:
    if isinstance(value, Unbuilt | Global) and not is_tensor(value):
        return UnsafeCheckpointError(
            f"names {shown(value.name)} in the place of the tensor '{shown(name)}', which no checkpoint needs. It was "
            "not run."
        )
    return CheckpointError(f"entry '{shown(name)}' of the state is a {type(value).__name__}, not a tensor")
