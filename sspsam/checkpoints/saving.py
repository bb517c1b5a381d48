"""Write a checkpoint directory: complete or not at all, tensor by tensor."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from sspsam.checkpoints.digests import file_state, record_digest
from sspsam.checkpoints.directory import (
    CONFIG_NAME,
    SAFETENSORS_DTYPES,
    WEIGHTS_NAME,
    has_tensors_of_the_library,
    read_config,
)
from sspsam.config import CALIBRATION_NAME, ModelConfig
from sspsam.devices import DTYPES, dtype_name, naming_out_of_memory
from sspsam.errors import CheckpointError, CheckpointNotFoundError, SSPSAMError, StorageError
from sspsam.utils.files import atomic_replace, make_directory, require_free_space, storage_errors, write_file
from sspsam.utils.paths import shown, user_path
from sspsam.utils.progress import progress


@naming_out_of_memory("not enough memory to write the checkpoint")
def save_checkpoint(
    directory: str | os.PathLike[str],
    config: ModelConfig,
    state: Mapping[str, Tensor],
    dtype: str | torch.dtype = "float32",
) -> ModelConfig:
    """Write a checkpoint; `directory` may be the one that `state` is mapped from.

    Both files are written under temporary names in `directory` and synced to disk before either is renamed. Tensors
    are converted one at a time, so no second model is in memory.

    Args:
        directory: created if it does not exist; other files in it are kept, and a `model.safetensors` or `config.json`
            in it is replaced only if it is of a checkpoint of this library. A `calibration.json` of other weights is
            removed, since nothing could load the checkpoint with it.
        config: all but the digest of the weights, which is computed here.
        state: tensors by name.
        dtype: of the stored weights: `"float32"`, `"float16"` or `"bfloat16"`.

    Returns:
        The configuration as written, with the digest.

    Raises:
        CheckpointError: a tensor has values that are not finite, or not finite in `dtype`.
        StorageError: too little space, or `directory` is not writable or holds such a file of another origin.
    """
    dtype = dtype_name(dtype)
    directory = user_path(directory, "the checkpoint", StorageError)
    check_destination(directory)
    size = sum(tensor.numel() for tensor in state.values()) * DTYPES[dtype].itemsize
    require_free_space(directory, size, "the checkpoint")
    make_directory(directory)
    weights = directory / WEIGHTS_NAME
    with atomic_replace(weights, directory / CONFIG_NAME) as [temporary_weights, temporary_config]:
        digest = write_file(temporary_weights, lambda file: _write_safetensors(file, state, dtype))
        config = dataclasses.replace(config, weights_sha256=digest)
        write_file(temporary_config, lambda file: file.write(config.to_json().encode()))
    # the digest was computed from the bytes that were written, so the first load need not hash them again
    record_digest(weights, file_state(weights), digest)
    _remove_stale_calibration(directory / CALIBRATION_NAME, config.fingerprint)
    return config


def _remove_stale_calibration(path: Path, fingerprint: str) -> None:
    """Remove the calibration of the weights that were replaced; any other file of that name is kept."""
    try:
        bound_to = json.loads(path.read_text("utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return
    if bound_to != fingerprint:
        with storage_errors(path):
            path.unlink(missing_ok=True)


def check_destination(directory: Path, inputs: Sequence[Path] = ()) -> None:
    """Check that writing a checkpoint into a directory replaces nothing but an older checkpoint of this library.

    Args:
        directory: to write to; it need not exist.
        inputs: files that the checkpoint is made from.

    Raises:
        StorageError: the directory is a file, or holds an input or a file of another origin under a checkpoint's names.
    """
    if os.path.exists(directory) and not os.path.isdir(directory):
        raise StorageError(f"{shown(directory)} is a file; a checkpoint is a directory")
    for target in (directory / WEIGHTS_NAME, directory / CONFIG_NAME):
        if any(_is_same_file(target, path) for path in inputs):
            raise StorageError(f"{shown(target)} is the file that is converted; choose another output directory")
    foreign = _foreign_file(directory)
    if foreign is not None:
        raise StorageError(
            f"{shown(foreign)} exists and is not of a checkpoint that sspsam wrote, so it is not replaced. Move it "
            "away or choose another directory."
        )


def _is_same_file(first: Path, second: Path) -> bool:
    try:
        return os.path.samefile(first, second)
    except (OSError, ValueError):
        return False


def _foreign_file(directory: Path) -> Path | None:
    """The configuration or the weights in a directory, if they are not of a checkpoint of this library."""
    weights = directory / WEIGHTS_NAME
    if not os.path.isdir(directory):
        return None
    try:
        read_config(directory)
    except CheckpointNotFoundError:  # no configuration: an interrupted save may have left the weights alone
        return weights if os.path.lexists(weights) and not has_tensors_of_the_library(weights) else None
    except SSPSAMError:
        return directory / CONFIG_NAME
    return None


def _write_safetensors(file: BinaryIO, state: Mapping[str, Tensor], dtype: str) -> str:
    """Write the format tensor by tensor and return the file's SHA-256.

    `safetensors.torch.save_file` needs all tensors in their final dtype at once, which for half precision is a second
    model in memory.
    """
    names = sorted(state)
    header = _header({name: state[name] for name in names}, dtype)
    file.write(header)
    digest = hashlib.sha256(header)
    size = sum(tensor.numel() for tensor in state.values()) * DTYPES[dtype].itemsize
    with progress("writing weights", size) as advance:
        for name in names:
            data = _tensor_bytes(name, state[name], dtype)
            file.write(data)
            digest.update(data)
            advance(data.nbytes)
    return digest.hexdigest()


def _header(state: Mapping[str, Tensor], dtype: str) -> bytes:
    """Everything before the data: 8 bytes of length, then JSON padded with spaces to a multiple of 8 bytes."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, tensor in state.items():
        end = start + tensor.numel() * DTYPES[dtype].itemsize
        entries[name] = {
            "dtype": SAFETENSORS_DTYPES[dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _tensor_bytes(name: str, tensor: Tensor, dtype: str) -> memoryview:
    stored = tensor.detach().to("cpu", DTYPES[dtype]).contiguous()
    if not stored.isfinite().all():
        raise CheckpointError(f"tensor '{shown(name)}' has values that are not finite in {dtype}; nothing was written")
    data: memoryview = stored.reshape(-1).view(torch.uint8).numpy().data
    return data
