"""The folder of the page: bounded in bytes, and without files that are no longer needed."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from os import stat_result
from pathlib import Path

from sspsam.demo.limits import Limits
from sspsam.demo.scenes import EXAMPLE_FILES
from sspsam.errors import NoSpaceError


def require_room(folder: Path, limits: Limits) -> None:
    """Delete old files, and check that the folder may grow.

    Raises:
        NoSpaceError: the files that are left have more bytes than the limit.
    """
    delete_old_files(folder, limits.file_seconds)
    if sum(status.st_size for _, status in _files(folder)) > limits.max_folder_bytes:
        raise NoSpaceError("The page holds too many files of visitors at the moment: try again later.")


def delete_old_files(folder: Path, seconds: float) -> None:
    """Delete the files that were written longer ago than a number of seconds, except the examples of the page."""
    oldest = time.time() - seconds
    for path, status in _files(folder):
        if status.st_mtime < oldest and path.name not in EXAMPLE_FILES:
            with suppress(OSError):
                path.unlink()


def _files(folder: Path) -> Iterator[tuple[Path, stat_result]]:
    """Yield all files below a folder; others may delete files at the same time."""
    for path in list(folder.rglob("*")):
        with suppress(OSError):
            if os.path.isfile(path):
                yield path, path.stat()
