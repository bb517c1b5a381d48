"""Static check of a pickle: which classes and functions it names, and how large its objects would be."""

import io
import pickletools
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from sspsam.checkpoints.pickle_names import OWN_SETSTATE
from sspsam.errors import CheckpointError, UnsafeCheckpointError
from sspsam.utils.paths import shown

_MAX_OPERATIONS: Final = 1 << 20  # ten times those of a complete training state
_MAX_WORK: Final = 1 << 27  # sum of the sizes of everything pushed, objects that are pushed again count again
_MAX_DEPTH: Final = 100
_GETATTR: Final = ("builtins.getattr", "__builtin__.getattr")


def check_pickle(pickle: bytes, allowed: Container[str], path: Path) -> None:
    """Refuse a pickle that names anything beyond `allowed`, or whose objects would be far larger; nothing is unpickled.

    Args:
        pickle: to check.
        allowed: full names of the classes and functions that the pickle may name.
        path: of the checkpoint, for errors.

    Raises:
        UnsafeCheckpointError: it names another class or function.
        CheckpointError: it is damaged, or its objects would be larger than those of any checkpoint.
    """
    simulation = _PickleSimulation()
    failure: Exception | None = None
    try:
        simulation.run(pickle)
    except Exception as error:  # a damaged pickle can raise anything
        failure = error
    forbidden = sorted(shown(name) for name in simulation.names if name not in allowed)
    if forbidden:
        raise UnsafeCheckpointError(
            f"{shown(path)} names {', '.join(forbidden[:10])}, which no checkpoint needs. It was not run. "
            "If you trust the file, load it with torch yourself and save its 'model' state alone."
        ) from failure
    if failure is not None:
        raise CheckpointError(f"{shown(path)} is damaged: its data.pkl: {shown(failure)}") from failure


@dataclass(slots=True)
class _Object:
    """Size and depth of an object that the pickle would create.

    Args:
        size: number of parts and of characters of text, each counted as often as it is referred to.
        depth: of nesting.
        text: of a string or a name; of a tuple, that of its last entry.
        attribute: full name of the attribute that a tuple of a class or function and a text stands for.
        is_name: whether it is a class or function itself.
        maker: name of the class or function whose call would create it; empty for plain data.
        is_state: whether it is what objects without a `__setstate__` are given: a dictionary of attributes, or two.
        closed: whether the object was fetched from the memo. Changing it afterwards could make it contain itself.
    """

    size: int = 1
    depth: int = 0
    text: str = ""
    attribute: str = ""
    is_name: bool = False
    maker: str = ""
    is_state: bool = False
    closed: bool = False


