"""Write a checkpoint directory: complete or not at all, tensor by tensor."""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from sspsam.checkpoints.digests import FileState, RecordKind, file_state, record_digest
from sspsam.checkpoints.directory import (
    CONFIG_NAME,
    SAFETENSORS_DTYPES,
    WEIGHTS_NAME,
    has_tensors_of_the_library,
    read_config,
    shared_record,
)
from sspsam.checkpoints.encoders import holds_encoders, note_user, stored_encoders
from sspsam.checkpoints.tensor_files import TensorEntry, encoder_entries, header, is_of_encoders, total_bytes
from sspsam.config import CALIBRATION_NAME, ModelConfig, SharedEncoders
from sspsam.devices import DTYPES, dtype_name, naming_out_of_memory
from sspsam.errors import CheckpointError, CheckpointNotFoundError, SSPSAMError, StorageError
from sspsam.utils.files import (
    atomic_replace,
    make_directory,
    remove_stale_temporary_files,
    require_free_space,
    storage_errors,
    write_file,
)
from sspsam.utils.paths import shown, user_path
from sspsam.utils.progress import progress


@naming_out_of_memory("not enough memory to write the checkpoint")
def save_checkpoint(
    directory: str | os.PathLike[str],
    config: ModelConfig,
    state: Mapping[str, Tensor],
    dtype: str | torch.dtype = "float32",
    *,
    encoder_store: Path | None = None,
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
        encoder_store: folder that keeps image encoders once, see `sspsam.checkpoints.encoders`; the checkpoint then
            names its encoders by their digest, and the store keeps them in float32. None: the checkpoint holds them.

    Returns:
        The configuration as written, with the digest.

    Raises:
        CheckpointError: a tensor has values that are not finite, or not finite in `dtype`.
        StorageError: too little space, or `directory` is not writable or holds such a file of another origin.
    """
    dtype = dtype_name(dtype)
    directory = user_path(directory, "the checkpoint", StorageError)
    check_destination(directory)
    if encoder_store is not None:
        return _save_shared(directory, config, state, dtype, encoder_store)
    entries = _entries(state, dtype)
    remove_stale_temporary_files(directory)
    require_free_space(directory, total_bytes(entries.values()), "the checkpoint")
    make_directory(directory)
    with atomic_replace(directory / WEIGHTS_NAME, directory / CONFIG_NAME) as [temporary_weights, temporary_config]:
        digests = write_file(temporary_weights, lambda file: _write_safetensors(file, state, entries))
        config = dataclasses.replace(config, weights_sha256=digests.file, encoders=None)
        write_file(temporary_config, lambda file: file.write(config.to_json().encode()))
        written = file_state(temporary_weights)
    # the digests were computed from the bytes that were written, so the first load need not hash them again
    _record(directory / WEIGHTS_NAME, written, {"verified": digests.file, "encoders": digests.encoders})
    _remove_stale_calibration(directory / CALIBRATION_NAME, config.fingerprint)
    return config


def _save_shared(
    directory: Path, config: ModelConfig, state: Mapping[str, Tensor], dtype: str, store: Path
) -> ModelConfig:
    """Write a checkpoint without its image encoders, and these to the store unless they are there."""
    entries = _entries(state, dtype) | _encoder_entries(state)
    digests = _write_safetensors(None, state, entries)
    head = {name: entry for name, entry in entries.items() if not is_of_encoders(name)}
    store_encoders(store, state, digests.encoders)
    remove_stale_temporary_files(directory)
    require_free_space(directory, total_bytes(head.values()), "the checkpoint")
    make_directory(directory)
    with atomic_replace(directory / WEIGHTS_NAME, directory / CONFIG_NAME) as [temporary_weights, temporary_config]:
        write_file(temporary_weights, lambda file: _write_safetensors(file, state, head))
        encoders = SharedEncoders(digests.encoders, config.source)
        config = dataclasses.replace(config, weights_sha256=digests.file, encoders=encoders)
        write_file(temporary_config, lambda file: file.write(config.to_json().encode()))
        written = file_state(temporary_weights)
    _record(directory / WEIGHTS_NAME, written, {"verified": shared_record(config)})
    _remove_stale_calibration(directory / CALIBRATION_NAME, config.fingerprint)
    note_user(store, digests.encoders, directory)
    return config


def store_encoders(store: Path, state: Mapping[str, Tensor], digest: str) -> Path:
    """Write image encoders to a store unless they are there, intact; return their file.

    Args:
        store: created if it does not exist.
        state: tensors by name, these of the encoders among them.
        digest: of the encoders.

    Raises:
        StorageError: too little space, or the store is not writable.
    """
    path = stored_encoders(store, digest)
    if holds_encoders(path, digest):
        return path
    entries = _encoder_entries(state)
    remove_stale_temporary_files(store)
    require_free_space(store, total_bytes(entries.values()), "the image encoders")
    make_directory(store)
    with atomic_replace(path) as [temporary]:
        write_file(temporary, lambda file: _write_safetensors(file, state, entries))
        written = file_state(temporary)
    _record(path, written, {"encoders": digest})
    return path


def _record(path: Path, written: FileState, digests: Mapping[RecordKind, str]) -> None:
    """Record digests of a file that was written and renamed, unless another process has replaced it since."""
    with contextlib.suppress(OSError):
        state = file_state(path)
        if {**state, "ctime_ns": 0} == {**written, "ctime_ns": 0}:  # a rename changes the time of the last change
            for kind, digest in digests.items():
                record_digest(path, state, digest, kind)


def _remove_stale_calibration(path: Path, fingerprint: str) -> None:
    """Remove the calibration of the weights that were replaced."""
    bound_to = _calibrated_fingerprint(path)
    if bound_to not in (None, fingerprint):
        with storage_errors(path):
            path.unlink(missing_ok=True)


def _calibrated_fingerprint(path: Path) -> str | None:
    """Return the fingerprint of the weights that a calibration belongs to; None for other files and without one."""
    try:
        bound_to = json.loads(path.read_text("utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return bound_to if isinstance(bound_to, str) else None


def check_destination(directory: Path, inputs: Sequence[Path] = ()) -> None:
    """Check that writing a checkpoint into a directory replaces nothing but an older checkpoint of this library.

    Args:
        directory: to write to; it need not exist.
        inputs: files that the checkpoint is made from.

    Raises:
        StorageError: the directory or one above it is a file, or it holds an input or a file of another origin under a
            checkpoint's names.
    """
    if os.path.exists(directory) and not os.path.isdir(directory):
        raise StorageError(f"{shown(directory)} is a file; a checkpoint is a directory")
    above = next((folder for folder in directory.parents if os.path.lexists(folder)), directory)
    if os.path.lexists(above) and not os.path.isdir(above):
        raise StorageError(f"{shown(above)} is a file, so that {shown(directory)} cannot be a directory")
    for target in (directory / WEIGHTS_NAME, directory / CONFIG_NAME):
        if any(_is_same_file(target, path) for path in inputs):
            raise StorageError(f"{shown(target)} is the file that is converted; choose another output directory")
    foreign, calibration = _foreign_file(directory), directory / CALIBRATION_NAME
    if foreign is None and os.path.lexists(calibration) and _calibrated_fingerprint(calibration) is None:
        foreign = calibration  # with which the checkpoint could not be loaded
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


class _Digests(NamedTuple):
    """SHA-256 of a written file, and of the image encoders in it as `sspsam.config.SharedEncoders` describes."""

    file: str
    encoders: str


def _entries(state: Mapping[str, Tensor], dtype: str) -> dict[str, TensorEntry]:
    return {name: TensorEntry(SAFETENSORS_DTYPES[dtype], tuple(tensor.shape)) for name, tensor in state.items()}


def _encoder_entries(state: Mapping[str, Tensor]) -> dict[str, TensorEntry]:
    return encoder_entries({name: tuple(tensor.shape) for name, tensor in state.items()})


def _write_safetensors(
    file: BinaryIO | None, state: Mapping[str, Tensor], entries: Mapping[str, TensorEntry]
) -> _Digests:
    """Write the canonical file of some tensors, one after the other, and return its digests.

    `safetensors.torch.save_file` needs all tensors in their final dtype at once, which for half precision is a second
    model in memory.

    Args:
        file: to write to; None: only the digests are computed.
        state: tensors by name.
        entries: the tensors to write, and their dtypes.
    """
    first = header(entries)
    digest = hashlib.sha256(first)
    of_encoders = hashlib.sha256(header(_encoder_entries({name: state[name] for name in entries})))
    if file is not None:
        file.write(first)
    with progress("writing weights", total_bytes(entries.values())) as advance:
        for name in sorted(entries):
            tensor = _converted(name, state[name], entries[name].dtype)
            data = _data(tensor)
            if file is not None:
                file.write(data)
            digest.update(data)
            if is_of_encoders(name):
                of_encoders.update(_data(tensor.to(torch.float32)))
            advance(data.nbytes)
    return _Digests(digest.hexdigest(), of_encoders.hexdigest())


def _converted(name: str, tensor: Tensor, stored_dtype: str) -> Tensor:
    """Return a tensor as it is stored, on the CPU."""
    dtype = next(dtype for dtype, stored in SAFETENSORS_DTYPES.items() if stored == stored_dtype)
    converted = tensor.detach().to("cpu", DTYPES[dtype]).contiguous()
    if not converted.isfinite().all():
        raise CheckpointError(f"tensor '{shown(name)}' has values that are not finite in {dtype}; nothing was written")
    return converted


def _data(tensor: Tensor) -> memoryview:
    data: memoryview = tensor.reshape(-1).view(torch.uint8).numpy().data
    return data
