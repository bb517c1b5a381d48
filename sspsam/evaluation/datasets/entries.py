"""`read_dataset`: the entries of a split of any supported data set."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from types import MappingProxyType
from typing import Final

from sspsam.errors import DatasetError, DatasetMissingError, MissingExtraError
from sspsam.evaluation.datasets import authors, grefcoco, jsonl, pbench, phrasecut, refcoco, refcoco_m
from sspsam.evaluation.datasets.entry import Entry
from sspsam.evaluation.datasets.masks import coco_tools
from sspsam.evaluation.datasets.parquet import FLAT_POLYGONS, flattened_copy
from sspsam.evaluation.datasets.places import PLACES, Request
from sspsam.utils.paths import shown, shown_repr, user_path

__all__ = ["DATASETS", "DEFAULT_SPLIT_BY", "Entry", "read_dataset"]

_NAME: Final = re.compile(r"\w[\w+.-]*")  # part of a file name
DEFAULT_SPLIT_BY: Final[Mapping[str, str]] = MappingProxyType(
    {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd", "refclef": "unc", "grefcoco": "unc"}
)
_READERS: Final[Mapping[str, Callable[[Request], Iterator[Entry]]]] = MappingProxyType(
    {
        "refcoco": refcoco.entries,
        "refcoco+": refcoco.entries,
        "refcocog": refcoco.entries,
        "refclef": refcoco.entries,
        "grefcoco": grefcoco.entries,
        "phrasecut": phrasecut.entries,
        "refcoco-m": refcoco_m.entries,
        "pbench": pbench.entries,
        "authors": authors.entries,
        "jsonl": jsonl.entries,
    }
)
DATASETS: Final = tuple(_READERS)
_NEEDS_COCO: Final = (*DEFAULT_SPLIT_BY, "refcoco-m", "pbench")
_BROKEN: Final = "lmms-lab/refcoco"  # and RefCOCOplus, RefCOCOg
_OWNERS: Final = "Use the files of https://github.com/lichengunc/refer"


def read_dataset(
    dataset: str,
    split: str,
    *,
    data_root: str | os.PathLike[str],
    split_by: str | None = None,
    image_root: str | os.PathLike[str] | None = None,
    limit: int | None = None,
) -> list[Entry]:
    """Read the entries of a split in the order of the data set's own files.

    Image files need not exist; `sspsam.evaluation.datasets.places.require_images` checks them.

    Args:
        dataset: one of `DATASETS`.
        split: name of the split, by the rules of the owners.
        data_root: folder that holds a folder for each data set; of `jsonl`, the file itself or its folder.
        split_by: name of the division into splits; None: the usual one, see `DEFAULT_SPLIT_BY`. Of the authors' data:
            name of the file below `anns`; None: the only one.
        image_root: folder of the images; None: in a usual place below `data_root`.
        limit: largest number of entries; None: all.

    Returns:
        One entry for each expression; none where the split is known and empty.

    Raises:
        DatasetError: there is no such data set or split, or the annotations are malformed.
        DatasetMissingError: files are missing; the message lists them.
        UnsafePickleError: a pickle names a class or function.
        MissingExtraError: pycocotools or pyarrow is not installed.
    """
    if dataset.lower().startswith(_BROKEN):
        raise DatasetError(f"the files of {shown(dataset)} are refused, because {FLAT_POLYGONS}. {_OWNERS}")
    if dataset not in _READERS:
        raise DatasetError(f"there is no data set {shown(repr(dataset))}: use one of {', '.join(DATASETS)}")
    if split_by is not None and dataset not in (*DEFAULT_SPLIT_BY, "authors"):
        raise DatasetError(f"{dataset} has only one division into splits: leave split_by out")
    for name, value in (("split", split), ("split_by", split_by)):
        if value is not None and not _NAME.fullmatch(value):
            raise DatasetError(f"{name} must be letters, digits and any of _ + - . , not {shown_repr(value)}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")
    if dataset in _NEEDS_COCO:
        coco_tools()  # before the work: its masks need pycocotools
    request = Request(
        dataset,
        split,
        split_by or DEFAULT_SPLIT_BY.get(dataset, ""),
        user_path(data_root, "the data set", DatasetError),
        None if image_root is None else user_path(image_root, "the images", DatasetError),
        PLACES[dataset],
    )
    try:
        return list(islice(_READERS[dataset](request), limit))
    except DatasetMissingError:
        _refuse_flattened_copy(request)
        raise


def _refuse_flattened_copy(request: Request) -> None:
    """Raise the reason for a refusal where files are missing because the data root holds a copy with wrong masks."""
    if request.dataset not in DEFAULT_SPLIT_BY:
        return
    folders = [request.data_root / folder for folder in request.place.folders]
    folders += [folder for folder in request.data_root.glob("*") if folder.name.lower().startswith("refcoco")]
    with suppress(MissingExtraError):
        path = flattened_copy(folders)
        if path is not None:
            raise DatasetError(
                f"{shown(path)} is refused: the files of copies such as {_BROKEN} have wrong masks, because "
                f"{FLAT_POLYGONS}. {_OWNERS}"
            )
