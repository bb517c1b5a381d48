"""The image of a corrected file, which may have been saved elsewhere than the images."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sspsam.errors import DatasetError, DatasetMissingError
from sspsam.utils.paths import shown

WORST_FOLDER: Final = "worst"  # in the folder of a fine-tuned checkpoint


def found_image(
    name: str, folders: Sequence[Path | None], where: str, *, digest: str | None = None, advice: str = ""
) -> Path:
    """Return the path of an image in the first folder that has it.

    Args:
        name: path of the image, relative to the folders.
        folders: to look in, in this order; None is left out.
        where: file that refers to the image, for errors.
        digest: SHA-256 of the image file; None: not known.
        advice: end of the error about an image that is nowhere.

    Raises:
        DatasetMissingError: no folder has it.
        DatasetError: only other images have its name.
    """
    named = list(dict.fromkeys(folder / name for folder in folders if folder is not None))
    there = [path for path in named if os.path.exists(path)]
    if not there:
        raise DatasetMissingError(f"{where} refers to {shown(named[0])}, which does not exist{advice}")
    path = next((path for path in there if digest is None or _digest(path) == digest), None)
    if path is None:
        raise DatasetError(
            f"{where} refers to {shown(there[0])}, which is another image than the one that was annotated: a later "
            f"fine-tuning may have replaced it{advice}"
        )
    return path


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DatasetError(f"{shown(path)} cannot be read: {shown(error)}") from error
