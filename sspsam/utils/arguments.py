"""Checks of arguments: a default other than None, and whole numbers of any type."""

import operator
from enum import Enum
from typing import Final, Literal

from sspsam.utils.paths import shown


class _NotGiven(Enum):
    NOT_GIVEN = "not given"

    def __repr__(self) -> str:
        return "NOT_GIVEN"


_LARGEST: Final = 1 << 60  # larger numbers overflow in the functions that count with them
NotGiven = Literal[_NotGiven.NOT_GIVEN]
NOT_GIVEN: Final = _NotGiven.NOT_GIVEN
"""Default of an argument for which None is an error, since None is often the result of a function that failed."""


def whole_number(name: str, value: object, minimum: int) -> int:
    """Return a whole number, also of NumPy's types, as an `int`.

    Raises:
        ValueError: not a whole number, or below the minimum.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]  # anything else raises TypeError
    except TypeError:
        raise ValueError(f"{name} must be a whole number, {minimum} or more, not {shown(repr(value))}") from None
    if not minimum <= number <= _LARGEST:
        raise ValueError(f"{name} must be a whole number, {minimum} or more, not {shown(repr(value))}")
    return number