class _PickleSimulation:
    """Runs a pickle's operations on `_Object`s in place of the objects that they would create.

    What reads the pickle afterwards runs nothing, but what walks through its values would not end: a tuple of forty
    times "the previous tuple, twice" is some hundred bytes in the file and 10^12 parts.
    """

    def __init__(self) -> None:
        self.names: set[str] = set()  # of classes and functions, complete up to the operation that fails
        self._stack: list[_Object] = []
        self._outer_stacks: list[list[_Object]] = []  # one for each open mark
        self._memo: dict[object, _Object] = {}
        self._operations = 0
        self._work = 0
        self._open_getattrs = 0  # times that getattr was pushed and not called with the name of a class and a text

    def run(self, pickle: bytes) -> None:
        """Run all operations up to the end of the pickle.

        Raises:
            Exception: of any kind; the pickle is damaged, or its objects would be too large.
        """
        try:
            self._run(pickle)
        finally:
            if self._open_getattrs:
                self.names.add(_GETATTR[0])

    def _run(self, pickle: bytes) -> None:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(pickle)):
            if opcode.name == "STOP":
                return
            step = _STEPS.get(opcode.name)
            if step is None:
                raise ValueError(
                    f"it uses the operation {opcode.name}, which torch.save does not with its default protocol"
                )
            step(self, argument)
            self._operations += 1

    # operations; each takes the argument of the operation in the pickle, or the popped objects

    def ignore(self, _: Any) -> None:
        """PROTO and FRAME, which create no object."""

    def push_constant(self, _: Any) -> None:
        self._push(_Object())

    def push_none_or_dictionary(self, _: Any) -> None:
        self._push(_Object(is_state=True))

    def push_text(self, text: Any) -> None:
        self._push(_Object(size=1 + len(str(text)), text=str(text)))

    def push_global(self, name: Any) -> None:
        self._push_name(str(name).replace(" ", "."))

    def _push_name(self, name: str) -> None:
        if name in _GETATTR:
            self._open_getattrs += 1
        else:
            self.names.add(name)
        self._push(_Object(text=name, is_name=True))

    def refuse_instance(self, name: Any) -> None:
        self.names.add(str(name).replace(" ", "."))
        raise ValueError("it uses the operation INST, which torch.save does not with its default protocol")

    def refuse_stack_global(self, _: Any) -> None:
        self.names.add(".".join(part.text for part in self._pop(2)))
        raise ValueError("it uses the operation STACK_GLOBAL, which torch.save does not with its default protocol")

    def refuse_extension(self, code: Any) -> None:
        self.names.add(f"extension {code}")
        raise ValueError("it uses an extension code, which torch.save does not with its default protocol")

    def mark(self, _: Any) -> None:
        self._outer_stacks.append(self._stack)
        self._stack = []

    def put(self, key: Any) -> None:
        self._memo[key] = self._stack[-1]

    def memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def get(self, key: Any) -> None:
        fetched = self._memo[key]
        fetched.closed = True
        self._open_getattrs += fetched.is_name and fetched.text in _GETATTR
        self._push(fetched)

    def build_tuple(self, parts: list[_Object]) -> None:
        is_state = len(parts) == 2 and all(part.is_state for part in parts)  # attributes, and those in slots
        is_attribute = len(parts) == 2 and parts[0].is_name and not parts[1].is_name and parts[1].text.isidentifier()
        attribute = ".".join(part.text for part in parts) if is_attribute else ""
        whole = _Object(text=parts[-1].text if parts else "", attribute=attribute, is_state=is_state)
        self._push(_combined(whole, parts))

    def call(self, parts: list[_Object]) -> None:
        function, arguments = parts
        if function.text == "_codecs.encode" and arguments.text != "latin1":
            raise ValueError("it encodes text in a way that can enlarge it")
        if function.is_name and function.text in _GETATTR and arguments.attribute:  # the name of a class in a class
            self._open_getattrs -= 1
            self._push_name(arguments.attribute)
        else:
            self.create(parts)

    def create(self, parts: list[_Object]) -> None:
        self._push(_combined(_Object(maker=parts[0].text), parts))

    def refer(self, parts: list[_Object]) -> None:
        self._push(_combined(_Object(), parts))

    def set_state(self, parts: list[_Object]) -> None:
        if not parts[0].is_state and self._stack and self._stack[-1].maker:
            self.names.add(self._stack[-1].maker + OWN_SETSTATE)
        if not (self._stack and self._stack[-1].closed and self._stack[-1].maker):  # a child may refer to its parent
            self.change(parts)

    def change(self, parts: list[_Object]) -> None:
        """Put parts into the object below them on the stack."""
        changed = self._stack.pop()
        if changed.closed:
            raise ValueError("the pickle changes an object after referring to it")
        size = changed.size
        self._push(_combined(changed, parts, size))

    # the stack

    def pop_parts(self, count: int | None) -> list[_Object]:
        """Pop the topmost objects; None: all above the last mark, and the mark."""
        if count is not None:
            return self._pop(count)
        parts, self._stack = self._stack, self._outer_stacks.pop()
        return parts

    def _pop(self, count: int) -> list[_Object]:
        if count > len(self._stack):
            raise ValueError("it takes more from the stack than there is")
        parts = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return parts

    def _push(self, pushed: _Object) -> None:
        self._stack.append(pushed)
        self._work += pushed.size
        if self._work > _MAX_WORK or pushed.depth > _MAX_DEPTH or self._operations > _MAX_OPERATIONS:
            raise ValueError("it is small but its objects would be larger than any checkpoint, or nested too deeply")


def _combined(whole: _Object, parts: list[_Object], size: int = 0) -> _Object:
    """Add parts to a whole and return it; `size` is the size of the whole before."""
    whole.size = 1 + size + sum(part.size for part in parts)
    whole.depth = max([whole.depth, *(1 + part.depth for part in parts)])
    return whole


_Step = Callable[[_PickleSimulation, Any], None]


def _taking(count: int | None, combine: Callable[[_PickleSimulation, list[_Object]], None]) -> _Step:
    """The operation that pops `count` objects, or all above the last mark for None, and combines them."""
    return lambda simulation, _: combine(simulation, simulation.pop_parts(count))


_S = _PickleSimulation
_STEPS: Final[Mapping[str, _Step]] = MappingProxyType(
    {
        **dict.fromkeys(("PROTO", "FRAME"), _S.ignore),
        **dict.fromkeys(("NEWTRUE", "NEWFALSE", "EMPTY_TUPLE", "EMPTY_LIST"), _S.push_constant),
        **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"), _S.push_constant),
        **dict.fromkeys(("NONE", "EMPTY_DICT"), _S.push_none_or_dictionary),
        # the last only in newer pickles, for the names of STACK_GLOBAL
        **dict.fromkeys(("BINUNICODE", "SHORT_BINSTRING", "SHORT_BINUNICODE"), _S.push_text),
        "GLOBAL": _S.push_global,
        "INST": _S.refuse_instance,
        "STACK_GLOBAL": _S.refuse_stack_global,
        **dict.fromkeys(("EXT1", "EXT2", "EXT4"), _S.refuse_extension),
        "MARK": _S.mark,
        **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _S.put),
        "MEMOIZE": _S.memoize,
        **dict.fromkeys(("BINGET", "LONG_BINGET"), _S.get),
        "TUPLE": _taking(None, _S.build_tuple),
        "TUPLE1": _taking(1, _S.build_tuple),
        "TUPLE2": _taking(2, _S.build_tuple),
        "TUPLE3": _taking(3, _S.build_tuple),
        "BINPERSID": _taking(1, _S.refer),
        "REDUCE": _taking(2, _S.call),
        "NEWOBJ": _taking(2, _S.create),
        "APPEND": _taking(1, _S.change),
        "APPENDS": _taking(None, _S.change),
        "SETITEM": _taking(2, _S.change),
        "SETITEMS": _taking(None, _S.change),
        "BUILD": _taking(1, _S.set_state),
    }
)
