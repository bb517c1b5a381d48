"""The library's own checkpoint format: a directory with `config.json` and `model.safetensors`.

`save_checkpoint` writes both files or neither. `load_checkpoint` checks everything that can be checked and then maps
the weights: the model is built without storage, its tensors are views of the file, and pages are read when they are
first touched. Weights stored in half precision are widened to float32, which copies them.
"""

import os

import torch
from safetensors.torch import load_file

from sspsam.checkpoints.digests import require_unchanged
from sspsam.checkpoints.directory import check_checkpoint, read_config
from sspsam.checkpoints.saving import save_checkpoint
from sspsam.config import ModelConfig
from sspsam.devices import naming_out_of_memory
from sspsam.models import SSPSAM

__all__ = ["load_checkpoint", "read_config", "save_checkpoint"]


@naming_out_of_memory("not enough memory to load the checkpoint")
def load_checkpoint(path: str | os.PathLike[str], *, verify: bool | None = None) -> tuple[SSPSAM, ModelConfig]:
    """Load all of a checkpoint, or raise an error.

    Args:
        path: a directory with `config.json` and `model.safetensors`, or a `.safetensors` file with a `config.json`
            beside it.
        verify: whether to compare the SHA-256 of the weights with the one that `config.json` states. None: unless this
            file was verified before and has not changed since. True: always. False: never.

    Returns:
        The model in float32 on the CPU, in evaluation mode and frozen, and its configuration.

    Raises:
        CheckpointNotFoundError: no checkpoint there.
        ConfigError: a damaged `config.json`.
        CheckpointError: damaged weights, or tensors that are missing, unexpected or of another shape.
        DigestMismatchError: weights other than those the configuration was written for.
    """
    checked = check_checkpoint(path, verify=verify)
    with torch.device("meta"):
        model = SSPSAM(checked.config.architecture)
    with torch.device("cpu"):  # an application may have another default device
        tensors = {name: tensor.to(torch.float32) for name, tensor in load_file(checked.weights).items()}
        require_unchanged(checked.weights, checked.state)
        model.load_state_dict(tensors, strict=True, assign=True)
    return model.requires_grad_(False).eval(), checked.config
