"""Predictions of any program -> records: JSON lines with masks, or the arrays of the protocol `official`."""

import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from sspsam.errors import EvaluationError
from sspsam.evaluation.official import OfficialFrame, official_record, prediction_on_image
from sspsam.evaluation.predicted_masks import decoded_mask
from sspsam.evaluation.protocols import OFFICIAL, PHRASECUT, image_record, missing_record
from sspsam.evaluation.records import LARGEST_INTEGER, Record
from sspsam.utils.arrays import FloatBox
from sspsam.utils.paths import shown, user_path

CLIP_SIZES = (224, 336)


class Truth(Protocol):
    """One expression of a data set with its ground truth; the entries of every reader fit."""

    @property
    def image(self) -> Path:
        """Image file; it need not exist."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image, pixels."""

    @property
    def key(self) -> str:
        """Name of the expression in its split; the task_id of PhraseCut."""

    @property
    def text(self) -> str:
        """The expression."""

    @property
    def no_target(self) -> bool:
        """True where the expression refers to nothing in the image."""

    @property
    def box(self) -> FloatBox | None:
        """x0, y0, x1, y1 in pixels of the image; None where there is no target."""

    def mask(self) -> NDArray[np.bool_]:
        """Return the (h, w) ground truth."""


def score_predictions(
    path: str | Path,
    entries: Sequence[Truth],
    protocol: str,
    *,
    torchvision_017: bool = False,
    indices: Iterable[int] | None = None,
) -> Iterator[Record]:
    """Compare the predictions in a file with the truth.

    Args:
        path: JSON lines, one for each entry in the order of the entries. A line has `rle` or `mask`: COCO's run
            lengths, a mask file relative to `path`, or null for no target; and may have `image`, `text`, `no_target`,
            `box` (x0, y0, x1, y1 in pixels), `foreground_pixels` and `presence`. Lines of `Segmentation.to_dict` are
            such lines. For the protocol `official` an `.npz` with `low_res` (n, M, M), `pred_box` (n, 4) and
            `clip_size`, n the number of entries. For the protocol `phrasecut` also a folder with a mask file
            `<key>.png` for each task that is predicted.
        entries: of the whole split.
        protocol: one of `protocols.PROTOCOLS`.
        torchvision_017: see `OfficialFrame`.
        indices: entries to score; None: all.

    Yields:
        The records in the order of `indices`.

    Raises:
        EvaluationError: the file cannot be read, is of other entries, or is of a kind that the protocol cannot use.
    """
    source = user_path(path, "the predictions", EvaluationError)
    chosen = range(len(entries)) if indices is None else list(indices)
    if protocol == PHRASECUT and os.path.isdir(source):
        return _from_folder(source, entries, chosen)
    if (protocol == OFFICIAL) != (source.suffix == ".npz"):
        raise EvaluationError(
            f"{shown(source)}: the protocol {OFFICIAL} needs an .npz with low_res, pred_box and clip_size, because it "
            "compares masks in a padded frame; every other protocol needs JSON lines with masks"
        )
    if protocol == OFFICIAL:
        return _official(source, entries, torchvision_017, chosen)
    return _from_lines(source, entries, chosen, may_miss=protocol == PHRASECUT)


@dataclass(frozen=True, eq=False)
class OfficialPredictions:
    """The network's answers to all entries of a split.

    Args:
        low_res: (n, M, M) logits of SAM's square.
        pred_box: (n, 4) centre x, centre y, width, height, as fractions of CLIP's square.
        clip_size: S, side of that square in pixels.
    """

    low_res: NDArray[np.floating]
    pred_box: NDArray[np.floating]
    clip_size: int

    def __len__(self) -> int:
        return len(self.low_res)


def read_official(path: Path) -> OfficialPredictions:
    """Read and check the `.npz` of the protocol `official`.

    Raises:
        EvaluationError: the file cannot be read, or an array is missing or of a wrong shape or type.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            low_res, box, side = (file[name] for name in ("low_res", "pred_box", "clip_size"))
    except KeyError as error:
        raise EvaluationError(f"{shown(path)} lacks an array: {error.args[0]}") from None
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise EvaluationError(f"{shown(path)} cannot be read as an .npz: {error}") from error
    floating = all(np.issubdtype(array.dtype, np.floating) for array in (low_res, box))
    if low_res.ndim != 3 or low_res.shape[1] != low_res.shape[2] or box.shape != (len(low_res), 4) or not floating:
        raise EvaluationError(
            f"{shown(path)}: low_res must be (n, M, M) and pred_box (n, 4), both of floats, not {low_res.shape} "
            f"{low_res.dtype} and {box.shape} {box.dtype}"
        )
    if side.size != 1 or side.item() not in CLIP_SIZES:
        raise EvaluationError(f"{shown(path)}: clip_size must be 224 or 336, not {side.tolist()!s:.60}")
    return OfficialPredictions(low_res, box, int(side.item()))


def _official(path: Path, entries: Sequence[Truth], torchvision_017: bool, chosen: Sequence[int]) -> Iterator[Record]:
    predictions = read_official(path)
    _require_same_number(path, len(predictions), len(entries))
    frame = OfficialFrame(predictions.clip_size, torchvision_017=torchvision_017)
    for index in chosen:
        entry = entries[index]
        low_res, box = predictions.low_res[index].astype(np.float32), predictions.pred_box[index]
        try:
            record = official_record(index, entry.mask(), entry.box, low_res, box, frame)
        except EvaluationError as error:
            raise EvaluationError(f"{shown(path)}: {error}") from error
        yield _named(record, entry)


def predicted_masks(
    path: str | Path, entries: Sequence[Truth], protocol: str, indices: Sequence[int]
) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Yield index and (h, w) mask at the size of the image of some predictions; without a prediction, an empty mask.

    Args:
        path: of the predictions, see `score_predictions`.
        entries: of the whole split.
        protocol: one of `protocols.PROTOCOLS`.
        indices: entries whose masks are read.

    Raises:
        EvaluationError: as `score_predictions`.
    """
    source = user_path(path, "the predictions", EvaluationError)
    if protocol == OFFICIAL:
        predictions = read_official(source)
        frame = OfficialFrame(predictions.clip_size)
        for index in indices:
            yield index, prediction_on_image(predictions.low_res[index], entries[index].size, frame)
    elif os.path.isdir(source):
        for index in indices:
            name = f"{entries[index].key}.png"
            value = name if os.path.isfile(source / name) else None
            yield index, decoded_mask(value, entries[index].size, source, f"task {shown(entries[index].key)}")
    else:
        lines = _numbered_lines(source)
        for index in indices:
            number, line = lines[index]
            where = f"{shown(source)}, line {number}"
            content = _parsed(line, where)
            value = content.get("rle", content.get("mask"))
            yield index, decoded_mask(value, entries[index].size, source.parent, where)


