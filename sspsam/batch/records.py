"""Files of lines that only grow, and of which a crash costs no more than the line that was being written."""

import json
import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, Self

from sspsam.errors import BatchError
from sspsam.utils.files import storage_errors

Line = dict[str, Any]


@dataclass(frozen=True)
class Shard:
    """One of `count` independent runs of a batch.

    Args:
        number: of this run, from 1.
        count: of all.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ValueError(f"there is no run {self.number} of {self.count}; they are numbered from 1")

    def name(self, stem: str, suffix: str = "") -> str:
        """What a file of the record is called in this run."""
        return f"{stem}{suffix}" if self.count == 1 else f"{stem}.{self.number}-of-{self.count}{suffix}"

    def part(self, length: int, unit: int) -> range:
        """Which of `length` items are this run's: in order and in whole units, so that results can be joined.

        The parts are the same for every unit that divides four, for it is one on a CPU and four on a GPU.
        """
        unit = math.lcm(unit, 4)
        units = -(-length // unit)
        first, last = (min(length, units * number // self.count * unit) for number in (self.number - 1, self.number))
        return range(first, last)


@dataclass
class Record:
    """A file of lines that only grows.

    Args:
        path: of the file.
        file: the same, open without a buffer for appending.
        end: bytes that are known to be whole.
        done: pictures that it says everything about.
    """

    path: Path
    file: FileIO
    end: int = 0
    done: set[str] = field(default_factory=set)

    @classmethod
    def opened(cls, path: Path, stack: ExitStack) -> Self:
        """The record in a file, which the stack closes."""
        with storage_errors(path):
            return cls(path, stack.enter_context(path.open("a+b", buffering=0)))

    def recover(self) -> None:
        """Read all lines, and cut off what a crash left unfinished: a torn line, a picture of which lines are missing.

        Raises:
            BatchError: a line in the middle is not ours.
        """
        image, missing, position, torn = "", 0, 0, None
        for number, line in enumerate(self.lines(), 1):
            if torn is not None:
                raise BatchError(
                    f"{self.path}, line {torn} is damaged, and there are lines behind it: repair it, or begin anew "
                    "with overwrite"
                )
            position += len(line)
            about = _read(line)
            if about is None or (missing and about.image != image):
                torn = number
                continue
            image, missing = about.image, about.of - about.number
            if missing == 0:
                self.done.add(image)
                self.end = position
        with storage_errors(self.path):
            self.file.truncate(self.end)

    def append(self, lines: list[Line]) -> None:
        """Write lines, all of one picture, and wait until they are on disk; on failure none of them stays."""
        data = "".join(json.dumps(line) + "\n" for line in lines).encode()
        with storage_errors(self.path):
            try:
                written = 0
                while written < len(data):
                    written += os.write(self.file.fileno(), data[written:])
                os.fsync(self.file.fileno())
            except OSError:
                with suppress(OSError):
                    self.file.truncate(self.end)
                raise
        self.end += len(data)
        self.done.add(lines[0]["image"])

    def lines(self) -> Iterator[bytes]:
        """The file's lines, in order."""
        with storage_errors(self.path), self.path.open("rb") as file:
            yield from file

    def clear(self) -> None:
        """Forget everything."""
        with storage_errors(self.path):
            self.file.truncate(0)
        self.end = 0
        self.done.clear()


@dataclass(frozen=True)
class _Line:
    image: str
    number: int
    of: int


def _read(line: bytes) -> _Line | None:
    """What a line says, None where it is torn."""
    if not line.endswith(b"\n"):
        return None
    try:
        about = json.loads(line)
        return _Line(str(about["image"]), int(about.get("number", 1)), int(about.get("of", 1)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
