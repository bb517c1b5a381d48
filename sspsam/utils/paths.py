"""Format paths for messages, validate paths of the user, and open regular files."""

import os
import stat
from pathlib import Path
from typing import BinaryIO, Final

from sspsam.errors import SSPSAMError

_MAX_SHOWN: Final = 200  # characters of a path or value in a message
_MAX_PATH: Final = 4096


def shown(value: object) -> str:
    """Return a path or another value for a message: one line, without control characters, and not too long."""
    text = str(value)
    if len(text) > _MAX_SHOWN:
        text = f"{text[: _MAX_SHOWN // 2]}...{text[-_MAX_SHOWN // 2 :]}"
    return printable(text)


def printable(text: str) -> str:
    """Return a text with its control characters escaped, so that it stays on its line and cannot steer a terminal."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "backslashreplace").decode()
        for character in text
    )


def user_path(path: str | os.PathLike[str], role: str, error: type[SSPSAMError]) -> Path:
    """Return a path of the user with `~` expanded.

    Args:
        path: as the user gave it.
        role: of the path, for messages, such as "the output folder".
        error: class to raise.

    Raises:
        SSPSAMError: of the class `error`: the path is empty (it does not mean the current folder), has a NUL character
            or characters that no file name has, or is longer than any path.
    """
    name = os.fspath(path)
    if not name or (isinstance(path, str) and not name.strip()):
        raise error(f"the path of {role} is empty; for the current folder write '.'")
    if len(name) > _MAX_PATH:
        kind = "a data: URL, not a path" if name[:5].lower() == "data:" else "longer than any path"
        raise error(f"the path of {role} is {kind}: {shown(name)}")
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        raise error(f"the path of {role} has characters that no file name has: {shown(name)}") from None
    if "\0" in name:
        raise error(f"the path of {role} has a NUL character: {shown(name)}")
    return Path(os.path.expanduser(name))


def open_regular_file(path: Path, error: type[SSPSAMError]) -> BinaryIO:
    """Open a file for reading; never wait for the writer of a pipe.

    Raises:
        SSPSAMError: of the class `error`: the path is a folder, a pipe, a socket or a device.
        OSError: the file cannot be opened.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        descriptor = os.open(path, flags)
    except ValueError as problem:  # a NUL character
        raise error(f"cannot read {shown(path)}: {problem}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise error(f"{shown(path)} is not a regular file")
    return os.fdopen(descriptor, "rb")
