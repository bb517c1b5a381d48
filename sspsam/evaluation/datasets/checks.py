"""Checked access to parsed annotations: every error names the file and the entry."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from sspsam.errors import DatasetError
from sspsam.images.loading import DEFAULT_MAX_PIXELS
from sspsam.utils.arrays import FloatBox, HeightWidth
from sspsam.utils.paths import shown, shown_repr
from sspsam.utils.strict_json import short_repr

_T = TypeVar("_T")
_LARGEST_COORDINATE: Final = 100_000  # pixels; images have at most `DEFAULT_MAX_PIXELS`
_MOST_BITS: Final = 64
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
    """Return `value` if it is a list.

    Raises:
        DatasetError: not a list.
    """
    if not isinstance(value, list):
        raise _wrong(where, "a list", value)
    return value


def checked_text(value: Any, where: str) -> str:
    """Return `value` if it is a string.

    Raises:
        DatasetError: not a string.
    """
    if not isinstance(value, str):
        raise _wrong(where, "a string", value)
    return value


def checked_identifier(value: Any, where: str) -> Identifier:
    """Return `value` if it is an integer of at most 64 bits or a string.

    Raises:
        DatasetError: neither, or an integer of more bits.
    """
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise _wrong(where, "an integer or a string", value)
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise DatasetError(f"{where} must be an integer of at most {_MOST_BITS} bits, not one of {value.bit_length()}")
    return value


def checked_side(value: Any, where: str) -> int:
    """Return `value` if it is a positive integer.

    Raises:
        DatasetError: not a positive integer.
    """
    if type(value) is not int or value < 1:
        raise _wrong(where, "a positive integer", value)
    return value


def checked_number(value: Any, where: str) -> float:
    """Return `value` if it is a finite number.

    Raises:
        DatasetError: not a finite number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
        raise _wrong(where, "a finite number", value)
    return value


def checked_coordinate(value: Any, where: str) -> float:
    """Return `value` if it is a number that can be a coordinate in pixels; pycocotools crashes with very large ones.

    Raises:
        DatasetError: not a finite number, or too large.
    """
    number = checked_number(value, where)
    if abs(number) > _LARGEST_COORDINATE:
        raise DatasetError(f"{where} has the coordinate {short_repr(value)}, which is far outside every image")
    return number


def checked_size(height: Any, width: Any, where: str) -> HeightWidth:
    """Return height and width if they are the sides of an image that can be loaded.

    Raises:
        DatasetError: a side is not a positive integer, or the image has too many pixels.
    """
    size = checked_side(height, f"{where}: the height"), checked_side(width, f"{where}: the width")
    if size[0] * size[1] > DEFAULT_MAX_PIXELS:
        raise DatasetError(
            f"{where}: {short_repr(height)} x {short_repr(width)} pixels (height x width) are more than the "
            f"{DEFAULT_MAX_PIXELS:,} that an image may have"
        )
    return size


def size_of(image: dict[str, Any], where: str) -> HeightWidth:
    """Return the checked `height` and `width` of an entry.

    Raises:
        DatasetError: a side is missing or wrong.
    """
    height, width = (member(image, name, checked_side, where) for name in ("height", "width"))
    return checked_size(height, width, where)


def checked_box(value: Any, where: str) -> FloatBox:
    """Return `value` as a tuple if it is a list x, y, width, height in pixels.

    Raises:
        DatasetError: not such a list, a negative side, or a number far outside every image.
    """
    x, y, width, height = _four_coordinates(value, where)
    if width < 0 or height < 0:
        raise DatasetError(f"{where} must be x, y, width, height, not {shown_repr(value)}: a side is negative")
    return x, y, width, height


def checked_corners(value: Any, where: str) -> FloatBox:
    """Return `value` as a tuple if it is a list x0, y0, x1, y1 in pixels.

    Raises:
        DatasetError: not such a list, corners in the wrong order, or a number far outside every image.
    """
    x0, y0, x1, y1 = _four_coordinates(value, where)
    if x1 < x0 or y1 < y0:
        raise DatasetError(
            f"{where} must be x0, y0, x1, y1, not {shown_repr(value)}: x1 and y1 lie before x0 and y0, as if they were "
            "width and height"
        )
    return x0, y0, x1, y1


def _four_coordinates(value: Any, where: str) -> list[float]:
    numbers = checked_list(value, where)
    if len(numbers) != 4:
        raise DatasetError(f"{where} must have 4 numbers, not {len(numbers)}")
    return [checked_coordinate(number, where) for number in numbers]


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