def _from_lines(path: Path, entries: Sequence[Truth], chosen: Sequence[int], may_miss: bool) -> Iterator[Record]:
    lines = _numbered_lines(path)
    _require_same_number(path, len(lines), len(entries))
    for index in chosen:
        number, line = lines[index]
        where = f"{shown(path)}, line {number}"
        record = _line_record(index, _parsed(line, where), entries[index], path.parent, where, may_miss)
        yield _named(record, entries[index])


def _numbered_lines(path: Path) -> list[tuple[int, str]]:
    """Return the lines that are not empty, with their numbers from 1."""
    if os.path.isdir(path):
        raise EvaluationError(
            f"{shown(path)} is a folder, which only the protocol {PHRASECUT} reads; give a file of JSON lines"
        )
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise EvaluationError(f"{shown(path)} cannot be read: {reason}") from error
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _from_folder(folder: Path, entries: Sequence[Truth], chosen: Sequence[int]) -> Iterator[Record]:
    """Yield records of masks in files that have the names of their tasks."""
    if not any(os.path.isfile(folder / f"{entry.key}.png") for entry in entries):
        raise EvaluationError(f"{shown(folder)} has no <task_id>.png of this split")
    for index in chosen:
        entry = entries[index]
        name = f"{entry.key}.png"
        if os.path.isfile(folder / name):
            predicted = decoded_mask(name, entry.size, folder, f"task {shown(entry.key)}")
            yield _named(image_record(index, entry.mask(), predicted, no_target=entry.no_target), entry)
        else:
            yield _named(missing_record(index, entry.mask()), entry)


def _require_same_number(path: Path, given: int, entries: int) -> None:
    if given != entries:
        raise EvaluationError(
            f"{shown(path)} has {given} predictions, the split {entries} expressions: one for each is needed, in order"
        )


def _parsed(line: str, where: str) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"{where}: not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise EvaluationError(f"{where}: a prediction is a JSON object, not {type(content).__name__}")
    return content


def _line_record(index: int, content: dict[str, Any], entry: Truth, folder: Path, where: str, may_miss: bool) -> Record:
    _require_same_question(content, entry, where)
    names = [name for name in ("rle", "mask") if name in content]
    if not names and may_miss:
        return missing_record(index, entry.mask())
    if len(names) != 1:
        raise EvaluationError(f"{where}: a prediction has `rle` or `mask` (null: no target), not {names or 'none'}")
    record = image_record(
        index,
        entry.mask(),
        decoded_mask(content[names[0]], entry.size, folder, where),
        no_target=entry.no_target,
        predicted_no_target=_optional(content, "no_target", where),
        truth_box=entry.box,
        predicted_box=_optional(content, "box", where),
    )
    pixels, presence = (_optional(content, name, where) for name in ("foreground_pixels", "presence"))
    return replace(record, foreground_pixels=pixels, presence=presence)


def _require_same_question(content: dict[str, Any], entry: Truth, where: str) -> None:
    """Raise an error if a line names another image or another expression than its entry."""
    text, image = content.get("text"), content.get("image")
    if text is not None and text != entry.text:
        raise EvaluationError(
            f"{where}: the prediction is about {shown(repr(text))}, the entry about {entry.text!r}; keep the order of "
            "the entries"
        )
    if image is not None and (not isinstance(image, str) or Path(image).name != entry.image.name):
        raise EvaluationError(
            f"{where}: the prediction is about the image {shown(str(image))}, the entry about {entry.image.name}; keep "
            "the order of the entries"
        )


def _optional(content: dict[str, Any], name: str, where: str) -> Any:
    """Return a checked entry of a line; None where it is absent or null."""
    value = content.get(name)
    if value is None:
        return None
    if not _VALID[name](value):
        raise EvaluationError(f"{where}: {name} is {shown(repr(value))}, which cannot be")
    return value


def _is_finite(value: Any) -> bool:
    if type(value) is int:
        return abs(value) <= LARGEST_INTEGER
    return isinstance(value, float) and isfinite(value)


_VALID: Final[Mapping[str, Callable[[Any], bool]]] = MappingProxyType(
    {
        "no_target": lambda value: isinstance(value, bool),
        "box": lambda value: isinstance(value, list) and len(value) == 4 and all(map(_is_finite, value)),
        "foreground_pixels": lambda value: type(value) is int and 0 <= value <= LARGEST_INTEGER,
        "presence": lambda value: _is_finite(value) and 0 <= value <= 1,
    }
)


def _named(record: Record, entry: Truth) -> Record:
    return replace(record, image=entry.image.name, text=entry.text)
