"""The own checkpoint format: a directory with `config.json` and `model.safetensors`, written whole and read strictly.

Loading maps the file: the model is built without storage, its tensors are views of the file, and pages are read when
they are first touched. Weights stored in half precision are widened to float32, which copies them.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO, Final, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from sspsam.config import ModelConfig
from sspsam.devices import DTYPES, dtype_name
from sspsam.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    ConfigError,
    DigestMismatchError,
    StorageError,
)
from sspsam.models import SSPSAM
from sspsam.utils.files import atomic_replace, make_directory, replace_file, require_free_space, write_file
from sspsam.utils.progress import progress

CONFIG_NAME: Final = "config.json"
WEIGHTS_NAME: Final = "model.safetensors"
_SAFETENSORS_NAMES: Final = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_MAX_CONFIG_BYTES: Final = 1 << 20
_HASH_BLOCK: Final = 8 << 20


def save_checkpoint(
    directory: str | os.PathLike[str],
    config: ModelConfig,
    state: Mapping[str, Tensor],
    dtype: str | torch.dtype = "float32",
) -> ModelConfig:
    """Write a checkpoint, also onto the directory that `state` is mapped from.

    Both files are complete and on disk beside their places before either takes it; the tensors are read one at a time.

    Args:
        directory: made if need be; other files in it stay.
        config: everything but the digest of the weights.
        state: tensors by name.
        dtype: of the stored weights: `"float32"`, `"float16"` or `"bfloat16"`.

    Returns:
        The configuration as written, with the digest.

    Raises:
        CheckpointError: a tensor is not finite, or not in this dtype.
        StorageError: not enough space, or not writable.
    """
    dtype = dtype_name(dtype)
    directory = Path(directory)
    if os.path.exists(directory) and not os.path.isdir(directory):
        raise StorageError(f"{directory} is a file; a checkpoint is a directory")
    size = sum(tensor.numel() for tensor in state.values()) * DTYPES[dtype].itemsize
    require_free_space(directory, size, "the checkpoint")
    make_directory(directory)
    with atomic_replace(directory / WEIGHTS_NAME, directory / CONFIG_NAME) as [weights, description]:
        digest = write_file(weights, lambda file: _write_safetensors(file, state, dtype))
        config = dataclasses.replace(config, weights_sha256=digest)
        write_file(description, lambda file: file.write(config.to_json().encode()))
    # the digest is of the bytes that were written: until the file changes, it need not be read for it again
    _remember(directory / WEIGHTS_NAME, _file_state(directory / WEIGHTS_NAME), digest)
    return config


def _write_safetensors(file: BinaryIO, state: Mapping[str, Tensor], dtype: str) -> str:
    """Write the format tensor by tensor and return the file's SHA-256.

    The library's own writer wants all tensors in their final dtype at once; for half precision that is a second model
    in memory. Format: 8 bytes length of the header, the header (JSON, padded to a multiple of 8), the data.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset, names = 0, sorted(state)
    for name in names:
        end = offset + state[name].numel() * DTYPES[dtype].itemsize
        shape = list(state[name].shape)
        header[name] = {"dtype": _SAFETENSORS_NAMES[dtype], "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    file.write(head)
    digest = hashlib.sha256(head)
    with progress("writing weights", offset) as done:
        for name in names:
            tensor = state[name].detach().to("cpu", DTYPES[dtype]).contiguous()
            if not tensor.isfinite().all():
                raise CheckpointError(f"tensor {name!r} has values that are not finite in {dtype}; nothing was written")
            data = tensor.reshape(-1).view(torch.uint8).numpy().data
            file.write(data)
            digest.update(data)
            done(data.nbytes)
    return digest.hexdigest()


def read_config(directory: Path) -> ModelConfig:
    """The configuration of the checkpoint in `directory`.

    Raises:
        CheckpointNotFoundError: no such directory or no `config.json` in it.
        ConfigError: the file is damaged.
    """
    path = directory / CONFIG_NAME
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        raise CheckpointNotFoundError(
            f"{directory} is not a checkpoint: it has no {CONFIG_NAME}. "
            "Make one of an authors' .pth file with: sspsam convert CHECKPOINT.pth OUT_DIR"
        ) from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > _MAX_CONFIG_BYTES:
        raise ConfigError(f"{path} is larger than {_MAX_CONFIG_BYTES} bytes; it is no configuration")
    try:
        return ModelConfig.from_json(data.decode(), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}") from error


def load_checkpoint(path: str | os.PathLike[str], *, verify: bool | None = None) -> tuple[SSPSAM, ModelConfig]:
    """Read a checkpoint; all of it or an error.

    Args:
        path: a directory with `config.json` and `model.safetensors`, or a `.safetensors` file with the former beside.
        verify: whether to compare the SHA-256 of the weights with the configuration's. None: the first time that this
            file is seen in its present state. True: now. False: never.

    Returns:
        The model in float32 on the CPU, in evaluation mode and frozen, and its configuration.

    Raises:
        CheckpointNotFoundError: no checkpoint there.
        ConfigError: a damaged `config.json`.
        CheckpointError: damaged weights, or tensors that are missing, unexpected or of another shape.
        DigestMismatchError: weights other than those the configuration was written for.
    """
    path = Path(path)
    if path.suffix != ".safetensors" or os.path.isdir(path):
        path = path / WEIGHTS_NAME
    directory = path.parent
    config = read_config(directory)
    if not os.path.isfile(path):
        raise CheckpointNotFoundError(f"{directory} has a {CONFIG_NAME} but no {path.name}; copy or convert it again")
    state_at_start = _file_state(path)
    found = _read_shapes(path)
    with torch.device("meta"):
        model = SSPSAM(config.architecture)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    require_same_tensors(expected, found, str(path))
    _verify(path, state_at_start, config.weights_sha256, verify)
    with torch.device("cpu"):  # whatever the application's default is
        tensors = {name: tensor.to(torch.float32) for name, tensor in load_file(path).items()}
        if _file_state(path) != state_at_start:
            raise CheckpointError(f"{path} changed while it was being read; load it again")
        model.load_state_dict(tensors, strict=True, assign=True)
    return model.requires_grad_(False).eval(), config


def require_same_tensors(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], where: str
) -> None:
    """Name what is missing, unexpected or misshapen: ten of each, then a count."""
    wrong = [
        f"{name} is {list(found[name])}, not {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    complaints = [
        _list("missing", [name for name in expected if name not in found]),
        _list("unexpected", [name for name in found if name not in expected]),
        _list("of another shape", wrong),
    ]
    if any(complaints):
        raise CheckpointError(f"{where} does not fit its architecture: " + "; ".join(filter(None, complaints)))


