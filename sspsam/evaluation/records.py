"""One line of integers for each expression, from which every metric can be computed again without any mask."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray

from sspsam.errors import EvaluationError, StorageError
from sspsam.utils.files import storage_errors
from sspsam.utils.paths import shown, user_file, user_path

LARGEST_INTEGER: Final = 2**53  # that float64 holds
_LARGEST_FEATURE: Final = 1e100  # whose square is finite


@dataclass(frozen=True)
class Record:
    """Everything that the metrics of a protocol need to know about one expression.

    The areas are pixels of one grid: the image's own pixels, or the authors' frame in the protocol `official`.

    Args:
        index: position of the expression in the split, from 0.
        no_target: whether the truth says that the expression refers to nothing.
        predicted_no_target: whether the answer says so.
        intersection: pixels in both the predicted mask and the truth, before the answer is emptied.
        predicted_area: pixels of the predicted mask, before the answer is emptied.
        target_area: pixels of the truth.
        box_iou: IoU of the predicted box and the box of the truth; None without one of them.
        foreground_pixels: foreground pixels in the authors' frame, the score of the 50-pixel rule; None if not known.
        presence: calibrated probability that the expression refers to something; None without a calibration.
        missing: whether there is no prediction; only the protocol `phrasecut` has such records.
        image: name of the image, for people.
        text: the expression, for people.
        features: numbers behind the answer, from which a calibration is fitted; None for predictions in a file.
        fingerprint: of the model that computed the features.
    """

    index: int
    no_target: bool
    predicted_no_target: bool
    intersection: int
    predicted_area: int
    target_area: int
    box_iou: float | None = None
    foreground_pixels: int | None = None
    presence: float | None = None
    missing: bool = False
    image: str | None = None
    text: str | None = None
    features: dict[str, float] | None = None
    fingerprint: str | None = None

    def to_json(self) -> str:
        """Return the record as one line of JSON, without a line end."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False)

    @property
    def union(self) -> int:
        """Pixels in the predicted mask or the truth."""
        return self.predicted_area + self.target_area - self.intersection


@dataclass(frozen=True, eq=False)
class Columns:
    """The records of n expressions as arrays of n values, in the order of their index.

    Args:
        no_target, predicted_no_target, missing: (n,) bool.
        intersection, predicted_area, target_area: (n,) int64, pixels.
        box_iou, foreground_pixels, presence: (n,) float64, NaN where a record has none.
    """

    no_target: NDArray[np.bool_]
    predicted_no_target: NDArray[np.bool_]
    missing: NDArray[np.bool_]
    intersection: NDArray[np.int64]
    predicted_area: NDArray[np.int64]
    target_area: NDArray[np.int64]
    box_iou: NDArray[np.float64]
    foreground_pixels: NDArray[np.float64]
    presence: NDArray[np.float64]

    @property
    def union(self) -> NDArray[np.int64]:
        """Pixels in the predicted mask or the truth, (n,)."""
        return self.predicted_area + self.target_area - self.intersection


def columns_of(records: Iterable[Record]) -> Columns:
    """Return the records as arrays, in the order of their index.

    Raises:
        EvaluationError: two records have the same index.
    """
    ordered = sorted(records, key=lambda record: record.index)
    for first, second in pairwise(ordered):
        if first.index == second.index:
            raise EvaluationError(f"two records have the index {first.index}: merge each shard once")
    return Columns(
        *(_column(ordered, name, np.bool_) for name in ("no_target", "predicted_no_target", "missing")),
        *(_column(ordered, name, np.int64) for name in ("intersection", "predicted_area", "target_area")),
        *(_column(ordered, name, np.float64) for name in ("box_iou", "foreground_pixels", "presence")),
    )


def _column(records: Sequence[Record], name: str, kind: type[np.generic]) -> NDArray[Any]:
    """Return one entry of all records as an array; None becomes NaN."""
    return np.array([getattr(record, name) for record in records], dtype=kind)


def write_records(records: Iterable[Record], path: str | Path) -> None:
    """Write records as JSON lines, in the order in which they come.

    Raises:
        StorageError: the file cannot be written.
    """
    target = user_file(path, "the records", StorageError)
    with storage_errors(target), target.open("w", encoding="utf-8") as file:
        file.writelines(record.to_json() + "\n" for record in records)


def read_records(path: str | Path) -> list[Record]:
    """Read the JSON lines of `write_records`.

    Raises:
        EvaluationError: the file cannot be read, or a line is damaged; the message names the file and the line.
    """
    source = user_path(path, "the records", EvaluationError)
    try:
        with source.open(encoding="utf-8") as file:
            return list(_parsed(file, source))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise EvaluationError(f"{shown(path)} cannot be read: {reason}") from error


def _parsed(lines: Iterable[str], path: Path) -> Iterator[Record]:
    for number, line in enumerate(lines, 1):
        where = f"{shown(path)}, line {number}"
        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise EvaluationError(f"{where}: not valid JSON ({error}); take the line out or compute it again") from None
        yield record_from(content, where)


def record_from(content: Any, where: str) -> Record:
    """Return the record that a parsed JSON line describes.

    Args:
        content: the parsed line; entries that a record does not have are ignored.
        where: file and line, for errors.

    Raises:
        EvaluationError: an entry is missing, of a wrong type, or impossible.
    """
    if not isinstance(content, dict):
        raise EvaluationError(f"{where}: a record is a JSON object, not {type(content).__name__}")
    try:
        record = Record(**{field.name: content[field.name] for field in fields(Record) if field.name in content})
    except TypeError:
        missing = [name for name in _required() if name not in content]
        raise EvaluationError(f"{where}: the record lacks {', '.join(missing)}") from None
    for field in fields(Record):
        if field.name == "features":
            _check_features(record.features, where)
            continue
        value, kinds = getattr(record, field.name), get_args(field.type) or (field.type,)
        if type(value) not in kinds and not (type(value) is int and float in kinds):
            names = " or ".join(kind.__name__ for kind in kinds)
            raise EvaluationError(f"{where}: {field.name} is {str(value)[:60]!r}, which is no {names}")
        if not _is_possible(field.name, value):
            raise EvaluationError(f"{where}: {field.name} is {str(value)[:60]!r}, which cannot be")
    largest = min(record.predicted_area, record.target_area)
    if not 0 <= record.intersection <= largest or record.index < 0:
        raise EvaluationError(
            f"{where}: index {record.index}, intersection {record.intersection} of areas {record.predicted_area} and "
            f"{record.target_area} cannot be"
        )
    return record


def _is_possible(name: str, value: Any) -> bool:
    """Return whether a number is one that float64 holds; a probability is from 0 to 1."""
    if value is None or not isinstance(value, int | float):
        return True
    return 0 <= value <= 1 if name == "presence" else -LARGEST_INTEGER <= value <= LARGEST_INTEGER


def _check_features(features: Any, where: str) -> None:
    if features is None:
        return
    if not isinstance(features, dict):
        raise EvaluationError(f"{where}: features is no object")
    for name, value in features.items():
        if type(value) not in (int, float) or not -_LARGEST_FEATURE <= value <= _LARGEST_FEATURE:
            raise EvaluationError(
                f"{where}: the feature {name[:60]!r} is {str(value)[:60]!r}, which is no finite number"
            )


def _required() -> list[str]:
    return ["index", "no_target", "predicted_no_target", "intersection", "predicted_area", "target_area"]
