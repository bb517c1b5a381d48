"""Status of a path without exceptions of the operating system."""

import os
import stat
from pathlib import Path

from sspsam.errors import SSPSAMError
from sspsam.utils.paths import shown


def status_of(path: Path, error: type[SSPSAMError]) -> os.stat_result | None:
    """Return the status of a file or folder behind symbolic links; None if nothing is there.

    `Path.exists` and its relatives raise on Python 3.11 where a name is too long or a folder may not be entered.

    Raises:
        SSPSAMError: of the class `error`: the path cannot be looked up.
    """
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as problem:
        raise error(f"cannot read {shown(path)}: {problem.strerror or problem}") from problem
    except ValueError as problem:  # a NUL character
        raise error(f"cannot read {shown(path)}: {problem}") from problem


def is_folder(path: Path, error: type[SSPSAMError]) -> bool:
    """Return whether a path is a folder; see `status_of`."""
    status = status_of(path, error)
    return status is not None and stat.S_ISDIR(status.st_mode)


def identity(status: os.stat_result) -> tuple[int, int]:
    """Return a value that is equal for all paths, symbolic links and hard links of one file."""
    return status.st_dev, status.st_ino
