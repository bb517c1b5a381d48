"""Load the checkpoint of a pickled predictor again, in another process or on another computer."""

import os

from sspsam.checkpoints.format import load_checkpoint
from sspsam.checkpoints.hub_options import HubOptions
from sspsam.checkpoints.resolve import resolve
from sspsam.config import ModelConfig
from sspsam.errors import CheckpointError, UnsavedModelError
from sspsam.identity import PredictorIdentity
from sspsam.models import SSPSAM


def load_again(identity: PredictorIdentity) -> tuple[SSPSAM, ModelConfig]:
    """Return the network and the configuration: by path, or by name where another computer has no such path.

    Raises:
        UnsavedModelError: the identity names no checkpoint.
        CheckpointError: the checkpoint has other weights now.
    """
    checkpoint = identity.checkpoint
    if checkpoint is None:
        raise UnsavedModelError("the pickled predictor names no checkpoint")
    path = checkpoint.path
    if not os.path.exists(path):
        path = resolve(checkpoint.name, HubOptions(checkpoint.revision)).path
    model, config = load_checkpoint(path)
    if config.fingerprint != identity.fingerprint:
        raise CheckpointError(
            f"the pickled predictor belongs to a checkpoint with the fingerprint {identity.fingerprint[:20]}..., but "
            f"{path} has {config.fingerprint[:20]}...: pickle the predictor again, or restore the checkpoint"
        )
    return model, config
