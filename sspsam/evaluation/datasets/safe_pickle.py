"""Plain data from a pickle of annotations (protocols 0 to 5, Python 2 and 3); every class and function is refused."""

import copyreg
import io
import pickle
from pathlib import Path
from typing import Any, Final, NoReturn

from sspsam.errors import DatasetError, UnsafePickleError
from sspsam.utils.paths import shown

_ENCODINGS: Final = ("utf-8", "latin-1")  # of Python 2's `str`; the second decodes every byte


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


class _PlainUnpickler(pickle.Unpickler):
    """Unpickler that cannot obtain any class or function, so that nothing in a pickle can be called."""

    def __init__(self, content: bytes, encoding: str, path: Path) -> None:
        super().__init__(io.BytesIO(content), encoding=encoding)
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
