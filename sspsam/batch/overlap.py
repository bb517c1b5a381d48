"""Checks that no image of a batch lies in the output folder, where a mask could replace it."""

import os
from collections.abc import Iterable
from pathlib import Path

from sspsam.batch.manifest import Task
from sspsam.errors import ManifestError, StorageError
from sspsam.utils.file_status import identity, is_folder, status_of
from sspsam.utils.paths import shown


def require_no_input_in(output: Path, source: Path | None, tasks: Iterable[Task]) -> None:
    """Refuse an output folder that is the input, lies above the input, or holds an image of the batch.

    Args:
        output: folder of the run; it need not exist.
        source: folder, list, table or image; None: a list of paths.
        tasks: of all shards.

    Raises:
        ManifestError: the message names the input or the image.
    """
    status = status_of(output, StorageError)
    if status is None:
        return
    source_is_folder = source is not None and is_folder(source, ManifestError)
    if source is not None and source_is_folder:
        _require_not_above(output, status, Path(os.path.realpath(source)))
    real_output = os.path.realpath(output)
    for task in tasks:
        if task.problem is not None or (source_is_folder and not task.path.is_symlink()):
            continue  # unreadable; or below the input, which lies outside of the output and skips it when listed
        if Path(os.path.realpath(task.path)).is_relative_to(real_output):
            raise ManifestError(
                f"the image {shown(task.image)} lies in the output folder {shown(output)}: choose another folder"
            )


def _require_not_above(output: Path, status: os.stat_result, folder: Path) -> None:
    for parent in (folder, *folder.parents):
        parent_status = status_of(parent, ManifestError)
        if parent_status is not None and identity(parent_status) == identity(status):
            relation = "is the input" if parent == folder else f"contains the input {shown(folder)}"
            raise ManifestError(f"{shown(output)} {relation}: choose another folder for the masks")
