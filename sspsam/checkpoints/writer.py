"""`CheckpointWriter`: the methods of a predictor that write or publish its checkpoint."""

import os
import tempfile

import torch

from sspsam.checkpoints.encoders import encoder_store
from sspsam.checkpoints.hub_options import HubOptions
from sspsam.checkpoints.publish import push_checkpoint
from sspsam.checkpoints.saving import save_checkpoint
from sspsam.config import ModelConfig
from sspsam.models import SSPSAM
from sspsam.utils.arguments import true_or_false


class CheckpointWriter:
    """Base class of the predictor with the methods that write its checkpoint."""

    _model: SSPSAM  # in float32
    _config: ModelConfig

    def save_pretrained(
        self, directory: str | os.PathLike[str], *, dtype: str | torch.dtype = "float32", shared: bool = False
    ) -> ModelConfig:
        """Write the checkpoint and its calibration; the directory may be the one that it was loaded from.

        Args:
            directory: created if it does not exist; other files in it are kept.
            dtype: of the stored weights.
            shared: whether the checkpoint only names its image encoders, which the local store keeps once in float32.
                It is small, and complete on this computer alone; see `docs/shared-encoders.md`.

        Returns:
            The configuration as written.

        Raises:
            StorageError: not enough space, or not writable; an earlier checkpoint in the directory is unchanged.
        """
        store = encoder_store(HubOptions()) if true_or_false("shared", shared) else None
        config = save_checkpoint(directory, self._config, self._model.state_dict(), dtype, encoder_store=store)
        self._write_companions(directory, config)
        return config

    def _write_companions(self, directory: str | os.PathLike[str], config: ModelConfig) -> None:
        """Write the files beside the weights that a predictor has."""

    def push_to_hub(
        self,
        repository: str,
        *,
        dtype: str | torch.dtype = "float32",
        private: bool = False,
        token: str | bool | None = None,
    ) -> str:
        """Publish the checkpoint on the Hub with a model card, and return the commit.

        Args:
            repository: `owner/name`; created if it does not exist.
            dtype: of the stored weights.
            private: whether a new repository is private.
            token: with write access; None: that of `hf auth login` or `HF_TOKEN`.

        Raises:
            HubError: the Hub cannot be reached, or refuses.
        """
        private = true_or_false("private", private)
        with tempfile.TemporaryDirectory() as directory:
            self.save_pretrained(directory, dtype=dtype)
            return push_checkpoint(directory, repository, private=private, token=token)
