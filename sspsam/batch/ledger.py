"""The record of a batch: what was asked for, what is done, what failed; the only state that a resumed run reads.

`results.jsonl` has one line for each picture and expression, `errors.jsonl` one for each picture that failed. A line is
written, and on disk, after the files that it names. Both only grow; what a crash left unfinished at their end is cut
off at the next start. The results file is also the lock, which the system frees when its holder dies.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, Final

from sspsam.errors import BatchError, warn
from sspsam.storage import make_directory, replace_file, storage_errors

Line = dict[str, Any]
_OUR_NAMES: Final = ("results", "errors", "job", "coco", ".sspsam-tmp")


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
        """Which of `length` items are this run's: in order and in whole units, so that results can be joined."""
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


@dataclass(frozen=True)
class Ledger:
    """The record of one run, held by it alone.

    Args:
        output: folder of the run.
        shard: which run this is.
        results: one line for each picture and expression.
        errors: one line for each picture that failed.
        temporary: folder for files that are being written.
    """

    output: Path
    shard: Shard
    results: Record
    errors: Record
    temporary: Path

    @property
    def done(self) -> set[str]:
        """Pictures about which nothing is left to do."""
        return self.results.done | self.errors.done


@contextmanager
def open_ledger(output: Path, shard: Shard, job: Mapping[str, Any], overwrite: bool) -> Iterator[Ledger]:
    """Begin or go on with the record of a run.

    Args:
        output: folder of the run; made if need be.
        shard: which run this is.
        job: what is asked for, as plain values; an earlier run must have been asked the same.
        overwrite: whether to remove what an earlier run wrote.

    Raises:
        BatchError: another run is at work there, an earlier one was asked something else, or the folder is not ours.
        StorageError: it cannot be written.
    """
    _require_ours(output)
    make_directory(output)
    results_path, errors_path = (output / shard.name(stem, ".jsonl") for stem in ("results", "errors"))
    temporary = output / shard.name(".sspsam-tmp")
    with storage_errors(results_path), results_path.open("a+b", buffering=0) as results_file:
        _lock(results_file, output)
        with storage_errors(errors_path), errors_path.open("a+b", buffering=0) as errors_file:
            ledger = Ledger(
                output, shard, Record(results_path, results_file), Record(errors_path, errors_file), temporary
            )
            shutil.rmtree(temporary, ignore_errors=True)
            make_directory(temporary)
            try:
                if overwrite:
                    _remove_earlier(ledger)
                _agree(output / shard.name("job", ".json"), job, ledger)
                ledger.results.recover()
                ledger.errors.recover()
                yield ledger
            finally:
                shutil.rmtree(temporary, ignore_errors=True)


def _require_ours(output: Path) -> None:
    """Never write among files that somebody else put there."""
    with storage_errors(output):
        names = [path.name for path in output.iterdir()] if output.exists() else []
    if names and not any(name.startswith("job") and name.endswith(".json") for name in names):
        foreign = [name for name in names if not name.startswith(_OUR_NAMES)]
        if foreign:
            raise BatchError(
                f"{output} is not empty and holds no batch ({foreign[0]!r} and {len(foreign) - 1} more): choose "
                "another folder, so that nothing of yours is replaced"
            )


def _lock(file: FileIO, output: Path) -> None:
    """Hold a file until it is closed or this process ends."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(1 << 40)  # a byte that nobody reads
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise BatchError(f"another run is at work in {output}: wait for it, or choose another folder") from None
    except OSError as error:
        warn(f"{output} is on a file system without locks ({error.strerror}): make sure that no other run uses it")


def _agree(path: Path, job: Mapping[str, Any], ledger: Ledger) -> None:
    """Record what is asked for, or compare it with what was."""
    if not path.exists():
        replace_file(path, (json.dumps(job, indent=1, sort_keys=True) + "\n").encode(), within=ledger.temporary)
        return
    with storage_errors(path):
        try:
            earlier = dict(json.loads(path.read_bytes()))
        except (ValueError, TypeError, RecursionError) as error:
            raise BatchError(f"{path} is damaged ({error}): begin anew with overwrite") from error
    asked = json.loads(json.dumps(job))
    differences = [
        f"{key} was {_short(earlier.get(key))}, is {_short(asked.get(key))}"
        for key in sorted(asked.keys() | earlier.keys())
        if asked.get(key) != earlier.get(key)
    ]
    if differences:
        raise BatchError(
            f"an earlier run in {ledger.output} was asked something else: {'; '.join(differences)}. Ask the same to go "
            "on with it, choose another folder, or begin anew with overwrite"
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _remove_earlier(ledger: Ledger) -> None:
    """Remove the files that an earlier run lists, then its record."""
    root = os.path.realpath(ledger.output)
    for line in ledger.results.lines():
        with suppress(ValueError, TypeError, AttributeError, OSError):
            for name in json.loads(line).get("files", {}).values():
                path = Path(os.path.realpath(ledger.output / name))
                if path.is_relative_to(root):
                    path.unlink()
    for stem, suffix in (("coco", ".json"), ("results", ".parquet"), ("job", ".json")):
        with storage_errors(ledger.output):
            (ledger.output / ledger.shard.name(stem, suffix)).unlink(missing_ok=True)
    ledger.results.clear()
    ledger.errors.clear()
