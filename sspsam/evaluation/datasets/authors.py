"""The prepared data of SSP-SAM's authors: `anns/<name>.json` and `masks/<name>/<mask_id>.npy`."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from sspsam.errors import DatasetError, DatasetMissingError
from sspsam.evaluation.datasets.checks import (
    Identifier,
    checked_box,
    checked_corners,
    checked_identifier,
    checked_list,
    checked_object,
    checked_text,
    member,
    read_json,
)
from sspsam.evaluation.datasets.entry import Entry, unique_key
from sspsam.evaluation.datasets.masks import ArrayFile
from sspsam.evaluation.datasets.places import Request
from sspsam.utils.arrays import FloatBox, HeightWidth
from sspsam.utils.paths import shown

_CORNER_BOXES: Final = ("grefcoco", "phrase_cut")  # x0, y0, x1, y1; the boxes of others are x, y, width, height
_NO_BOX: Final = (0.0, 0.0, 0.0, 0.0)  # of a gRefCOCO expression without a target


def entries(request: Request) -> Iterator[Entry]:
    """Yield one entry for each expression of a split in the order of the file.

    Args:
        request: its `split_by` is the name of the file below `anns`; empty: the only one.

    Raises:
        DatasetError: there is no such split, or the annotations are malformed.
        DatasetMissingError: a file is missing.
    """
    path = request.files(f"anns/{request.split_by or _only_name(request)}.json")[0]
    content = checked_object(read_json(path), shown(path))
    if request.split not in content:
        raise DatasetError(f"{shown(path)} has no split {request.split!r}: it has {', '.join(map(shown, content))}")
    folder = request.image_folder
    counts: dict[str, int] = {}
    sizes: dict[Path, HeightWidth] = {}
    for index, value in enumerate(member(content, request.split, checked_list, shown(path))):
        where = f"{shown(path)}: {request.split} entry {index}"
        record = checked_object(value, where)
        mask_id = member(record, "mask_id", checked_identifier, where)
        mask = path.parents[1] / "masks" / _mask_folder(path.stem) / f"{_plain(mask_id, where)}.npy"
        if mask not in sizes:
            sizes[mask] = _array_size(mask, where)
        check = checked_corners if path.stem in _CORNER_BOXES else checked_box
        box = _corners(member(record, "bbox", check, where), path.stem)
        for text in member(record, "refs", checked_list, where):
            yield Entry(
                image=folder / _image_name(record, path.stem, where),
                image_id=str(record["iid"]),
                size=sizes[mask],
                text=checked_text(text, f"{where}: 'refs'"),
                no_target=box is None,
                box=box,
                key=unique_key(str(mask_id), counts),
                source=ArrayFile(mask, where),
            )


def _only_name(request: Request) -> str:
    folders = [request.data_root / folder / "anns" for folder in request.place.folders]
    names = sorted({path.stem for folder in folders for path in folder.glob("*.json")})
    if len(names) == 1:
        return names[0]
    if not names:
        raise DatasetMissingError(f"{shown(folders[0])} holds no annotations: get {request.place.source}")
    raise DatasetError(f"give one of the annotations as split_by: {', '.join(map(shown, names))}")


def _mask_folder(name: str) -> str:
    return "phrase_cut_mask" if name == "phrase_cut" else name


def _corners(box: FloatBox, name: str) -> FloatBox | None:
    if box == _NO_BOX:
        return None
    x, y, a, b = box
    return box if name in _CORNER_BOXES else (x, y, x + a, y + b)


def _image_name(record: dict[str, Any], name: str, where: str) -> str:
    image_id = _plain(member(record, "iid", checked_identifier, where), where)
    if name == "phrase_cut":
        return f"{_plain(member(record, 'img_folder', checked_text, where), where)}/{image_id}.jpg"
    if name == "refclef":
        return f"{image_id}.jpg"
    return f"COCO_train2014_{image_id:0>12}.jpg"


def _plain(identifier: Identifier, where: str) -> str:
    """Return an identifier that is a part of a file name."""
    name = str(identifier)
    if not name or name in (".", "..") or any(character in name for character in "/\\\0"):
        raise DatasetError(f"{where}: {shown(name)} cannot be part of a file name")
    return name


def _array_size(path: Path, where: str) -> HeightWidth:
    """Return the shape of an array from the header of its file."""
    if not os.path.isfile(path):
        raise DatasetMissingError(f"{where} refers to the mask {shown(path)}, which does not exist")
    try:
        shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
    except (OSError, ValueError, EOFError, AttributeError) as error:
        raise DatasetError(f"{where}: the mask {shown(path)} cannot be read: {shown(error)}") from error
    if len(shape) != 2:
        raise DatasetError(f"{where}: the mask {shown(path)} must have 2 axes (height, width), not {len(shape)}")
    return int(shape[0]), int(shape[1])
