"""Environment variables that turn a part of the program off."""

import os
from typing import Final

from sspsam.errors import warn
from sspsam.utils.paths import shown

_OFF: Final = frozenset({"0", "false", "off", "no"})
_ON: Final = frozenset({"", "1", "true", "on", "yes"})


def switched_on(name: str) -> bool:
    """Return False if an environment variable is `0`, `false`, `off` or `no`, in capitals or not; otherwise True.

    An unknown value is on, with a warning.

    Args:
        name: of the variable.
    """
    value = os.environ.get(name, "").strip().lower()
    if value not in _OFF | _ON:
        warn(f"{name}={shown(value)} is neither 0 nor 1: it counts as 1. 0, false, off and no turn it off.")
    return value not in _OFF
