"""Format paths for messages, validate paths of the user, and open regular files."""

import os
import stat
import unicodedata
from pathlib import Path
from typing import BinaryIO, Final

from sspsam.errors import SSPSAMError

_MAX_SHOWN: Final = 200  # characters of a path or value in a message
_MAX_PATH: Final = 4096
_BIDIRECTIONAL_MARKS: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def shown(value: object) -> str:
    """Return a path or another value for a message: one line, without control characters, and not too long."""
    text = str(value)
    if len(text) > _MAX_SHOWN:
        text = f"{text[: _MAX_SHOWN // 2]}...{text[-_MAX_SHOWN // 2 :]}"
    return printable(text)


def shown_repr(value: object) -> str:
    """Return `repr(value)` for a message, as `shown` does; the kind of a value that has no `repr`.

    A list that is nested too deeply and a number of thousands of digits have none.
    """
    try:
        return shown(repr(value))
    except (RecursionError, ValueError):
        return f"<{kind_name(value)}>"


def kind_name(value: object) -> str:
    """Return the name of a value's class for a message; a class may have any name."""
    return shown(type(value).__name__)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def printable(text: str) -> str:
    """Return a text with everything escaped that could leave its line or steer a terminal.

    Control characters, line and paragraph separators, marks that change the direction of writing, and what is no
    character are escaped; spaces of all kinds and joiners, which names of files really have, are not.
    """
    if text.isprintable():
        return text
    return "".join(_escaped(character) if _is_control(character) else character for character in text)


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _BIDIRECTIONAL_MARKS


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode()


def user_path(path: str | bytes | os.PathLike[str] | os.PathLike[bytes], role: str, error: type[SSPSAMError]) -> Path:
    """Return a path of the user with `~` expanded.

    Args:
        path: as the user gave it.
        role: of the path, for messages, such as "the output folder".
        error: class to raise.

    Raises:
        SSPSAMError: of the class `error`: the path is empty (it does not mean the current folder), has a NUL character
            or characters that no file name has, or is longer than any path.
        TypeError: no string and no path.
    """
    if not isinstance(path, str | bytes | os.PathLike):
        raise TypeError(f"the path of {role} must be a string or a path, not {kind_name(path)}")
    name = os.fspath(path)
    if isinstance(name, bytes):  # of a bytes path or an entry of os.scandir(b"...")
        name = os.fsdecode(name)
    if not name or (isinstance(path, str) and not name.strip()):
        hint = "; for the current folder write '.'" if "folder" in role else ""
        raise error(f"the path of {role} is empty{hint}")
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


def user_file(path: str | bytes | os.PathLike[str] | os.PathLike[bytes], role: str, error: type[SSPSAMError]) -> Path:
    """Return a path of the user for a file, as `user_path` does.

    Raises:
        SSPSAMError: of the class `error`: also a path that ends in a separator or a dot, as a folder's may.
    """
    checked = user_path(path, role, error)
    if os.path.basename(os.fsdecode(path)) in ("", ".", ".."):
        raise error(f"the path of {role} is that of a folder: {shown(os.fsdecode(path))}; add the name of a file")
    return checked


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
