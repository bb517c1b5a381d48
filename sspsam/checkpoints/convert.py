"""Conversion of the authors' `.pth` checkpoints to the library's own format; nothing that such a file names is run.

A `.pth` file is a pickle inside a zip archive; `authors_state` checks it and maps its tensors.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sspsam.checkpoints.authors_layout import our_name, read_architecture, unused
from sspsam.checkpoints.authors_state import log_left_out, read_authors_state
from sspsam.checkpoints.clip_state import CLIP_PREFIX, read_clip_state
from sspsam.checkpoints.directory import require_same_tensors
from sspsam.checkpoints.saving import check_destination, save_checkpoint
from sspsam.checkpoints.tensor_shapes import tensor_shapes
from sspsam.config import ModelConfig
from sspsam.devices import dtype_name
from sspsam.errors import CheckpointError, CheckpointNotFoundError, StorageError
from sspsam.utils.paths import shown, user_path


def convert_checkpoint(
    checkpoint: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    clip: str | os.PathLike[str] | None = None,
    dtype: str | torch.dtype = "float32",
    source: str | None = None,
    license: str | None = None,  # named as the entry of config.json
    encoder_store: Path | None = None,
) -> ModelConfig:
    """Convert a checkpoint in the authors' layout to a directory in the library's own format.

    The architecture is inferred from the shapes of the tensors (`docs/method.md`, section 6).

    Args:
        checkpoint: a `.pth` file, with names of the attention weights from before or after CLIP's surgery. The state
            may stand beside `optimizer`, `args` and other entries of a training run, of which nothing is built, in
            entries such as `state_dict`, and under names with the prefixes of wrappers such as FSDP.
        out_dir: created if it does not exist; a `model.safetensors` or `config.json` in it is replaced only if it is of
            a checkpoint of this library.
        clip: for a checkpoint without CLIP: the authors' `CS-*.pt`, a TorchScript archive of which no code is run, or a
            state of CLIP alone that `torch.save` wrote.
        dtype: of the stored weights: `"float32"`, `"float16"` or `"bfloat16"`. Loading widens them to float32.
        source: origin of the weights, a free text for readers; None: the file's name.
        license: of the weights; None: unknown.
        encoder_store: folder that keeps image encoders once, see `sspsam.checkpoints.encoders.encoder_store`; the
            checkpoint then names its encoders instead of holding them. None: it holds them.

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
    where = str(path) if clip_path is None else f"{path}, with CLIP from {clip_path.name},"
    require_same_tensors(tensor_shapes(architecture), _shapes(state), where)
    file_names = path.name if clip_path is None else f"{path.name}, CLIP from {clip_path.name}"
    config = ModelConfig(architecture, source=source or file_names, license=license or "unknown")
    return save_checkpoint(directory, config, state, dtype, encoder_store=encoder_store)


def _with_clip(authors_state: Mapping[str, Tensor], path: Path, clip: Path | None) -> dict[str, Tensor]:
    """The state with the tensors of CLIP, which a checkpoint either holds itself or leaves to another file."""
    has_clip = any(name.startswith(CLIP_PREFIX) for name in authors_state)
    if clip is None:
        if not has_clip:
            raise CheckpointError(
                f"{shown(path)} has no tensor '{CLIP_PREFIX}*'. If it is an SSP-SAM checkpoint without CLIP, give the "
                "authors' CS-*.pt with --clip (clip= in Python)"
            )
        return dict(authors_state)
    if has_clip:
        raise CheckpointError(f"{shown(path)} holds CLIP itself; leave --clip (clip= in Python) away")
    return {**authors_state, **{CLIP_PREFIX + name: tensor for name, tensor in read_clip_state(clip).items()}}


def _log_unused(unused_tensors: Mapping[str, str]) -> None:
    for reason in dict.fromkeys(unused_tensors.values()):
        log_left_out([name for name in unused_tensors if unused_tensors[name] == reason], reason)


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
