"""Writing files so that nothing is lost: beside their place, complete and on disk, then renamed."""

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from sspsam.errors import NoSpaceError, ReadOnlyError, SSPSAMError, StorageError

_Result = TypeVar("_Result")
_SPARE_BYTES = 16 << 20  # what a file system needs beside the data


def storage_error(path: Path, error: OSError) -> StorageError:
    """What went wrong while writing `path`, as an error of ours."""
    kind: type[StorageError] = StorageError
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):  # Windows knows no quota
        kind = NoSpaceError
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        kind = ReadOnlyError
    return kind(f"cannot write {path}: {error.strerror or error}")


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """An `OSError` becomes a `StorageError` that names the file; so does what no file can be named."""
    try:
        yield
    except SSPSAMError:
        raise
    except OSError as error:
        raise storage_error(path, error) from error
    except ValueError as error:
        raise StorageError(f"cannot write {str(path)!r}: {error}") from error


def require_free_space(directory: Path, size: int, what: str) -> None:
    """Refuse to begin writing `size` bytes where they cannot fit.

    Args:
        directory: where; it need not exist yet.
        size: bytes.
        what: names the data in the error.
    """
    with storage_errors(directory):
        existing = directory.absolute()
        while not existing.exists():
            existing = existing.parent
        free = shutil.disk_usage(existing).free
    if free < size + _SPARE_BYTES:
        raise NoSpaceError(
            f"{what} needs {size / 1e9:.2f} GB in {directory}, but only {free / 1e9:.2f} GB are free. "
            "Free some space or choose another place."
        )


def make_directory(directory: Path) -> None:
    """Make `directory` and its parents; a `StorageError` says why not."""
    with storage_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)


@contextmanager
def atomic_replace(*paths: Path, within: Path | None = None) -> Iterator[list[Path]]:
    """Give temporary paths beside `paths`; on success they take their places, on any failure they vanish.

    Renaming leaves an older file untouched for whoever has it open or mapped. The last path takes its place last.

    Args:
        paths: of files.
        within: folder on the same file system for the temporary ones; None: that of each file.
    """
    targets = [_checked_target(path) for path in paths]
    # of a length of its own: a name that is as long as names may be must still find room beside it
    temporary = [(within or target.parent) / f".sspsam-{secrets.token_hex(6)}.tmp" for target in targets]
    try:
        yield temporary
        for source, target in zip(temporary, targets, strict=True):
            with storage_errors(target):
                os.replace(source, target)
        for directory in {target.parent for target in targets}:
            with storage_errors(directory):
                _sync_directory(directory)
    except StorageError as error:  # in the words of the caller, who knows nothing of the files beside
        message = str(error)
        for source, path in zip(temporary, paths, strict=True):
            message = message.replace(str(source), str(path))
        raise type(error)(message) from error
    finally:
        for path in temporary:
            with contextlib.suppress(OSError):
                path.unlink()


def _checked_target(path: Path) -> Path:
    """Where a file is really to be: behind a link, and never in the place of a folder or a device."""
    with storage_errors(path):
        target = Path(os.path.realpath(path))
        if not path.name:
            raise StorageError(f"cannot write {path}: it names no file")
        if os.path.lexists(target) and not target.is_file():
            raise StorageError(f"cannot write {path}: there is something that is no file")
    return target


def write_file(path: Path, write: Callable[[BinaryIO], _Result]) -> _Result:
    """Create `path`, let `write` fill it, and wait until it is on disk; returns what `write` returns."""
    with storage_errors(path), path.open("xb") as file:
        result = write(file)
        file.flush()
        os.fsync(file.fileno())
    return result


def replace_file(path: Path, data: bytes, within: Path | None = None) -> None:
    """Write `data` to `path`, which holds its old content or all of the new at every moment; `within`: as above."""
    with atomic_replace(path, within=within) as [temporary]:
        write_file(temporary, lambda file: file.write(data))


def _sync_directory(directory: Path) -> None:
    if hasattr(os, "O_DIRECTORY"):  # renames are durable only once their directory is; Windows has no such call
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # as some network file systems answer for folders
                raise
        finally:
            os.close(descriptor)
