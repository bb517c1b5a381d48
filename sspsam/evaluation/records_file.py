"""`records.jsonl` while a run writes it: appended image by image, and resumed from the complete lines."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Final

from sspsam.errors import EvaluationError, warn
from sspsam.evaluation.records import Record, record_from
from sspsam.messages import OVERWRITE, OptionMessage, joined, option
from sspsam.utils.file_locks import lock_file
from sspsam.utils.files import make_directory, replace_file, storage_errors
from sspsam.utils.paths import shown

ANNOTATIONS: Final = "annotations"  # digest of the truth, as far as it is known without decoding masks
_OPTIONS: Final = frozenset({"calibration"})  # named as options in messages
_FREE_KEYS: Final = frozenset({"protocol", "model"})  # may differ: the records do not depend on them


@dataclass(frozen=True)
class RecordsFile:
    """The records of one run, in the order of its work until the run is complete.

    Args:
        path: of the file.
        file: the same file, open for appending without a buffer.
        records: the complete records that the file held when it was opened.
    """

    path: Path
    file: FileIO
    records: list[Record]

    def append(self, records: Sequence[Record]) -> None:
        """Write records at the end, and flush them to disk."""
        data = _encoded(records)
        with storage_errors(self.path):
            written = 0
            while written < len(data):
                written += os.write(self.file.fileno(), data[written:])
            os.fsync(self.file.fileno())


@contextmanager
def lock_records(path: Path) -> Iterator[FileIO]:
    """Open the file of a run for appending and lock it, so that no other run reads or changes what belongs to it.

    Raises:
        EvaluationError: another run writes to the file.
        StorageError: the file cannot be opened.
    """
    make_directory(path.parent)
    with storage_errors(path):
        file = path.open("a+b", buffering=0)
    with file:
        _lock(file, path)
        yield file


def resumed_records(path: Path, file: FileIO) -> RecordsFile:
    """Return the records of an earlier run, to which new ones are appended; an incomplete last line is cut off.

    Args:
        path: of the file.
        file: the same file, locked by `lock_records`.

    Raises:
        EvaluationError: a line before the last is damaged.
        StorageError: the file cannot be read.
    """
    lines = _lines(path)
    records = list(_complete(lines, path))
    with storage_errors(path):
        file.truncate(sum(map(len, lines[: len(records)])))
    return RecordsFile(path, file, records)


def complete_records(path: Path) -> list[Record]:
    """Return the records of a run whose last line another process may be writing.

    Raises:
        EvaluationError: a line before the last is damaged.
        StorageError: the file cannot be read.
    """
    return list(_complete(_lines(path), path))


def _lines(path: Path) -> list[bytes]:
    with storage_errors(path):
        return path.read_bytes().splitlines(keepends=True)


def _lock(file: FileIO, path: Path) -> None:
    try:
        lock_file(file)
    except (BlockingIOError, PermissionError):
        raise EvaluationError(
            f"another run is writing to {shown(path)}: wait until it has finished, or choose another folder"
        ) from None
    except OSError as error:
        warn(f"the file system of {shown(path)} does not support locks ({error.strerror}): run only one command in it")


def _complete(lines: Sequence[bytes], path: Path) -> Iterator[Record]:
    for number, line in enumerate(lines, 1):
        where = f"{shown(path)}, line {number}"
        try:
            if not line.endswith(b"\n"):
                raise ValueError("it has no end")
            content = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                return
            raise EvaluationError(
                OptionMessage(f"{where}: damaged, and more lines follow it; start again with ", OVERWRITE)
            ) from error
        yield record_from(content, where)


def replace_records(path: Path, records: Iterable[Record]) -> None:
    """Write records atomically in the order of their index."""
    replace_file(path, _encoded(sorted(records, key=lambda record: record.index)))


def _encoded(records: Iterable[Record]) -> bytes:
    text = "".join(record.to_json() + "\n" for record in records)
    try:
        return text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair in an expression: only an escape sequence can hold it
        return "".join(json.dumps(json.loads(line)) + "\n" for line in text.split("\n")[:-1]).encode()


def read_settings(path: Path) -> dict[str, Any] | None:
    """Return the settings that a run stored; None if there are none.

    Raises:
        EvaluationError: the file is damaged.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise EvaluationError(
            OptionMessage(f"{shown(path)} cannot be read ({error}): start again with ", OVERWRITE)
        ) from error
    if not isinstance(content, dict):
        raise EvaluationError(f"{shown(path)} must hold a JSON object")
    return content


def write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings of a run, or the metrics, atomically as JSON."""
    replace_file(path, (json.dumps(settings, indent=1, allow_nan=False) + "\n").encode())


def require_equal_settings(settings: Mapping[str, Any], earlier: Mapping[str, Any], owner: str) -> None:
    """Refuse to continue records that other settings gave; those of earlier versions do not state the annotations.

    Args:
        settings: of this run, as JSON values.
        earlier: of the run that wrote the records.
        owner: name of that run, for the error.

    Raises:
        EvaluationError: they differ; the message lists the differences.
    """
    differences = [
        OptionMessage(
            option(key) if key in _OPTIONS else key, f" was {earlier.get(key)!s:.80}, is {settings.get(key)!s:.80}"
        )
        for key in sorted(settings.keys() | earlier.keys())
        if settings.get(key) != earlier.get(key) and key not in _FREE_KEYS and (key != ANNOTATIONS or key in earlier)
    ]
    if differences:
        raise EvaluationError(
            OptionMessage(
                f"{owner} had other settings: ",
                joined("; ", differences),
                ". Use the same ones, choose another folder, or start again with ",
                OVERWRITE,
            )
        )


def require_equal_shards(settings: Mapping[str, Any], output: Path, names: Iterable[str]) -> None:
    """Refuse settings that are not those of the shards in a folder.

    Args:
        settings: of this run, as JSON values.
        output: the folder.
        names: of the files in which the shards store their settings; they need not exist.

    Raises:
        EvaluationError: they differ; the message names the file and lists the differences.
    """
    for name in names:
        earlier = read_settings(output / name)
        if earlier is not None:
            require_equal_settings(settings, earlier, f"the run of {name}")
