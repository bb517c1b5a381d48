"""Frozen dataclasses from untrusted JSON: every entry of the right type, none missing, none unknown."""

import dataclasses
import json
from collections.abc import Iterable
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from sspsam.errors import ConfigError
from sspsam.utils.paths import shown_repr

_T = TypeVar("_T")


def require(condition: bool, message: str) -> None:
    """Check a condition.

    Raises:
        ConfigError: the condition is False; `message` is its text.
    """
    if not condition:
        raise ConfigError(message)


def parse_json_object(text: str, where: str) -> dict[str, Any]:
    """Parse a JSON object without duplicate keys; `where` names it in errors.

    Raises:
        ConfigError: not valid JSON, no object, or a key occurs twice.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        name = repeated_name(pairs)
        require(name is None, f"{where} has a duplicate entry, {shown_repr(name)}")
        return dict(pairs)

    try:
        data = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{where} is not valid JSON: {_json_reason(error)}") from error
    require(isinstance(data, dict), f"{where} must hold a JSON object")
    return data  # type: ignore[no-any-return]  # checked one line above


def repeated_name(pairs: Iterable[tuple[str, Any]]) -> str | None:
    """Return the first name that occurs a second time in the entries of a JSON object; None without one."""
    names: set[str] = set()
    for name, _ in pairs:
        if name in names:
            return name
        names.add(name)
    return None


def _json_reason(error: ValueError | RecursionError) -> str:
    """Return why JSON cannot be parsed; Python's own words about its limits advise to change the program."""
    if isinstance(error, RecursionError):
        return "its values are nested too deeply"
    return str(error) if isinstance(error, json.JSONDecodeError) else "it has a number with too many digits"


def dataclass_from_json(kind: type[_T], data: Any, where: str, absent: frozenset[str] = frozenset()) -> _T:
    """Build a dataclass from JSON that holds all of its entries and no others.

    Args:
        kind: the dataclass; its entries may be dataclasses and tuples.
        data: the parsed JSON.
        where: name of `data` in errors.
        absent: entries of the dataclass that `data` must not hold.

    Raises:
        ConfigError: an entry is missing, unknown or of a wrong type, or the dataclass refuses its value.
    """
    require(isinstance(data, dict), f"{where} must be an object")
    hints = {name: hint for name, hint in get_type_hints(kind).items() if name not in absent}
    unknown = [name[:60] for name in sorted(set(data) - set(hints))]
    missing = [name for name in hints if name not in data]
    require(not unknown, f"{where} has unknown entries: {', '.join(unknown[:10])}")
    require(not missing, f"{where} lacks {', '.join(missing[:10])}")
    return kind(**{name: _value(hint, data[name], f"{where}.{name}") for name, hint in hints.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return dataclass_from_json(hint, value, where)  # type: ignore[arg-type]  # a dataclass type, checked one line above
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        require(isinstance(value, list), f"{where} must be a list")
        if kinds[-1] is not ...:
            require(len(value) == len(kinds), f"{where} must have {len(kinds)} entries, not {len(value)}")
        return tuple(_value(kinds[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    expected = (int, float) if hint is float else (hint,)
    require(
        type(value) in expected,
        f"{where} must be {hint.__name__}, not {type(value).__name__} ({short_repr(value)})",
    )
    if hint is not float:
        return value
    try:
        return float(value)
    except OverflowError:
        raise ConfigError(f"{where} is too large for a float") from None


def short_repr(value: Any) -> str:
    """Return a JSON value for an error message; of a list or object, which may be nested deeply, only the type."""
    return type(value).__name__ if isinstance(value, list | dict) else shown_repr(value)[:60]
