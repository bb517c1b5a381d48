"""Checks of arguments: a default other than None, and numbers of any type."""

import math
import numbers
import operator
from enum import Enum
from typing import Final, Literal

from sspsam.messages import OptionMessage, option
from sspsam.utils.paths import shown_repr


class _NotGiven(Enum):
    NOT_GIVEN = "not given"

    def __repr__(self) -> str:
        return "NOT_GIVEN"


LARGEST: Final = 1 << 60  # larger whole numbers overflow in the functions that count with them
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
        raise ValueError(f"{name} must be a whole number, {minimum} or more, not {shown_repr(value)}") from None
    if not minimum <= number <= LARGEST:
        limit = f"{minimum} or more" if number < minimum else f"at most {LARGEST:,}"
        raise ValueError(f"{name} must be a whole number, {limit}, not {shown_repr(value)}")
    return number


def true_or_false(name: str, value: object) -> bool:
    """Return a truth value, also of NumPy's type, as a `bool`.

    Raises:
        ValueError: neither True nor False; a string such as `"no"` would count as True.
    """
    if not isinstance(value, bool) and str(getattr(value, "dtype", None)) != "bool":
        raise ValueError(f"{name} must be True or False, not {shown_repr(value)}")
    return bool(value)


def real_number(name: str, value: object, minimum: float, maximum: float = math.inf) -> float:
    """Return a finite real number, also of NumPy's types, as a `float`.

    Args:
        name: of the argument, for the error.
        value: of the argument.
        minimum, maximum: range of the number, both included.

    Raises:
        ValueError: not a finite number, or out of range.
    """
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, numbers.Real) else float(value)
    except OverflowError:
        number = math.inf
    if math.isfinite(number) and minimum <= number <= maximum:
        return number
    span = f"{minimum:g} or more" if maximum == math.inf else f"from {minimum:g} to {maximum:g}"
    raise ValueError(OptionMessage(option(name), f" must be a number {span}, not {shown_repr(value)}"))
