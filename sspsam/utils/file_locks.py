"""Locks on open files, which the operating system releases when the process ends."""

import sys
from io import FileIO


def lock_file(file: FileIO) -> None:
    """Lock a file until it is closed or this process ends.

    Raises:
        BlockingIOError, PermissionError: another process holds the lock.
        OSError: the file system does not support locks.
    """
    if sys.platform == "win32":
        import msvcrt

        file.seek(1 << 40)  # a byte behind the end of the file, so that the lock blocks no reader
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
