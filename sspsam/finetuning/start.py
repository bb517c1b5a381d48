"""The starting point: a checkpoint, its network, and the predictor that encodes images."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from sspsam import hub
from sspsam.checkpoints.digests import cache_home
from sspsam.checkpoints.format import load_checkpoint
from sspsam.config import ModelConfig
from sspsam.devices import checked_device
from sspsam.errors import FinetuningError
from sspsam.finetuning.embeddings import NotingCache
from sspsam.identity import LoadedCheckpoint
from sspsam.messages import OptionMessage, argument
from sspsam.models import SSPSAM
from sspsam.predictor import SSPSAMPredictor
from sspsam.text.encoder import tokenizer_for
from sspsam.text.tokenizer import Tokenizer
from sspsam.utils.paths import shown

_DRAWN_SHAPES: Final = "drawn shapes"  # in the source of the bundled model, and of all that start from it


@dataclass(frozen=True)
class StartOptions:
    """The checkpoint to start from, and how its images are encoded.

    Args:
        model, revision, cache_dir, device: as in `SSPSAMPredictor.from_pretrained`.
        dtype: precision of the image encoders; None: the predictor's default.
        embeddings: folder of the embeddings, shared by all runs; None: in sspsam's own cache.
        embedding_dtype: of the embeddings on disk; float16 takes half the space and rounds the features.
    """

    model: str
    revision: str | None = None
    cache_dir: Path | None = None
    device: str | None = None
    dtype: str | None = None
    embeddings: Path | None = None
    embedding_dtype: str = "float32"

    def cache(self) -> NotingCache:
        """Return the cache of the embeddings."""
        return NotingCache(self.embeddings or _default_folder(), dtype=self.embedding_dtype)


@dataclass(frozen=True, eq=False)
class Start:
    """A loaded starting point.

    Args:
        model: the network on the CPU in float32, frozen.
        config: of the model.
        checkpoint: its source.
        tokenizer: of the model.
        device: of the training.
        options: as given.
    """

    model: SSPSAM
    config: ModelConfig
    checkpoint: LoadedCheckpoint
    tokenizer: Tokenizer
    device: torch.device
    options: StartOptions

    @classmethod
    def of(cls, options: StartOptions) -> "Start":
        """Resolve and load a checkpoint.

        Raises:
            CheckpointNotFoundError, HubError, ConfigError, CheckpointError, DeviceError: as
                `SSPSAMPredictor.from_pretrained`.
        """
        device = checked_device(options.device)
        resolved = hub.resolve(options.model, hub.HubOptions.of(options.revision, options.cache_dir, False, None))
        with hub.repair_command_in_errors(resolved):
            model, config = load_checkpoint(resolved.path)
        checkpoint = LoadedCheckpoint(options.model, options.revision, resolved.path.absolute(), resolved.origin)
        return cls(model, config, checkpoint, tokenizer_for(config), device, options)

    @property
    def knows_drawn_shapes(self) -> bool:
        """True for the bundled model and for those that were fine-tuned from it."""
        return _DRAWN_SHAPES in self.config.source

    def predictor(self, device: torch.device) -> SSPSAMPredictor:
        """Return a predictor of the network that encodes images on a device and stores their embeddings."""
        options = self.options
        cache = options.cache()
        return SSPSAMPredictor(
            self.model,
            self.config,
            device=device,
            dtype=options.dtype,
            embedding_cache=cache,
            checkpoint=self.checkpoint,
        )

    def require_other_folder(self, output: Path) -> None:
        """Refuse to write into the folder that the training starts from.

        Raises:
            FinetuningError: it is the same folder.
        """
        source = self.checkpoint.path if os.path.isdir(self.checkpoint.path) else self.checkpoint.path.parent
        if os.path.realpath(output) == os.path.realpath(source):
            raise FinetuningError(
                f"{shown(output)} holds the checkpoint that the training starts from: choose another output folder"
            )


def _default_folder() -> Path:
    try:
        return cache_home() / "embeddings"
    except RuntimeError as error:
        raise FinetuningError(
            OptionMessage("there is no home folder for embeddings: name one with ", argument("embeddings=", "--cache"))
        ) from error
