"""The worst answers of an evaluation as images: truth and prediction over the image, and an index of them."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol

import numpy as np
from PIL import Image

from sspsam.errors import ImageError
from sspsam.evaluation.datasets.entry import Entry
from sspsam.evaluation.records import Record
from sspsam.images.loading import load_image
from sspsam.segmentation.colors import RGB
from sspsam.segmentation.drawing import draw
from sspsam.segmentation.postprocessing import box_of_mask
from sspsam.utils.arrays import FloatBox, IntBox, Mask
from sspsam.utils.files import make_directory, replace_file, storage_errors
from sspsam.utils.paths import printable, shown

FOLDER: Final = "worst"
INDEX: Final = "README.md"
_TRUTH: Final[RGB] = (0, 158, 115)  # bluish green of the palette of Okabe and Ito
_PREDICTION: Final[RGB] = (213, 94, 0)  # vermilion
_LONGEST: Final = 1024  # side of an overlay, pixels
_SHORTEST: Final = 512  # longer side below which an overlay is enlarged, pixels
_QUALITY: Final = 90  # of JPEG
_OWN_FILE: Final = re.compile(r"(low-iou|missed|absent)-\d+\.jpg")
_TITLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "low-iou": "Lowest IoU of targets that were answered with a mask",
        "missed": "Targets that were answered with no target, the largest first",
        "absent": "Expressions that refer to nothing and were answered with a mask, the largest first",
    }
)
_WITHOUT_IMAGE: Final = "(image not found)"


class MaskReader(Protocol):
    """Source of the predicted masks."""

    def masks(self, indices: Sequence[int]) -> Iterator[tuple[int, Mask]]:
        """Yield the index and the (h, w) mask, before a no-target answer empties it, of some expressions."""


@dataclass(frozen=True)
class Case:
    """One of the worst answers.

    Args:
        kind: a key of `_TITLES`.
        file_name: of the overlay.
        record: of the answer.
    """

    kind: str
    file_name: str
    record: Record

    @property
    def iou(self) -> float:
        """IoU of prediction and truth; 0 where one of them is missed."""
        return _iou(self.record) if self.kind == "low-iou" else 0.0


@dataclass(frozen=True, eq=False)
class _Drawn:
    """A mask with its label, as `sspsam.segmentation.draw` takes it."""

    text: str
    mask: Mask
    no_target: bool
    box: FloatBox = (0, 0, 0, 0)

    @property
    def mask_box(self) -> IntBox | None:
        return box_of_mask(self.mask)


def _iou(record: Record) -> float:
    return record.intersection / record.union if record.union else 0.0


# sort keys of each kind: the worst first
_SEVERITY: Final[Mapping[str, Callable[[Record], tuple[float, int]]]] = MappingProxyType(
    {
        "low-iou": lambda record: (_iou(record), record.index),
        "missed": lambda record: (-record.target_area, record.index),
        "absent": lambda record: (-record.predicted_area, record.index),
    }
)


def worst_cases(records: Iterable[Record], count: int) -> list[Case]:
    """Choose the worst answers: of each kind at most `count`, the worst first, and of equals the first."""
    groups: dict[str, list[Record]] = {kind: [] for kind in _TITLES}
    for record in records:
        if not record.no_target:
            groups["missed" if record.predicted_no_target else "low-iou"].append(record)
        elif not record.predicted_no_target:
            groups["absent"].append(record)
    return [
        Case(kind, f"{kind}-{rank:03}.jpg", record)
        for kind, group in groups.items()
        for rank, record in enumerate(sorted(group, key=_SEVERITY[kind])[:count], 1)
    ]


def draw_worst_cases(
    records: Sequence[Record], entries: Sequence[Entry], source: MaskReader, output: Path, count: int, title: str
) -> Path:
    """Draw the worst answers into the folder `worst` with an index; a complete index is not drawn again.

    Args:
        records: of the evaluation.
        entries: of the split, by the index of the records.
        source: of the predicted masks.
        output: folder of the evaluation.
        count: largest number of each kind.
        title: of the index.

    Returns:
        The path of the index.

    Raises:
        StorageError: a file cannot be written.
    """
    folder, cases = output / FOLDER, worst_cases(records, count)
    found = {case.record.index for case in cases if _has_image(entries[case.record.index])}
    index = _index_text(cases, entries, found, title)
    path = folder / INDEX
    if _is_complete(path, index, [case.file_name for case in cases if case.record.index in found]):
        return path
    remove_worst_cases(output)
    make_directory(folder)
    by_index = {case.record.index: case for case in cases if case.record.index in found}
    for number, predicted in source.masks(list(by_index)):
        overlay = _overlay(by_index[number], entries[number], predicted)
        if overlay is not None:
            replace_file(folder / by_index[number].file_name, overlay)
    replace_file(path, index.encode("utf-8", "backslashreplace"))
    return path


def remove_worst_cases(output: Path) -> None:
    """Remove the index and the overlays of an earlier evaluation, and no other file."""
    folder = output / FOLDER
    with storage_errors(folder):
        if os.path.isdir(folder):
            for old in (folder / INDEX, *(old for old in folder.iterdir() if _OWN_FILE.fullmatch(old.name))):
                old.unlink(missing_ok=True)


def _has_image(entry: Entry) -> bool:
    return entry.embedded is not None or os.path.isfile(entry.image)


def _is_complete(path: Path, index: str, overlays: Sequence[str]) -> bool:
    """Return whether an index is the one that would be written, with its overlays beside it."""
    try:
        same = path.read_bytes() == index.encode("utf-8", "backslashreplace")
    except OSError:
        return False
    return same and all(os.path.isfile(path.parent / name) for name in overlays)


def _overlay(case: Case, entry: Entry, predicted: Mask) -> bytes | None:
    """Return the JPEG file of a case; None if the image cannot be read or is of another size than the truth."""
    try:
        pixels = load_image(entry.image_input)
    except ImageError:
        return None
    truth = entry.mask()
    if pixels.shape[:2] != truth.shape:
        return None
    factor = max(1, -(-_SHORTEST // max(truth.shape)))  # small images are enlarged, so that labels can be read
    enlarged = np.ones((factor, factor), np.bool_)
    pixels = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    truth, predicted = np.kron(truth, enlarged), np.kron(predicted, enlarged)
    if case.kind == "missed":
        predicted = np.zeros_like(predicted)
    answers = [
        _Drawn(entry.text if case.kind == "absent" else f"truth: {entry.text}", truth, case.kind == "absent"),
        _Drawn(f"predicted, IoU {case.iou:.2f}", predicted, case.kind == "missed"),
    ]
    image = draw(pixels, answers, colors=(_TRUTH, _PREDICTION), opacity=0.35)
    image.thumbnail((_LONGEST, _LONGEST), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    return buffer.getvalue()


def _index_text(cases: Sequence[Case], entries: Sequence[Entry], found: set[int], title: str) -> str:
    """Return the index as Markdown."""
    lines = [
        f"# Worst cases: {_cell(title)}",
        "",
        "Truth is green, prediction is orange-red. Pixels are those of the protocol's grid.",
    ]
    for kind, heading in _TITLES.items():
        rows = [case for case in cases if case.kind == kind]
        lines += ["", f"## {heading}", ""]
        if not rows:
            lines.append("None.")
            continue
        lines += ["| overlay | expression | image | IoU | target, pixels | prediction, pixels | record |"]
        lines += ["|---|---|---|---|---|---|---|"]
        lines += [_row(case, entries[case.record.index], case.record.index in found) for case in rows]
    return "\n".join(lines) + "\n"


def _row(case: Case, entry: Entry, has_image: bool) -> str:
    record = case.record
    overlay = f"[![]({case.file_name})]({case.file_name})" if has_image else _WITHOUT_IMAGE
    cells = (
        overlay,
        _cell(entry.text),
        _cell(shown(entry.image.name)),
        f"{case.iou:.4f}",
        record.target_area,
        record.predicted_area,
        record.index,
    )
    return f"| {' | '.join(map(str, cells))} |"


def _cell(text: str) -> str:
    """Return a text in which Markdown finds no markup."""
    return re.sub(r"([\\`*_{}\[\]<>#|!~$])", r"\\\1", printable(text))
