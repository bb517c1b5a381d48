"""The library's own checkpoint format: a directory with `config.json` and `model.safetensors`.

A checkpoint may name its image encoders by their digest instead of holding them, see `sspsam.checkpoints.encoders`.

`save_checkpoint` writes both files or neither. `load_checkpoint` checks everything that can be checked and then maps
the weights: the model is built without storage, its tensors are views of the file, and pages are read when they are
first touched. Weights stored in half precision are widened to float32, which copies them.
"""

import os
from typing import NamedTuple

import torch
from safetensors.torch import load_file

from sspsam.checkpoints.digests import require_unchanged
from sspsam.checkpoints.directory import check_checkpoint, read_config
from sspsam.checkpoints.encoder_search import encoder_files
from sspsam.checkpoints.encoders import note_user_of
from sspsam.checkpoints.hub_options import HubOptions
from sspsam.checkpoints.saving import save_checkpoint
from sspsam.checkpoints.tensor_files import is_of_encoders
from sspsam.config import ModelConfig
from sspsam.devices import naming_out_of_memory
from sspsam.models import SSPSAM
from sspsam.utils.files import FileVersion

__all__ = ["LoadedModel", "load_checkpoint", "load_model", "read_config", "save_checkpoint"]


class LoadedModel(NamedTuple):
    """The model of a checkpoint, in float32 on the CPU, in evaluation mode and frozen.

    `encoders` is the file that its image encoders were read from.
    """

    model: SSPSAM
    config: ModelConfig
    encoders: FileVersion


@naming_out_of_memory("not enough memory to load the checkpoint")
def load_checkpoint(path: str | os.PathLike[str], *, verify: bool | None = None) -> tuple[SSPSAM, ModelConfig]:
    """Load all of a checkpoint, or raise an error; see `load_model`.

    Returns:
        The model in float32 on the CPU, in evaluation mode and frozen, and its configuration.
    """
    loaded = load_model(path, verify=verify)
    return loaded.model, loaded.config


@naming_out_of_memory("not enough memory to load the checkpoint")
def load_model(
    path: str | os.PathLike[str],
    *,
    verify: bool | None = None,
    options: HubOptions = HubOptions(),  # noqa: B008  # frozen
) -> LoadedModel:
    """Load all of a checkpoint, or raise an error.

    Args:
        path: a directory with `config.json` and `model.safetensors`, or a `.safetensors` file with a `config.json`
            beside it.
        verify: whether to compare the SHA-256 of the weights with the one that `config.json` states. None: unless this
            file was verified before and has not changed since. True: always. False: never.
        options: the cache in which image encoders that the checkpoint only names are looked for.

    Raises:
        CheckpointNotFoundError: no checkpoint there.
        ConfigError: a damaged `config.json`.
        CheckpointError: damaged weights, or tensors that are missing, unexpected or of another shape.
        DigestMismatchError: weights other than those the configuration was written for.
        EncodersMissingError: the checkpoint names image encoders that are not on this computer.
    """
    checked = check_checkpoint(path, verify=verify, encoder_files=encoder_files(options))
    with torch.device("meta"):
        model = SSPSAM(checked.config.architecture)
    with torch.device("cpu"):  # an application may have another default device
        stored = load_file(checked.weights)
        if checked.encoders.path != checked.weights:
            encoders = load_file(checked.encoders.path)
            stored |= {name: tensor for name, tensor in encoders.items() if is_of_encoders(name)}
        tensors = {name: tensor.to(torch.float32) for name, tensor in stored.items()}
        require_unchanged(checked.weights, checked.state)
        require_unchanged(checked.encoders.path, checked.encoders.state)
        model.load_state_dict(tensors, strict=True, assign=True)
    note_user_of(checked.encoders.path, checked.weights.parent)
    return LoadedModel(model.requires_grad_(False).eval(), checked.config, checked.encoders)
