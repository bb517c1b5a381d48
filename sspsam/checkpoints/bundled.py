"""The model that is bundled with the package: never downloaded, never written to."""

import os
from pathlib import Path
from typing import Final

from sspsam._version import __version__
from sspsam.checkpoints.directory import CHECKPOINT_FILES, CONFIG_NAME
from sspsam.checkpoints.hub_options import HubOptions
from sspsam.checkpoints.names import BUNDLED
from sspsam.errors import CheckpointNotFoundError, warn

BUNDLED_DIRECTORY: Final = Path(__file__).parents[1] / "bundled" / BUNDLED


def bundled_gigabytes() -> float | None:
    """Size of the bundled files in GB; None if one is missing."""
    try:
        return sum((BUNDLED_DIRECTORY / name).stat().st_size for name in CHECKPOINT_FILES) / 1e9
    except OSError:
        return None


def bundled_directory(options: HubOptions, repository: str | None) -> Path:
    """The directory of the bundled model.

    Args:
        options: must name no revision, because the model is not on the Hub.
        repository: must be None, for the same reason.

    Raises:
        CheckpointNotFoundError: a revision or a repository is given, or the installation lacks a file.
    """
    for option, value in (("revision", options.revision), ("repository", repository)):
        if value:
            raise CheckpointNotFoundError(
                f"{BUNDLED!r} is bundled with sspsam {__version__} and is not on the Hub, so it has no "
                f"{option} {value!r}; leave the {option} away"
            )
    missing = [name for name in CHECKPOINT_FILES if not os.path.isfile(BUNDLED_DIRECTORY / name)]
    if missing:
        raise CheckpointNotFoundError(
            f"the bundled model {BUNDLED!r} is incomplete: {BUNDLED_DIRECTORY} has no {' and no '.join(missing)}. "
            f"Reinstall sspsam {__version__}."
        )
    if os.path.isfile(os.path.join(BUNDLED, CONFIG_NAME)):
        warn(f"{BUNDLED!r} is the bundled model; for the checkpoint in the directory of that name write './{BUNDLED}'")
    return BUNDLED_DIRECTORY
