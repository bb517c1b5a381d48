"""The files on this computer that may hold the image encoders that a checkpoint names."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

from sspsam.checkpoints.bundled import BUNDLED_DIRECTORY
from sspsam.checkpoints.cache_listing import cached_checkpoints
from sspsam.checkpoints.directory import WEIGHTS_NAME, encoders_beside, read_config
from sspsam.checkpoints.encoders import EncoderFiles, encoder_store, stored_encoders
from sspsam.checkpoints.hub_options import HubOptions
from sspsam.checkpoints.tensor_files import encoder_entries
from sspsam.checkpoints.tensor_shapes import tensor_shapes
from sspsam.config import ModelConfig
from sspsam.errors import SSPSAMError

_DEPTH: Final = 2  # folders between the root of the store and a conversion: repository and commit


def encoder_files(options: HubOptions) -> EncoderFiles:
    """Return the function that lists files: beside the checkpoint, in the local store, in other local checkpoints.

    Args:
        options: the cache that is searched besides the usual one.
    """
    return partial(_files, options)


def _files(options: HubOptions, directory: Path, config: ModelConfig) -> Iterator[Path]:
    yield from encoders_beside(directory, config)
    digest = config.encoders.sha256 if config.encoders else ""
    parents = Path(os.path.realpath(directory)).parents
    stores = [parents[_DEPTH] / "encoders"] if len(parents) > _DEPTH else []  # of a conversion in any cache
    stores += [encoder_store(options), encoder_store(HubOptions())]
    yield from filter(os.path.isfile, dict.fromkeys(stored_encoders(store, digest) for store in stores))
    yield from _in_other_checkpoints(options, config)


def _in_other_checkpoints(options: HubOptions, config: ModelConfig) -> Iterator[Path]:
    """Yield the weights of complete checkpoints in the cache whose image encoders have the same shape."""
    shapes = encoder_entries(tensor_shapes(config.architecture))
    for directory in [*_ready(options), BUNDLED_DIRECTORY]:
        try:
            other = read_config(directory)
        except SSPSAMError:
            continue
        if other.encoders is None and encoder_entries(tensor_shapes(other.architecture)) == shapes:
            yield directory / WEIGHTS_NAME


def _ready(options: HubOptions) -> list[Path]:
    try:
        return [checkpoint.path for checkpoint in cached_checkpoints(options) if checkpoint.state == "ready"]
    except SSPSAMError:  # a cache that this user may not read
        return []
