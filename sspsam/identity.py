"""Identity of a predictor: the weights, the device and the precision that determine its answers."""

import dataclasses
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from sspsam.config import ModelConfig
from sspsam.devices import dtype_name
from sspsam.errors import UnsavedModelError
from sspsam.utils.paths import shown_repr


@dataclass(frozen=True)
class LoadedCheckpoint:
    """The checkpoint that a model was loaded from; enough to load it again in another process.

    Args:
        name, revision: as they were given to `from_pretrained`.
        path: of the local directory, or of the `.safetensors` file.
        origin: `owner/name@commit[:path]`, the path, or the version of sspsam that a bundled model comes with.
    """

    name: str
    revision: str | None
    path: Path
    origin: str


@dataclass(frozen=True)
class PredictorIdentity:
    """Everything besides the input that the answers of a predictor depend on.

    Args:
        fingerprint: SHA-256 over configuration and weights; random for a model that was not loaded from a checkpoint,
            so that no other model can pass for it.
        origin: of the weights, see `LoadedCheckpoint`; `"memory"` without a checkpoint.
        device: that the model computes on.
        dtype: of the image encoders' matrix products.
        checkpoint: that the model was loaded from, if any.
    """

    fingerprint: str
    origin: str
    device: torch.device
    dtype: torch.dtype
    checkpoint: LoadedCheckpoint | None = None

    @classmethod
    def of(
        cls, config: ModelConfig, checkpoint: LoadedCheckpoint | None, device: torch.device, dtype: torch.dtype
    ) -> Self:
        """Return the identity of a model that was just loaded from `checkpoint`, or made in memory."""
        if checkpoint is None:
            return cls(f"memory-{secrets.token_hex(16)}", "memory", device, dtype)
        return cls(config.fingerprint, checkpoint.origin, device, dtype, checkpoint)

    def require_checkpoint(self) -> None:
        """Refuse what only a model from a checkpoint can do.

        Raises:
            UnsavedModelError: the model was made in memory.
        """
        if self.checkpoint is None:
            raise UnsavedModelError(
                "this predictor's model was made in memory, so that another process could not load it: call "
                "save_pretrained(directory) and pickle SSPSAMPredictor.from_pretrained(directory)"
            )

    def on(self, device: torch.device) -> Self:
        """Return the identity of the same predictor after a move to another device."""
        return dataclasses.replace(self, device=device)

    @property
    def precision(self) -> str:
        """Precision and kind of device, such as `"float16 cuda"`: part of the key of a cached embedding."""
        return f"{dtype_name(self.dtype)} {self.device.type}"

    def described(self, config: ModelConfig) -> str:
        """Return name, sizes, precision and device of a model with this configuration, on one line."""
        name = self.origin if self.checkpoint is None else self.checkpoint.name
        sizes = config.architecture
        inputs = f"CLIP {sizes.clip.image_size} and SAM {sizes.sam.image_size} pixels"
        return f"{shown_repr(name)}, {inputs}, {dtype_name(self.dtype)} on {self.device}"
