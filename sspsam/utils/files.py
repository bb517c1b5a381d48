"""Atomic files: written completely and synced under a temporary name, then renamed into place."""

import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from sspsam.errors import NoSpaceError, ReadOnlyError, SSPSAMError, StorageError
from sspsam.utils.paths import shown

_Result = TypeVar("_Result")
_STALE_SECONDS = 3600  # since the last byte of a temporary file
TEMPORARY_PATTERN = ".sspsam-*.tmp"  # of the names that `atomic_replace` gives to files before they are complete
_SPARE_BYTES = 16 << 20  # for the file system's own structures


@dataclass(frozen=True)
class FileVersion:
    """A file in one state.

    Args:
        path: of the file.
        state: the fields of its status that identify its content: size, times, inode, device.
    """

    path: Path
    state: dict[str, int]


def storage_error(path: Path, error: OSError) -> StorageError:
    """Return the `StorageError` for an operating system error that was raised while writing `path`."""
    kind: type[StorageError] = StorageError
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):  # Windows has no EDQUOT
        kind = NoSpaceError
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        kind = ReadOnlyError
    hint = ""
    if error.errno == errno.ENOENT and path.parent.name and not os.path.lexists(path.parent):
        hint = f"; create the folder {shown(path.parent)} first"
    return kind(f"cannot write {shown(path)}: {shown(error.strerror or error)}{hint}")


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError`, or the `ValueError` of an invalid file name, into a `StorageError` that names the file."""
    try:
        yield
    except SSPSAMError:
        raise
    except OSError as error:
        raise storage_error(path, error) from error
    except ValueError as error:
        raise StorageError(f"cannot write {shown(path)}: {shown(error)}") from error


def require_free_space(directory: Path, size: int, content: str) -> None:
    """Check that `size` bytes fit before writing them.

    Args:
        directory: to write to; it need not exist yet.
        size: bytes.
        content: name of the data, for the error.

    Raises:
        NoSpaceError: there is not enough free space.
    """
    with storage_errors(directory):
        existing = directory.absolute()
        while not os.path.exists(existing) and existing != existing.parent:
            existing = existing.parent
        free = shutil.disk_usage(existing).free
    if free < size + _SPARE_BYTES:
        raise NoSpaceError(
            f"{content} cannot be written: {(size + _SPARE_BYTES) / 1e6:,.0f} MB are needed in {shown(directory)}, and "
            f"{free / 1e6:,.0f} MB are free. Free some space or choose another directory."
        )


def make_directory(directory: Path) -> None:
    """Create `directory` and its parents.

    Raises:
        StorageError: it cannot be created.
    """
    with storage_errors(directory):
        missing, parent = [directory], directory.parent
        while not os.path.isdir(parent) and parent != parent.parent:
            missing.append(parent)
            parent = parent.parent
        for folder in reversed(missing):  # mkdir(parents=True) recurses, and fails for hundreds of parents
            folder.mkdir(exist_ok=True)


@contextmanager
def atomic_replace(*paths: Path, within: Path | None = None) -> Iterator[list[Path]]:
    """Yield temporary paths for `paths`; rename them into place on success, delete them on failure.

    An older file stays unchanged for every process that has it open or mapped. The last path is renamed last.

    Args:
        paths: of files.
        within: folder for the temporary files, on the same file system; None: the folder of each file.
    """
    targets = [_checked_target(path) for path in paths]
    # independent of the target's name, which may already have the greatest length that the file system allows
    temporary = [(within or target.parent) / f".sspsam-{secrets.token_hex(6)}.tmp" for target in targets]
    try:
        yield temporary
        for source, target in zip(temporary, targets, strict=True):
            with storage_errors(target):
                os.replace(source, target)
        for directory in {target.parent for target in targets}:
            with storage_errors(directory):
                _sync_directory(directory)
    except StorageError as error:  # the message names the caller's paths, not the temporary ones
        message = str(error)
        for source, path in zip(temporary, paths, strict=True):
            message = message.replace(shown(source), shown(path))
        raise type(error)(message) from error
    finally:
        for path in temporary:
            with contextlib.suppress(OSError):
                path.unlink()


def remove_stale_temporary_files(directory: Path) -> None:
    """Remove the temporary files of `atomic_replace` that killed processes left behind.

    Files that were written to in the last hour may belong to a process that still runs, and stay.
    """
    oldest_in_use = time.time() - _STALE_SECONDS
    with contextlib.suppress(OSError):
        for path in directory.glob(TEMPORARY_PATTERN):
            if path.lstat().st_mtime < oldest_in_use:
                path.unlink()


def _checked_target(path: Path) -> Path:
    """Return the path behind linked folders; refuse to replace a link, a folder or a device."""
    with storage_errors(path):
        target = Path(os.path.realpath(path))
        if not path.name:
            raise StorageError(f"cannot write {shown(path)}: the path names no file")
        if os.path.islink(path):
            raise StorageError(
                f"cannot write {shown(path)}: it is a link, and the file to which it leads is not replaced; remove the "
                "link, or choose another name"
            )
        if os.path.lexists(target) and not os.path.isfile(target):
            raise StorageError(f"cannot write {shown(path)}: it exists and is not a regular file")
    return target


def write_file(path: Path, write: Callable[[BinaryIO], _Result]) -> _Result:
    """Create `path`, let `write` fill it, sync it to disk, and return the result of `write`."""
    with storage_errors(path), path.open("xb") as file:
        result = write(file)
        file.flush()
        os.fsync(file.fileno())
    return result


def replace_file(path: Path, data: bytes, within: Path | None = None) -> None:
    """Write `data` to `path` atomically: readers see the old or the complete new content; see `atomic_replace`."""
    with atomic_replace(path, within=within) as [temporary]:
        write_file(temporary, lambda file: file.write(data))


def _sync_directory(directory: Path) -> None:
    if hasattr(os, "O_DIRECTORY"):  # a rename is durable once its directory is synced; Windows cannot sync directories
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (
                errno.EINVAL,
                errno.ENOTSUP,
            ):  # the answers of network file systems that cannot sync directories
                raise
        finally:
            os.close(descriptor)