def _list(what: str, names: Iterable[str]) -> str:
    names = [name[:200] for name in names]
    rest = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"{len(names)} {what} ({', '.join(names[:10])}{rest})" if names else ""


def _read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes from the header of a safetensors file, its structure checked by the listing."""
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
            kinds = {name: str(entry.get_dtype()) for name, entry in slices.items()}
            shapes = {name: tuple(entry.get_shape()) for name, entry in slices.items()}
    except (SafetensorError, OSError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{path} is damaged or not a safetensors file: {error}") from error
    strange = sorted({kind for kind in kinds.values() if kind not in _SAFETENSORS_NAMES.values()})
    if strange:
        raise CheckpointError(f"{path} holds tensors of dtype {', '.join(strange)}; {', '.join(DTYPES)} can be read")
    return cast(dict[str, tuple[int, ...]], shapes)


def cache_home() -> Path:
    """Where sspsam remembers things: `SSPSAM_HOME`, else `XDG_CACHE_HOME/sspsam`, else `~/.cache/sspsam`."""
    home = os.environ.get("SSPSAM_HOME")
    if home:
        return Path(home)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sspsam"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file, progress(f"checking {path.name}", path.stat().st_size) as done:
        while block := file.read(_HASH_BLOCK):
            digest.update(block)
            done(len(block))
    return digest.hexdigest()


def _file_state(path: Path) -> dict[str, int]:
    """What changes when a file's content does, short of a fault of the disk itself."""
    status = path.stat()
    return {
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
        "inode": status.st_ino,
        "device": status.st_dev,
    }


def _verify(path: Path, state: dict[str, int], expected: str, verify: bool | None) -> None:
    if verify is False or (verify is None and _remembered(path) == {"sha256": expected, **state}):
        return
    try:
        actual = sha256_of(path)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    if actual != expected:
        raise DigestMismatchError(
            f"{path} is not the file that was saved: its SHA-256 is {actual}, {CONFIG_NAME} states "
            f"{expected or 'none'}. It was damaged or exchanged; fetch or convert it again."
        )
    if _file_state(path) != state:
        raise CheckpointError(f"{path} changed while it was being read; load it again")
    _remember(path, state, expected)


def _record(path: Path) -> Path | None:
    try:
        home = cache_home()
    except RuntimeError:  # nobody's home
        return None
    name = hashlib.sha256(str(path.resolve()).encode(errors="surrogateescape")).hexdigest()
    return home / "verified" / f"{name}.json"


def _remember(path: Path, state: dict[str, int], digest: str) -> None:
    """Note that the file had this digest in this state."""
    record = _record(path)
    if record is None:
        return
    # a read-only home costs the next load a second look, nothing else
    with contextlib.suppress(OSError):
        make_directory(record.parent)
        replace_file(record, json.dumps({"sha256": digest, **state}).encode())


def _remembered(path: Path) -> object:
    record = _record(path)
    try:
        return json.loads(record.read_bytes()) if record else None
    except (OSError, ValueError, RecursionError):
        return None
