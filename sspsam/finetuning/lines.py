"""The lines of a fine-tuning: read from JSON lines, corrected files, or a data set with readers of its own."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

from sspsam.errors import DatasetError, DatasetMissingError, FinetuningError
from sspsam.evaluation.datasets import jsonl
from sspsam.evaluation.datasets.entries import DATASETS, read_dataset
from sspsam.evaluation.datasets.entry import Entry
from sspsam.evaluation.datasets.jsonl import Line
from sspsam.evaluation.datasets.places import PLACES, Request
from sspsam.finetuning.corrections import Remark, corrected_lines, is_corrected
from sspsam.utils.paths import shown, user_path

JSONL: Final = "jsonl"


@dataclass(frozen=True)
class DataSource:
    """Lines to learn from.

    Args:
        paths: JSON lines, files or folders of LabelMe, exports of Label Studio; a line of a later path replaces those
            of earlier paths about the same image and expression. Of another data set: its data root.
        dataset: one of `sspsam.evaluation.datasets.entries.DATASETS`.
        split: of the data set; with `jsonl` only of a folder.
        split_by: see `read_dataset`.
        image_root: folder of the images; those that are not there are looked for in the usual places.
    """

    paths: tuple[Path, ...]
    dataset: str = JSONL
    split: str = "train"
    split_by: str | None = None
    image_root: Path | None = None

    def __post_init__(self) -> None:
        if not self.paths:
            raise FinetuningError("there are no files of lines")
        if self.dataset not in DATASETS:
            raise DatasetError(f"there is no data set {self.dataset!r}: use one of {', '.join(DATASETS)}")
        if self.dataset != JSONL and len(self.paths) > 1:
            raise FinetuningError(f"{self.dataset} has one data root, not {len(self.paths)}")

    def expanded(self) -> Self:
        """Return the source with `~` expanded in its paths."""
        paths = tuple(user_path(path, "the lines", DatasetError) for path in self.paths)
        image_root = None if self.image_root is None else user_path(self.image_root, "the images", DatasetError)
        return replace(self, paths=paths, image_root=image_root)


@dataclass(frozen=True)
class SourceLine:
    """A line and the number of the path that it comes from."""

    line: Line
    source: int


def read_lines(data: DataSource) -> Iterator[SourceLine | Remark | DatasetError]:
    """Yield every line, remarks about corrected files, and an error in the place of each that is malformed.

    Raises:
        DatasetError: a file is missing or cannot be read at all.
    """
    data = data.expanded()
    for number, path in enumerate(data.paths):
        for line in _of_path(data, path):
            yield SourceLine(line, number) if isinstance(line, Line) else line


def _of_path(data: DataSource, path: Path) -> Iterator[Line | Remark | DatasetError]:
    if not os.path.exists(path):
        raise DatasetMissingError(f"there is no file or folder {shown(path)}")
    if data.dataset != JSONL:
        entries: Sequence[Entry] = read_dataset(
            data.dataset, data.split, data_root=path, split_by=data.split_by, image_root=data.image_root
        )
        yield from (Line(entry, f"{data.dataset}, entry {entry.key}", not entry.no_target) for entry in entries)
    elif is_corrected(path):
        yield from corrected_lines(path, data.image_root)
    else:
        request = Request(JSONL, data.split, "", path, data.image_root, PLACES[JSONL])
        yield from jsonl.lines(request, usual_too=True)  # other paths may have their images elsewhere
