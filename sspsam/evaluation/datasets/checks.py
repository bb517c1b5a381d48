"""Checked access to parsed annotations: every error names the file and the entry."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sspsam.errors import DatasetError
from sspsam.evaluation.datasets.entry import Box
from sspsam.utils.paths import shown
from sspsam.utils.strict_json import short_repr

_T = TypeVar("_T")
Identifier = int | str


def read_json(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        DatasetError: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{shown(path)} cannot be read as JSON: {shown(error)}") from error


def checked_object(value: Any, where: str) -> dict[str, Any]:
    """Return `value` if it is an object."""
    if not isinstance(value, dict):
        raise _wrong(where, "an object", value)
    return value


def checked_list(value: Any, where: str) -> list[Any]:
    """Return `value` if it is a list."""
    if not isinstance(value, list):
        raise _wrong(where, "a list", value)
    return value


def checked_text(value: Any, where: str) -> str:
    """Return `value` if it is a string."""
    if not isinstance(value, str):
        raise _wrong(where, "a string", value)
    return value


def checked_identifier(value: Any, where: str) -> Identifier:
    """Return `value` if it is an integer or a string."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise _wrong(where, "an integer or a string", value)
    return value


def checked_side(value: Any, where: str) -> int:
    """Return `value` if it is a positive integer."""
    if type(value) is not int or value < 1:
        raise _wrong(where, "a positive integer", value)
    return value


def checked_number(value: Any, where: str) -> float:
    """Return `value` if it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
        raise _wrong(where, "a finite number", value)
    return value


def checked_box(value: Any, where: str) -> Box:
    """Return `value` as a tuple if it is a list of four finite numbers."""
    numbers = checked_list(value, where)
    if len(numbers) != 4:
        raise DatasetError(f"{where} must have 4 numbers, not {len(numbers)}")
    x, y, a, b = (checked_number(number, where) for number in numbers)
    return x, y, a, b


def member(entry: dict[str, Any], name: str, check: Callable[[Any, str], _T], where: str) -> _T:
    """Return the checked value of `name` in an entry.

    Args:
        entry: an object of the file.
        name: of the value.
        check: one of the functions of this module.
        where: file and entry, for errors.

    Raises:
        DatasetError: there is none, or it is of a wrong kind.
    """
    if name not in entry:
        raise DatasetError(f"{where} lacks {name!r}")
    return check(entry[name], f"{where}: {name!r}")


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _wrong(where: str, expected: str, value: Any) -> DatasetError:
    return DatasetError(f"{where} must be {expected}, not {type(value).__name__} ({short_repr(value)})")
