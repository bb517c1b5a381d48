"""A checkpoint directory, read and checked without PyTorch: `config.json` and the header of `model.safetensors`."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from safetensors import SafetensorError, safe_open

from sspsam.checkpoints.digests import FileState, file_state, verify_digest
from sspsam.checkpoints.file_content import foreign_content, require_utf8_name
from sspsam.checkpoints.tensor_shapes import Shape, tensor_shapes
from sspsam.config import ModelConfig
from sspsam.errors import CheckpointError, CheckpointNotFoundError, ConfigError
from sspsam.utils.file_kinds import HEAD_BYTES, foreign_kind, missing_target
from sspsam.utils.paths import open_regular_file, printable, shown, user_path

CONFIG_NAME: Final = "config.json"
WEIGHTS_NAME: Final = "model.safetensors"
CHECKPOINT_FILES: Final = (CONFIG_NAME, WEIGHTS_NAME)
# names of the dtypes that weights can be stored in, by PyTorch's name
SAFETENSORS_DTYPES: Final[Mapping[str, str]] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_OWN_TENSOR: Final = "ssp.prompt_generator.box_token.weight"
_MAX_CONFIG_BYTES: Final = 1 << 20
_MAX_NAMES: Final = 10  # in an error


@dataclass(frozen=True)
class CheckedCheckpoint:
    """A checkpoint whose header, tensor shapes and digest were checked.

    Args:
        weights: the `.safetensors` file.
        config: from the `config.json` beside it.
        state: of the weights when the check began; compare it once more after reading the tensors.
    """

    weights: Path
    config: ModelConfig
    state: FileState


def check_checkpoint(path: str | os.PathLike[str], *, verify: bool | None = None) -> CheckedCheckpoint:
    """Check a checkpoint without reading its tensors.

    Args:
        path: a directory with `config.json` and `model.safetensors`, or a `.safetensors` file with a `config.json`
            beside it.
        verify: whether to compare the SHA-256 of the weights with the one that `config.json` states. None: unless this
            file was verified before and has not changed since. True: always. False: never.

    Raises:
        CheckpointNotFoundError: no checkpoint there.
        ConfigError: a damaged `config.json`.
        CheckpointError: damaged weights, or tensors that are missing, unexpected or of another shape.
        DigestMismatchError: weights other than those the configuration was written for.
    """
    weights = user_path(path, "the checkpoint", CheckpointNotFoundError)
    if weights.suffix != ".safetensors" or os.path.isdir(weights):
        weights = weights / WEIGHTS_NAME
    directory = weights.parent
    config = read_config(directory)
    if not os.path.isfile(weights):
        raise CheckpointNotFoundError(
            f"{shown(directory)} has a {CONFIG_NAME} but no {shown(weights.name)}{missing_target(weights)}; copy or "
            "convert it again"
        )
    state = file_state(weights)
    require_same_tensors(tensor_shapes(config.architecture), _read_shapes(weights), str(weights))
    verify_digest(weights, state, config.weights_sha256, CONFIG_NAME, verify)
    return CheckedCheckpoint(weights, config, state)


def read_config(directory: Path) -> ModelConfig:
    """Read the configuration of the checkpoint in `directory`.

    Raises:
        CheckpointNotFoundError: no such directory or no `config.json` in it.
        ConfigError: the file is damaged.
    """
    path = directory / CONFIG_NAME
    try:
        with open_regular_file(path, CheckpointError) as file:
            data = file.read(_MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        raise CheckpointNotFoundError(
            f"{shown(directory)} is not a checkpoint: it has no {CONFIG_NAME}. "
            "Make a checkpoint from an authors' .pth file with: sspsam convert CHECKPOINT.pth OUT_DIR"
        ) from None
    except OSError as error:
        raise CheckpointError(f"cannot read {shown(path)}: {error.strerror or error}") from error
    content = foreign_kind(data[:HEAD_BYTES], "JSON")
    if content:
        raise ConfigError(f"{shown(path)} {content}.")
    if len(data) > _MAX_CONFIG_BYTES:
        raise ConfigError(f"{shown(path)} is larger than {_MAX_CONFIG_BYTES} bytes; it is not a configuration")
    try:
        return ModelConfig.from_json(data.decode(), shown(path))
    except ConfigError as error:  # it may quote names of entries
        raise ConfigError(printable(str(error))) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{shown(path)} is not UTF-8 text: {error}") from error


def _read_shapes(path: Path) -> dict[str, Shape]:
    """Shapes from the header of a safetensors file, whose structure the safetensors library checks."""
    require_utf8_name(path)
    try:
        with safe_open(path, framework="np") as file:  # of the frameworks the one that does not import PyTorch
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
            dtypes = {str(tensor.get_dtype()) for tensor in slices.values()}
            shapes = {str(name): tuple(map(int, tensor.get_shape())) for name, tensor in slices.items()}
    except (SafetensorError, OSError, ValueError, OverflowError) as error:
        raise _unreadable_weights(path, error) from error
    unknown = sorted(dtypes - set(SAFETENSORS_DTYPES.values()))
    if unknown:
        raise CheckpointError(
            f"{shown(path)} holds tensors of dtype {', '.join(map(shown, unknown))}; only "
            f"{', '.join(SAFETENSORS_DTYPES)} can be read"
        )
    return shapes


def has_tensors_of_the_library(weights: Path) -> bool:
    """True if a file is of the safetensors format and holds a tensor that only this library's checkpoints have."""
    try:
        return os.path.isfile(weights) and _OWN_TENSOR in _read_shapes(weights)
    except CheckpointError:
        return False


def _unreadable_weights(path: Path, error: Exception) -> CheckpointError:
    """The error for weights that the safetensors library does not read."""
    try:
        content = foreign_content(path, "safetensors")
    except OSError as problem:
        return CheckpointError(f"cannot read {shown(path)}: {problem.strerror or problem}.")
    if content:
        return CheckpointError(f"{shown(path)} {content}.")
    return CheckpointError(f"{shown(path)} is damaged or not a safetensors file: {shown(error)}")


def require_same_tensors(expected: Mapping[str, Shape], actual: Mapping[str, Shape], where: str) -> None:
    """Raise a `CheckpointError` unless names and shapes agree; it names up to ten tensors of each kind of difference.

    Args:
        expected: shapes by name, from `tensor_shapes`.
        actual: shapes by name, of a file.
        where: name of the file, for the error.
    """
    misshapen = [
        f"{shown(name)} is {list(actual[name])[:_MAX_NAMES]}, not {list(shape)}"
        for name, shape in expected.items()
        if name in actual and actual[name] != shape
    ]
    differences = [
        _counted("missing", [name for name in expected if name not in actual]),
        _counted("unexpected", [name for name in actual if name not in expected]),
        _counted("of another shape", misshapen),
    ]
    if any(differences):
        raise CheckpointError(f"{shown(where)} does not fit its architecture: " + "; ".join(filter(None, differences)))


def _counted(adjective: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    rest = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return f"{len(names)} {adjective} ({', '.join(map(shown, names[:_MAX_NAMES]))}{rest})"
