"""Files and folders of each data set, and the message about those that are missing."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sspsam.errors import DatasetError, DatasetMissingError
from sspsam.evaluation.datasets.entry import Entry
from sspsam.utils.paths import shown

_LISTED_FILES: Final = 5
_COCO_FOLDERS: Final = (
    "images/mscoco/images/train2014",  # refer.py
    "images/train2014",  # G_REFER
    "coco/train2014",  # SSP-SAM
    "coco/images/train2014",
    "mscoco/train2014",
    "train2014",
    "images",
)
_EQUAL_FILES: Final = frozenset({"refcoco", "refcoco+", "refcocog", "refclef"})  # their files have the same names
_COCO_SOURCE: Final = "the images of COCO train2014 from http://images.cocodataset.org/zips/train2014.zip"


@dataclass(frozen=True)
class Place:
    """Usual places of a data set below the data root, and its source.

    Args:
        folders: of the annotations; the first that holds them is read.
        image_folders: the first that exists is read.
        source: of the annotations.
        image_source: of the images.
    """

    folders: tuple[str, ...]
    image_folders: tuple[str, ...]
    source: str
    image_source: str


@dataclass(frozen=True)
class Request:
    """Part of a data set to be read.

    Args:
        dataset: name of the data set.
        split: name of the split.
        split_by: name of the division into splits, such as unc or google.
        data_root: folder of all data sets.
        image_root: folder of the images; None: in a usual place below `data_root`.
        place: usual places of the data set.
    """

    dataset: str
    split: str
    split_by: str
    data_root: Path
    image_root: Path | None
    place: Place

    @property
    def image_folder(self) -> Path:
        """Folder of the images: `image_root`, or the first usual place that exists."""
        if self.image_root is not None:
            return self.image_root
        folders = [self.data_root / name for name in self.place.image_folders]
        return next((folder for folder in folders if os.path.isdir(folder)), folders[0])

    def files(self, *names: str | Sequence[str]) -> list[Path]:
        """Return the paths of annotation files in the first usual folder that has all of them.

        Args:
            names: of the files; of several names for one file, the first that exists is taken.

        Raises:
            DatasetMissingError: no usual folder has all files.
        """
        choices = [(name,) if isinstance(name, str) else tuple(name) for name in names]
        folders = [self.data_root / folder for folder in self.place.folders]
        for folder in folders:
            found = [
                next((folder / name for name in choice if os.path.isfile(folder / name)), None) for choice in choices
            ]
            if None not in found:
                self._require_own_name(folder)
                return [path for path in found if path is not None]
        folder = self._nearest_folder(folders, choices)
        missing = [folder / choice[-1] for choice in choices if not _has_one_of(folder, choice)]
        raise DatasetMissingError(
            f"{self.dataset} lacks {', '.join(shown(path) for path in missing)}: get {self.place.source}, and put the "
            "files at these places, or give another data root"
        )

    def _require_own_name(self, folder: Path) -> None:
        """Refuse the folder of another data set with files of the same names, given as the data root."""
        name = Path(os.path.realpath(folder)).name.lower()
        if folder == self.data_root and name != self.dataset and {name, self.dataset} <= _EQUAL_FILES:
            raise DatasetError(
                f"{shown(folder)} is the folder of {name} by its name, not of {self.dataset}: give the one of "
                f"{self.dataset}, or rename it"
            )

    def _nearest_folder(self, folders: Sequence[Path], choices: Sequence[Sequence[str]]) -> Path:
        """Return the folder that has most of the files, or else the first folder of the data set that exists."""
        present = [sum(_has_one_of(folder, choice) for choice in choices) for folder in folders]
        if any(present):
            return folders[present.index(max(present))]
        own = [folder for folder in folders if folder != self.data_root]
        return next((folder for folder in own if os.path.isdir(folder)), folders[0])


def _has_one_of(folder: Path, names: Sequence[str]) -> bool:
    return any(os.path.isfile(folder / name) for name in names)


def _refer(dataset: str) -> Place:
    """Return the places of a data set of refer.py with images of COCO."""
    source = f"{dataset}.zip as described in https://github.com/lichengunc/refer"
    return Place((dataset, "."), _COCO_FOLDERS, source, _COCO_SOURCE)


PLACES: Final[dict[str, Place]] = {
    "refcoco": _refer("refcoco"),
    "refcoco+": _refer("refcoco+"),
    "refcocog": _refer("refcocog"),
    "refclef": Place(
        ("refclef", "."),
        ("images/saiapr_tc-12", "saiapr_tc-12", "refclef/images", "referit/images", "images"),
        "refclef.zip as described in https://github.com/lichengunc/refer",
        "the images of SAIAPR TC-12 as described in https://github.com/lichengunc/refer",
    ),
    "grefcoco": Place(
        ("grefcoco", "."),
        ("images/train2014", *(name for name in _COCO_FOLDERS if name != "images/train2014")),
        "grefs(unc).json and instances.json as described in https://github.com/henghuiding/gRefCOCO",
        _COCO_SOURCE,
    ),
    "phrasecut": Place(
        ("phrasecut", "VGPhraseCut_v0", "."),
        ("phrasecut/images", "VGPhraseCut_v0/images", "images"),
        "VGPhraseCut_v0 with download_dataset.py of https://github.com/ChenyunWu/PhraseCutDataset",
        "the images with download_dataset.py of https://github.com/ChenyunWu/PhraseCutDataset",
    ),
    "refcoco-m": Place(
        ("refcoco-m/data", "refcoco-m", "data", "."),
        (".",),
        "the data set moondream/refcoco-m of the Hub (hf download --repo-type dataset moondream/refcoco-m)",
        "the Parquet files, which hold the images",
    ),
    "pbench": Place(
        ("pbench/data", "pbench", "PBench/data", "PBench", "data", "."),
        (".",),
        "the data set tiiuae/PBench of the Hub (hf download --repo-type dataset tiiuae/PBench)",
        "the Parquet files, which hold the images",
    ),
    "authors": Place(
        (".", "data_seg"),
        _COCO_FOLDERS,
        "anns/<name>.json and masks/<name>/*.npy with data_process.py of https://github.com/WayneTomas/SSP-SAM",
        "the images of the data set that the annotations were made from",
    ),
    "jsonl": Place((".", "jsonl"), (".",), "a file with one JSON object a line", "the images"),
}


def require_images(entries: Iterable[Entry], dataset: str) -> None:
    """Check that the image files of entries exist.

    Args:
        entries: of the data set.
        dataset: name of the data set, for the source in the message.

    Raises:
        DatasetMissingError: some are missing; the message lists them and says what to get.
    """
    images = dict.fromkeys(entry.image for entry in entries if entry.embedded is None)
    missing = [image for image in images if not os.path.isfile(image)]
    if not missing:
        return
    listed = ", ".join(shown(image) for image in missing[:_LISTED_FILES])
    more = f" and {len(missing) - _LISTED_FILES:,} more" if len(missing) > _LISTED_FILES else ""
    source = PLACES[dataset].image_source if dataset in PLACES else "the images"
    raise DatasetMissingError(
        f"{len(missing):,} of {len(images):,} images of {dataset} are missing: {listed}{more}. Get {source}, and put "
        "them there, or give their folder as the image root"
    )


def require_texts(entries: Iterable[Entry]) -> None:
    """Check, before any work, that a model can answer all expressions.

    Args:
        entries: of the data set.

    Raises:
        DatasetError: an expression is empty.
    """
    for entry in entries:
        if not entry.text.strip():
            raise DatasetError(
                f"the expression of entry {shown(entry.key)} about {shown(entry.image)} is empty, and a model needs "
                "words: correct the annotation"
            )
