"""A pickle's content as plain values: nothing that the pickle names is imported, called or built.

`check_pickle` must have accepted the pickle before: it bounds size and depth, and excludes containers that hold
themselves. The states of `Unbuilt` objects may lead back to these objects.
"""

import io
import pickletools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sspsam.checkpoints.pickle_names import ORDERED_DICT


@dataclass(frozen=True)
class Global:
    """The name of a class or function."""

    name: str


@dataclass(eq=False, repr=False)  # objects may hold each other, and be large
class Unbuilt:
    """An object that the pickle would build by calling a class or a function, which was not called.

    Args:
        maker: the class or function, a `Global` in every sound pickle.
        arguments: of the call.
        state: that the object would be given.
        entries: that the object would be given like a dictionary; those of a list are not kept.
    """

    maker: Any
    arguments: Any
    state: Any = None
    entries: dict[Any, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the class or function."""
        return self.maker.name if isinstance(self.maker, Global) else "an object of its own making"


@dataclass(frozen=True, eq=False, repr=False)
class Reference:
    """A persistent id: in PyTorch's archives the description of a record of tensor data."""

    content: Any


@dataclass(frozen=True, eq=False, repr=False)
class OpaqueKey:
    """A key that is no text or number; it is not hashed, which can take for ever for nested tuples."""

    content: Any


_CONSTANTS: Final = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS: Final = (
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINSTRING", "SHORT_BINUNICODE"),
)
_TUPLE_LENGTHS: Final = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read_values(pickle: bytes) -> Any:
    """Return the content of a pickle with a `Global`, `Unbuilt` or `Reference` for everything but plain data.

    Raises:
        Exception: of any kind; the pickle is damaged, or uses an operation that PyTorch does not write.
    """
    reader = _ValueReader()
    for opcode, argument, _ in pickletools.genops(io.BytesIO(pickle)):
        if opcode.name == "STOP":
            return reader.pop()
        reader.step(opcode.name, argument)
    raise ValueError("it has no end")


def mapping_of(value: Any) -> Mapping[Any, Any] | None:
    """Return the entries of a dictionary or of an `OrderedDict`; None for any other value."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, Unbuilt) or value.maker != Global(ORDERED_DICT):
        return None
    pairs = value.arguments[0] if isinstance(value.arguments, tuple) and value.arguments else []  # as Python 2 wrote it
    return {**{key: entry for key, entry in pairs if isinstance(key, str)}, **value.entries}


class _ValueReader:
    """The stack and the memo of a pickle that is being read."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _LITERALS:
            self._stack.append(argument)
        elif name == "GLOBAL":
            self._stack.append(Global(str(argument).replace(" ", ".")))
        elif name == "MARK":
            self._marks.append(len(self._stack))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self._stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[argument])
        elif name in ("EMPTY_LIST", "EMPTY_DICT"):
            self._stack.append([] if name == "EMPTY_LIST" else {})
        elif name in _TUPLE_LENGTHS:
            self._stack.append(tuple(self._pop_last(_TUPLE_LENGTHS[name])))
        elif name == "TUPLE":
            self._stack.append(tuple(self._pop_to_mark()))
        elif name != "PROTO":
            self._combine(name)

    def _combine(self, name: str) -> None:
        """Operations that put values into a container, or that would build an object."""
        if name in ("APPEND", "APPENDS"):
            values = self._pop_last(1) if name == "APPEND" else self._pop_to_mark()
            if not isinstance(self._stack[-1], Unbuilt):
                self._top(list).extend(values)
        elif name in ("SETITEM", "SETITEMS"):
            values = self._pop_last(2) if name == "SETITEM" else self._pop_to_mark()
            self._set_items(values)
        elif name == "BINPERSID":
            self._stack.append(Reference(self.pop()))
        elif name == "BUILD":
            state = self.pop()
            self._top(Unbuilt).state = state
        elif name in ("NEWOBJ", "REDUCE"):
            self._stack.append(Unbuilt(*self._pop_last(2)))
        else:
            raise ValueError(f"it uses the operation {name}, which PyTorch does not")

    def pop(self) -> Any:
        return self._stack.pop()

    def _pop_last(self, count: int) -> list[Any]:
        if count > len(self._stack):
            raise ValueError("it takes more from the stack than there is")
        start = len(self._stack) - count
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _pop_to_mark(self) -> list[Any]:
        return self._pop_last(len(self._stack) - self._marks.pop())

    def _top(self, kind: type[Any]) -> Any:
        if not isinstance(self._stack[-1], kind):
            raise ValueError(f"it changes a {type(self._stack[-1]).__name__} like a {kind.__name__}")
        return self._stack[-1]

    def _set_items(self, values: list[Any]) -> None:
        top = self._stack[-1]
        target = top.entries if isinstance(top, Unbuilt) else self._top(dict)
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[key if isinstance(key, str | int | float | None) else OpaqueKey(key)] = value
