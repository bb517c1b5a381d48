"""What a pickle would do, found out without doing it."""

import io
import pickletools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sspsam.errors import CheckpointError, UnsafeCheckpointError

_MAX_OPERATIONS: Final = 1 << 20  # ten times those of a whole training state
_MAX_WORK: Final = 1 << 27  # pieces handled, counting again whatever is mentioned again
_MAX_DEPTH: Final = 100


@dataclass(slots=True)
class _Piece:
    """What the pickle would make, unmade: how large and how deeply nested it is."""

    size: int = 1  # parts, and characters of text, each counted as often as it is mentioned
    depth: int = 0
    text: str = ""  # of a string or a name; of a tuple, its last entry's
    closed: bool = False  # mentioned a second time, so whole: changing it afterwards would tie a knot


def check_pickle(pickle: bytes, allowed: frozenset[str], path: Path) -> None:
    """Refuse a pickle that names anything beyond `allowed`, or that is small but grows; nothing of it is run.

    Raises:
        UnsafeCheckpointError: it names another class or function.
        CheckpointError: it is damaged, or would grow beyond any checkpoint.
    """
    named: set[str] = set()
    try:
        _follow(pickle, named)
        complaint = None
    except Exception as error:  # a damaged pickle can raise anything
        complaint = error
    strange = sorted(name[:200] for name in named - allowed)
    if strange:
        raise UnsafeCheckpointError(
            f"{path} names {', '.join(strange[:10])}, which has no place in a checkpoint. It was not run. "
            "If you trust the file, load it with torch yourself and save its 'model' state alone."
        ) from complaint
    if complaint is not None:
        raise CheckpointError(f"{path} is damaged: its index: {str(complaint)[:300]}") from complaint


def _follow(pickle: bytes, named: set[str]) -> None:
    """Go through a pickle's operations with `_Piece`s in place of objects, noting the names of classes and functions.

    `weights_only` runs nothing foreign, but it hashes and prints what it reads, and a tuple of forty times "the last
    one, twice" is some hundred bytes in the file and a million million parts when it is printed.
    """
    stack: list[_Piece] = []
    marked: list[list[_Piece]] = []
    memo: dict[object, _Piece] = {}
    work = 0

    def take(count: int) -> list[_Piece]:
        if count > len(stack):
            raise ValueError("it takes more than there is")
        parts = stack[len(stack) - count :]
        del stack[len(stack) - count :]
        return parts

    for number, (operation, argument, _) in enumerate(pickletools.genops(io.BytesIO(pickle))):
        name, made, into = operation.name, _Piece(), None
        if name in ("GLOBAL", "INST"):
            made.text = str(argument).replace(" ", ".")
            named.add(made.text)
        elif name == "STACK_GLOBAL":
            named.add(".".join(part.text for part in take(2)))
        elif name in ("EXT1", "EXT2", "EXT4"):
            named.add(f"extension {argument}")
        if name in ("BINUNICODE", "SHORT_BINSTRING", "SHORT_BINUNICODE"):  # the last in newer pickles, to name names
            made = _Piece(size=1 + len(str(argument)), text=str(argument))
        elif name == "MARK":
            marked.append(stack)
            stack = []
            continue
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
            continue
        elif name in ("BINGET", "LONG_BINGET"):
            made = memo[argument]
            made.closed = True
        elif name in _TAKES:
            count, changes = _TAKES[name]
            parts = stack if count is None else take(count)
            if count is None:
                stack = marked.pop()
            if name == "REDUCE" and parts[0].text == "_codecs.encode" and parts[1].text != "latin1":
                raise ValueError("it encodes text in a way that can grow")
            into = stack.pop() if changes else None
            if into is not None and into.closed:
                raise ValueError("it changes what it has already used")
            known = [into, *parts] if into is not None else parts
            made = into or made
            made.size = 1 + sum(part.size for part in known)
            made.depth = max([made.depth, *(1 + part.depth for part in parts)])
            if name.startswith("TUPLE") and parts:
                made.text = parts[-1].text
        elif name == "STOP":
            return
        elif name in ("PROTO", "FRAME"):
            continue
        elif name not in _PLAIN:
            raise ValueError(f"it uses the operation {name}, which torch.save does not")
        stack.append(made)
        work += made.size
        if work > _MAX_WORK or made.depth > _MAX_DEPTH or number > _MAX_OPERATIONS:
            raise ValueError("it is small but would grow beyond any checkpoint, or is nested too deeply")


_PLAIN: Final = frozenset(
    {"GLOBAL", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
    | {"EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT"}
)
# how many pieces an operation takes (None: all since the last mark), and whether it changes the one below them
_TAKES: Final[Mapping[str, tuple[int | None, bool]]] = {
    "TUPLE": (None, False),
    "TUPLE1": (1, False),
    "TUPLE2": (2, False),
    "TUPLE3": (3, False),
    "BINPERSID": (1, False),
    "REDUCE": (2, False),
    "NEWOBJ": (2, False),
    "APPEND": (1, True),
    "APPENDS": (None, True),
    "SETITEM": (2, True),
    "SETITEMS": (None, True),
    "BUILD": (1, True),
}
