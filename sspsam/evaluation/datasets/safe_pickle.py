"""Plain data from a pickle of annotations (protocols 0 to 5, Python 2 and 3); every class and function is refused."""

import copyreg
import io
import pickle
from pathlib import Path
from typing import Any, Final, NoReturn

from sspsam.errors import DatasetError, UnsafePickleError
from sspsam.utils.paths import shown

_ENCODINGS: Final = ("utf-8", "latin-1")  # of Python 2's `str`; the second decodes every byte
_BYTES_OF_AN_OBJECT: Final = 3  # the shortest opcode, and the one that gives it a number


def read_pickle(path: Path) -> Any:
    """Unpickle dictionaries, lists, tuples, strings and numbers; Python 2's `str` becomes text.

    Args:
        path: of the pickle.

    Raises:
        UnsafePickleError: the pickle names a class or function; the message names it too, and nothing was run.
        DatasetError: the file cannot be read, or is damaged.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{shown(path)} cannot be read: {shown(error)}") from error
    for encoding in _ENCODINGS:
        try:
            return _unpickled(content, encoding, path)
        except UnicodeDecodeError as error:
            failure = error
    raise DatasetError(f"{shown(path)} is a damaged pickle: {shown(failure)}") from failure


def _unpickled(content: bytes, encoding: str, path: Path) -> Any:
    # an extension code whose class is cached would be resolved without `find_class`
    copyreg.clear_extension_cache()
    try:
        return _PlainUnpickler(content, encoding, path).load()
    except (DatasetError, UnicodeDecodeError):
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise DatasetError(f"{shown(path)} is a damaged pickle: {type(error).__name__}: {shown(error)}") from error


class _GuardedFile:
    """The content of a pickle, without memo indices for which the unpickler would allocate gigabytes.

    The unpickler reads each opcode and each of its arguments by a call of its own, and allocates a memo of twice the
    index that PUT or LONG_BINPUT names. Every object in a memo takes at least `_BYTES_OF_AN_OBJECT` of the file, and
    objects are numbered one after the other. Frames would be read by one call, with the opcodes in them: they are an
    optimisation, and are read as empty frames, followed by their opcodes.
    """

    __slots__ = ("_file", "_largest", "_opcode", "_read")

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)
        self._read = self._file.read
        self._largest = len(content) // _BYTES_OF_AN_OBJECT + 1
        self._opcode = b""

    def read(self, count: int) -> bytes:
        data = self._read(count)
        if count == 1:
            self._opcode = data
        elif count == 4 and self._opcode == pickle.LONG_BINPUT:
            self._check(int.from_bytes(data, "little"))
        elif count == 8 and self._opcode == pickle.FRAME:
            return bytes(count)
        return data

    def readline(self) -> bytes:
        line = self._file.readline()
        if self._opcode == pickle.PUT:
            self._check(int(line))
        return line

    def _check(self, index: int) -> None:
        if index > self._largest:
            raise pickle.UnpicklingError(f"it numbers an object {index:,}, more than the file can hold")


class _PlainUnpickler(pickle.Unpickler):
    """Unpickler that cannot obtain any class or function, so that nothing in a pickle can be called."""

    def __init__(self, content: bytes, encoding: str, path: Path) -> None:
        super().__init__(_GuardedFile(content), encoding=encoding)
        self._path = path

    def find_class(self, module: str, name: str) -> NoReturn:
        """Refuse every class and function."""
        raise UnsafePickleError(
            f"{shown(self._path)} names {shown(f'{module}.{name}')}: annotations are lists, dictionaries, strings and "
            "numbers, and need no class. Nothing in it was run. Get the file again from the owners of the data set"
        )

    def persistent_load(self, identifier: object) -> NoReturn:
        """Refuse every reference to an object outside the pickle."""
        raise UnsafePickleError(f"{shown(self._path)} refers to an object outside the file. Nothing in it was run")
