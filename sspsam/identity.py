"""Identity of a predictor, which determines its answers, and of its image encoders, which determine its embeddings."""

import dataclasses
import hashlib
import json
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import torch

from sspsam.config import ModelConfig
from sspsam.devices import dtype_name
from sspsam.errors import UnsavedModelError
from sspsam.utils.files import FileVersion
from sspsam.utils.paths import shown_repr

# the entries of a configuration that the embedding of an image depends on
_CLIP_VISUAL: Final = (
    *("image_size", "patch_size", "vision_width", "vision_layers", "vision_heads", "vision_mlp_width"),
    *("surgery_layers", "embed_dim"),
)
_SAM_IMAGE_ENCODER: Final = (
    *("image_size", "patch_size", "width", "layers", "heads", "mlp_width", "window_size", "global_blocks"),
    "prompt_width",
)


@dataclass(frozen=True)
class LoadedCheckpoint:
    """The checkpoint that a model was loaded from; enough to load it again in another process.

    Args:
        name, revision: as they were given to `from_pretrained`.
        path: of the local directory, or of the `.safetensors` file.
        origin: `owner/name@commit[:path]`, the path, or the version of sspsam that a bundled model comes with.
        encoders: the file that the image encoders were read from.
    """

    name: str
    revision: str | None
    path: Path
    origin: str
    encoders: FileVersion | None = dataclasses.field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the state of a file, which another process reads again."""
        return {**self.__dict__, "encoders": None}


def encoder_settings(config: ModelConfig) -> dict[str, Any]:
    """Return everything besides weights and precision that the embedding of an image depends on, by name."""
    clip, sam, preprocessing = config.architecture.clip, config.architecture.sam, config.preprocessing
    return {
        **{f"clip.{name}": getattr(clip, name) for name in _CLIP_VISUAL},
        **{f"sam.{name}": getattr(sam, name) for name in _SAM_IMAGE_ENCODER},
        **{f"preprocessing.{name}": values for name, values in preprocessing.normalization.items()},
    }


class EncoderIdentity:
    """The image encoders and their preprocessing: everything that an embedding depends on but precision and device.

    Args:
        config: of the model.
        tensors_sha256: returns the digest of the encoders' tensors, see `sspsam.config.SharedEncoders`; it is called
            once, when the fingerprint is first needed, since it may have to read all of them.
    """

    def __init__(self, config: ModelConfig, tensors_sha256: Callable[[], str]) -> None:
        self.settings = encoder_settings(config)
        self._compute = tensors_sha256
        self._lock = threading.Lock()
        self._digest: str | None = None

    @property
    def tensors_sha256(self) -> str:
        """Digest of the tensors."""
        with self._lock:
            if self._digest is None:
                self._digest = self._compute()
            return self._digest

    @property
    def fingerprint(self) -> str:
        """SHA-256 over settings and tensors, hexadecimal."""
        content = {"encoders_version": 1, "settings": self.settings, "tensors_sha256": self.tensors_sha256}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


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
        """Return the identity of a model that was just loaded or made in memory.

        Args:
            config: of the model.
            checkpoint: that the model was loaded from; None: it was made in memory.
            device: that the model computes on.
            dtype: of the image encoders' matrix products.
        """
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
