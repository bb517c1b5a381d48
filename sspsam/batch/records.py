"""Append-only files of JSON lines. After a crash, only the lines of the image that was being written are lost."""

import json
import math
import operator
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, Final, Self

from sspsam.errors import BatchError, StorageError
from sspsam.messages import OVERWRITE, OptionMessage
from sspsam.utils.arguments import whole_number
from sspsam.utils.file_status import status_of
from sspsam.utils.files import storage_errors
from sspsam.utils.paths import shown

Line = dict[str, Any]

MAX_LINE_BYTES: Final = 256 << 20  # more than the largest mask of 100 million pixels takes

# the shard boundaries are the same for every chunk size that divides this, because images are encoded one by one on a
# CPU and four at a time on a GPU, and both may work on shards of the same batch
_SHARD_GRANULARITY: Final = 4


@dataclass(frozen=True)
class Shard:
    """One of `count` independent runs of a batch.

    Args:
        number: of this run, from 1.
        count: number of runs.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        for name in ("number", "count"):
            whole_number(f"{name} of the shard", getattr(self, name), 0)
        if not 1 <= self.number <= self.count:
            raise ValueError(f"there is no run {self.number} of {self.count}; runs are numbered from 1")

    def plain(self) -> Self:
        """Return the same shard without integers of NumPy, for JSON."""
        return type(self)(operator.index(self.number), operator.index(self.count))

    def name(self, stem: str, suffix: str = "") -> str:
        """Return the name of a record file of this run: `results.jsonl`, or `results.2-of-8.jsonl` in a shard."""
        return f"{stem}{suffix}" if self.count == 1 else f"{stem}.{self.number}-of-{self.count}{suffix}"

    def part(self, length: int, chunk_size: int) -> range:
        """Return the indices of this run's items, contiguous and in whole chunks, so that results can be concatenated.

        Args:
            length: number of items of all runs.
            chunk_size: items that are encoded together.
        """
        granularity = math.lcm(chunk_size, _SHARD_GRANULARITY)
        groups = -(-length // granularity)
        first, last = (
            min(length, groups * number // self.count * granularity) for number in (self.number - 1, self.number)
        )
        return range(first, last)


@dataclass
class JsonLinesFile:
    """An append-only file of JSON lines, grouped by image.

    Args:
        path: of the file.
        file: the same file, open for appending without a buffer.
        end: length in bytes of the complete groups.
        images: images whose groups are complete.
    """

    path: Path
    file: FileIO
    end: int = 0
    images: set[str] = field(default_factory=set)

    @classmethod
    def open(cls, path: Path, output: Path, stack: ExitStack) -> Self:
        """Open a file in the output folder; the stack closes it.

        Raises:
            StorageError: the file cannot be opened, is not a regular file, or is a link that leads out of the folder.
        """
        with storage_errors(path):
            status = status_of(path, StorageError)
            if status is not None and not stat.S_ISREG(status.st_mode):
                raise StorageError(f"cannot write {shown(path)}: it exists and is not a regular file")
            if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(output)):
                raise StorageError(f"{shown(path)} is a link that leads out of {shown(output)}: remove the link")
            return cls(path, stack.enter_context(path.open("a+b", buffering=0)))

    def recover(self) -> None:
        """Read all lines and cut off an incomplete end: a torn line, or an image without all of its lines.

        Raises:
            BatchError: a line in the middle is damaged.
        """
        image, missing, position, torn = "", 0, 0, None
        for line_number, line in enumerate(self.lines(), 1):
            if torn is not None:
                raise BatchError(
                    OptionMessage(
                        f"line {torn} of {self.path} is damaged, and more lines follow it: repair the line, or start "
                        "again with ",
                        OVERWRITE,
                    )
                )
            position += len(line)
            header = _line_header(line)
            if header is None or (missing and header.image != image):
                torn = line_number
                continue
            image, missing = header.image, header.of - header.number
            if missing == 0:
                self.images.add(image)
                self.end = position
        with storage_errors(self.path):
            self.file.truncate(self.end)

    def append(self, lines: list[Line]) -> None:
        """Write all lines of one image and flush them to disk; on failure none of the lines stays in the file."""
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
        self.images.add(lines[0]["image"])

    def lines(self) -> Iterator[bytes]:
        """Yield the lines of the file in order."""
        with storage_errors(self.path), self.path.open("rb") as file:
            while line := file.readline(MAX_LINE_BYTES):  # the pieces of a longer line are damaged lines
                yield line

    def clear(self) -> None:
        """Remove all lines."""
        with storage_errors(self.path):
            self.file.truncate(0)
        self.end = 0
        self.images.clear()


@dataclass(frozen=True)
class _LineHeader:
    """Image of a line, and the number of the line among the lines of its image."""

    image: str
    number: int
    of: int


def _line_header(line: bytes) -> _LineHeader | None:
    """Parse a line; return None if the line is torn or damaged."""
    if not line.endswith(b"\n"):
        return None
    try:
        values = json.loads(line)
        return _LineHeader(str(values["image"]), int(values.get("number", 1)), int(values.get("of", 1)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return None
