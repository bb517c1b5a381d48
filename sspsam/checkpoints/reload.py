"""Load checkpoints for predictors: by name, again for a pickle, and as other weights for the same image encoders."""

import os
from dataclasses import replace
from functools import partial
from typing import Final

import torch

from sspsam.checkpoints.digests import file_state, record_digest, recorded_digest
from sspsam.checkpoints.format import LoadedModel, load_model
from sspsam.checkpoints.hub_options import HubOptions
from sspsam.checkpoints.resolve import repair_command_in_errors, resolve
from sspsam.checkpoints.tensor_files import canonical_sha256, encoder_entries
from sspsam.config import ModelConfig
from sspsam.errors import CheckpointError, EncodersDifferError, UnsavedModelError
from sspsam.identity import EncoderIdentity, LoadedCheckpoint, PredictorIdentity
from sspsam.models import SSPSAM
from sspsam.utils.arguments import true_or_false
from sspsam.utils.files import FileVersion
from sspsam.utils.paths import shown, shown_repr

_MOST_NAMES: Final = 5  # tensors in an error


def load_by_name(
    name_or_path: str | os.PathLike[str] | None, options: HubOptions, repository: str | None, verify: bool | None
) -> tuple[LoadedModel, LoadedCheckpoint]:
    """Find a checkpoint by its name, and load it.

    Args:
        name_or_path: see `resolve`.
        options: of the download.
        repository: see `resolve`.
        verify: whether to compare the SHA-256 of the weights; see `load_model`.

    Returns:
        The model, and the checkpoint for `load_again`.

    Raises:
        CheckpointError, HubError: as `resolve` and `load_model`.
    """
    if verify is not None:
        true_or_false("verify", verify)
    resolved = resolve(name_or_path, options, repository=repository)
    with repair_command_in_errors(resolved):
        loaded = load_model(resolved.path, verify=verify, options=HubOptions(cache_dir=options.cache_dir))
    name, path = os.fspath(name_or_path or ""), resolved.path.absolute()
    return loaded, LoadedCheckpoint(name, options.revision, path, resolved.origin, loaded.encoders)


def load_again(identity: PredictorIdentity) -> tuple[LoadedModel, LoadedCheckpoint]:
    """Load a checkpoint again: by path, or by name where another computer has no such path.

    Raises:
        UnsavedModelError: the identity names no checkpoint.
        CheckpointError: the checkpoint has other weights now.
    """
    checkpoint = identity.checkpoint
    if checkpoint is None:
        raise UnsavedModelError("the pickled predictor names no checkpoint")
    path = checkpoint.path
    if not os.path.exists(path):
        path = resolve(checkpoint.name, HubOptions.of(checkpoint.revision)).path
    loaded = load_model(path)
    fingerprint = loaded.config.fingerprint
    if fingerprint != identity.fingerprint:
        raise CheckpointError(
            f"the pickled predictor belongs to a checkpoint with the fingerprint {identity.fingerprint[:20]}..., but "
            f"{path} has {fingerprint[:20]}...: pickle the predictor again, or restore the checkpoint"
        )
    return loaded, replace(checkpoint, encoders=loaded.encoders)


def encoder_identity(model: SSPSAM, config: ModelConfig, checkpoint: LoadedCheckpoint | None) -> EncoderIdentity:
    """Return the identity of a model's image encoders; their digest is computed from the model's own tensors.

    Args:
        model: in float32.
        config: of the model.
        checkpoint: that the model was loaded from; the digest is recorded for its file, so that it is computed once.
    """
    return EncoderIdentity(config, partial(_digest, model, checkpoint.encoders if checkpoint else None))


def _digest(model: SSPSAM, file: FileVersion | None) -> str:
    """Return the digest of the image encoders: as recorded for the state of the file that was read, or computed."""
    recorded = recorded_digest(file.path, file.state, "encoders") if file else None
    if recorded is not None:
        return recorded
    state = model.state_dict()
    entries = encoder_entries({name: tuple(tensor.shape) for name, tensor in state.items()})
    digest = canonical_sha256(entries, lambda name: _bytes(state[name]), "checking the image encoders")
    if file is not None and os.path.exists(file.path) and file_state(file.path) == file.state:
        record_digest(file.path, file.state, digest, "encoders")
    return digest


def _bytes(tensor: torch.Tensor) -> memoryview:
    data: memoryview = tensor.detach().to("cpu", torch.float32).contiguous().reshape(-1).view(torch.uint8).numpy().data
    return data


def with_encoders_of(
    model: SSPSAM, loaded: LoadedModel, checkpoint: LoadedCheckpoint, encoders: EncoderIdentity
) -> SSPSAM:
    """Return a loaded model whose image encoders are those of another model, in the same memory.

    Args:
        model: has the encoders.
        loaded: gives everything else.
        checkpoint: that it was loaded from.
        encoders: identity of the encoders of `model`.

    Raises:
        EncodersDifferError: the checkpoint has other encoders; the message names the difference.
    """
    other = encoder_identity(loaded.model, loaded.config, checkpoint)
    if other.settings != encoders.settings or other.tensors_sha256 != encoders.tensors_sha256:
        raise EncodersDifferError(
            f"{shown(checkpoint.name)} cannot share the image encoders of this predictor: "
            f"{_difference(model, loaded, other, encoders)}. Load it with image encoders of its own: "
            f"SSPSAMPredictor.from_pretrained({shown_repr(checkpoint.name)})"
        )
    loaded.model.clip.visual = model.clip.visual
    loaded.model.sam.image_encoder = model.sam.image_encoder
    return loaded.model


def _difference(model: SSPSAM, loaded: LoadedModel, other: EncoderIdentity, encoders: EncoderIdentity) -> str:
    """Return what differs: entries of the configuration, else tensors."""
    settings = [
        f"{name} is {other.settings[name]}, here {value}"
        for name, value in encoders.settings.items()
        if other.settings[name] != value
    ]
    if settings:
        return "; ".join(settings[:_MOST_NAMES])
    here, there = model.state_dict(), loaded.model.state_dict()
    names = list(encoder_entries({name: tuple(tensor.shape) for name, tensor in here.items()}))
    different = [name for name in names if _bytes(here[name]) != _bytes(there[name])]
    listed = ", ".join(different[:_MOST_NAMES]) + (" ..." if len(different) > _MOST_NAMES else "")
    return f"{len(different)} of the {len(names)} tensors of its encoders differ ({listed})"
