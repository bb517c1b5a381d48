"""Own data: JSON lines with `image`, `text` and one of `mask`, `rle` and `polygons`.

`mask` is a grey image file (0: background), `rle` a run-length encoding of COCO, `polygons` a list of polygons
[x, y, x, y, ...] in pixels; null: the expression refers to nothing. `id` names the entry and `box` (x0, y0, x1, y1) is
the ground truth of the box; both may be left out. Paths of masks are relative to the file; those of
images to the image root, or without one to the folder of the file, to the data root, or to `images` in one of them.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

from sspsam.errors import DatasetError
from sspsam.evaluation.datasets.checks import (
    checked_corners,
    checked_identifier,
    checked_list,
    checked_object,
    checked_text,
    member,
)
from sspsam.evaluation.datasets.entry import Entry, MaskSource, unique_key
from sspsam.evaluation.datasets.image_size import image_size
from sspsam.evaluation.datasets.masks import COCOMask, MaskFile, check_segmentation, coco_tools, rle_size
from sspsam.evaluation.datasets.places import Request
from sspsam.segmentation.postprocessing import box_of_mask
from sspsam.utils.arrays import FloatBox, HeightWidth
from sspsam.utils.file_kinds import HEAD_BYTES
from sspsam.utils.paths import shown
from sspsam.utils.strict_json import repeated_name

_MASK_KINDS: Final = ("mask", "rle", "polygons")


def entries(request: Request) -> Iterator[Entry]:
    """Yield one entry for each line of `<data root>/<split>.jsonl`, or of the data root if it is a file.

    Raises:
        DatasetError: a line is malformed; the message names file and line.
        DatasetMissingError: the file is missing.
    """
    for line in lines(request):
        if isinstance(line, DatasetError):
            raise line
        yield line.entry


@dataclass(frozen=True)
class Line:
    """An entry with the line that it was read from.

    Args:
        entry: of the line.
        where: file and line, for messages.
        annotated: whether the line has a mask, which may be empty; False: null, the expression refers to nothing.
        contradiction: a kind of mask that is null beside another that is not; None without one, and where all kinds are
            there, as in the rows of a table.
    """

    entry: Entry
    where: str
    annotated: bool
    contradiction: str | None = None


def lines(request: Request, *, usual_too: bool = False) -> Iterator[Line | DatasetError]:
    """Yield what `entries` yields with its place, and an error in the place of each line that is malformed.

    Args:
        request: the file.
        usual_too: whether images that the image root lacks are looked for where they are without one.

    Raises:
        DatasetError: the file cannot be read.
        DatasetMissingError: the file is missing.
    """
    root = request.data_root
    path = root if os.path.isfile(root) else request.files(f"{request.split}.jsonl")[0]
    folder = path.parent if os.path.isfile(root) else root
    usual = dict.fromkeys((path.parent, path.parent / "images", folder, folder / "images"))
    images = tuple(usual) if request.image_root is None else (request.image_root, *(usual if usual_too else ()))
    counts: dict[str, int] = {}
    sizes: dict[Path, HeightWidth] = {}
    for number, text in enumerate(_lines(path), 1):
        if text.strip():
            where = f"{shown(path)}, line {number}"
            try:
                record = checked_object(_parsed(text, where), where)
                key = str(member(record, "id", checked_identifier, where)) if "id" in record else str(number)
                entry = _entry(record, unique_key(key, counts), images, path.parent, sizes, where)
                kind = _mask_kind(record, where)
                yield Line(entry, where, kind is not None, None if kind is None else _contradiction(record))
            except DatasetError as error:
                yield error


def _entry(
    record: dict[str, Any], key: str, images: tuple[Path, ...], masks: Path, sizes: dict[Path, HeightWidth], where: str
) -> Entry:
    name, text = member(record, "image", checked_text, where), member(record, "text", checked_text, where)
    if not name or not text.strip():
        raise DatasetError(f"{where}: 'image' and 'text' must not be empty")
    kind = _mask_kind(record, where)
    image = next((folder / name for folder in images if os.path.isfile(folder / name)), images[0] / name)
    if image not in sizes:
        sizes[image] = _size(image, kind, record, masks, where)
    size = sizes[image]
    source = None if kind is None else _source(kind, record[kind], size, masks, where)
    box = _box(source, kind, record, size, where)
    return Entry(image, name, size, text, box is None, box, key, None if box is None else source)


def _mask_kind(record: dict[str, Any], where: str) -> str | None:
    """Return the name of the annotation that is not null; None if there is none."""
    if not any(kind in record for kind in _MASK_KINDS):
        raise DatasetError(f"{where} lacks one of 'mask', 'rle' and 'polygons'; null: the expression refers to nothing")
    kinds = [kind for kind in _MASK_KINDS if record.get(kind) is not None]
    if len(kinds) > 1:
        raise DatasetError(f"{where} must have only one of {' and '.join(repr(kind) for kind in kinds)}")
    return kinds[0] if kinds else None


def _contradiction(record: dict[str, Any]) -> str | None:
    """Return the kind of mask that is null although another is not, unless all kinds are there."""
    there = [kind for kind in _MASK_KINDS if kind in record]
    return None if there == list(_MASK_KINDS) else next((kind for kind in there if record[kind] is None), None)


def _size(image: Path, kind: str | None, record: dict[str, Any], masks: Path, where: str) -> HeightWidth:
    """Return height and width of the image, or of its mask where the image is not there."""
    if os.path.isfile(image) or kind in (None, "polygons"):
        return image_size(image, where)
    if kind == "rle":
        return rle_size(record["rle"], f"{where}: 'rle'")
    return image_size(masks / member(record, "mask", checked_text, where), where)


def _source(kind: str, value: Any, size: HeightWidth, masks: Path, where: str) -> MaskSource:
    if kind == "mask":
        return MaskFile(masks / checked_text(value, f"{where}: 'mask'"), where)
    coco_tools()
    place = f"{where}: {kind!r}"
    segmentation = _flat_polygons(value, place) if kind == "polygons" else checked_object(value, place)
    check_segmentation(segmentation, size, place)
    return COCOMask((segmentation,), where)


def _flat_polygons(value: Any, where: str) -> list[list[Any]]:
    """Return polygons as lists x, y, x, y, ...; those that are lists of corners are flattened."""
    polygons = []
    for index, polygon in enumerate(checked_list(value, where)):
        numbers = checked_list(polygon, f"{where}, part {index}")
        if numbers and all(isinstance(corner, list) and len(corner) == 2 for corner in numbers):
            numbers = list(chain.from_iterable(numbers))
        if len(numbers) < 6:
            raise DatasetError(f"{where}, part {index} must have at least 3 corners")
        polygons.append(numbers)
    return polygons


def _box(
    source: MaskSource | None, kind: str | None, record: dict[str, Any], size: HeightWidth, where: str
) -> FloatBox | None:
    """Return the box of the line, the hull of its polygons, or the tight box of its mask; None: no target."""
    if source is None:
        return None
    if record.get("box") is not None:
        return member(record, "box", checked_corners, where)
    if kind == "polygons":
        numbers = list(chain.from_iterable(_flat_polygons(record["polygons"], where)))
        return min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])
    return box_of_mask(source.decode(size))


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file; bytes that are not UTF-8 become lone surrogates, which `_parsed` refuses."""
    try:
        with path.open("rb") as binary_file:
            if b"\0" in binary_file.read(HEAD_BYTES):  # an image, for example, or text in UTF-16
                raise DatasetError(f"{shown(path)} is not UTF-8 text: a file of JSON lines is expected")
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
            yield from file
    except OSError as error:
        raise DatasetError(f"{shown(path)} cannot be read: {shown(error)}") from error


def _parsed(line: str, where: str) -> Any:
    try:
        line.encode()
    except UnicodeEncodeError as error:
        raise DatasetError(f"{where} is not UTF-8 text: save the file as UTF-8") from error
    try:
        return json.loads(line, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{where} is not valid JSON: {shown(error)}") from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of a line; of an entry that occurs twice, one value would be lost."""
    name = repeated_name(pairs)
    if name is not None:
        raise ValueError(f"the entry {name!r} occurs twice")
    return dict(pairs)
