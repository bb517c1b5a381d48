"""Files that were corrected by hand, read back as lines: LabelMe's JSON files and Label Studio's JSON exports.

`sspsam finetune --worst` writes such files, which list every expression: LabelMe's among their flags, of which one that
is set says that its expression refers to nothing, Label Studio's in the data of a task, where an expression without
regions refers to nothing.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from sspsam.errors import DatasetError
from sspsam.evaluation.datasets.checks import (
    checked_list,
    checked_number,
    checked_object,
    checked_text,
    member,
    read_json,
)
from sspsam.evaluation.datasets.entry import Box, Entry, MaskSource
from sspsam.evaluation.datasets.image_size import image_size
from sspsam.evaluation.datasets.jsonl import Line
from sspsam.evaluation.datasets.masks import COCOMask, DrawnMask, check_segmentation, coco_tools
from sspsam.utils.paths import shown, shown_repr

# key of a Label Studio task's data, and of a LabelMe file, which LabelMe keeps: every expression about the image
TEXTS: Final = "texts"
FILE: Final = "file"  # key of the same: path of the image
Polygon = list[float]  # x, y, x, y, ... in pixels
_Drawn = Callable[[list[Polygon], str], tuple[MaskSource, Box]]  # mask and box of polygons, as their program means them
_POLYGON: Final = "polygonlabels"  # type of a region of Label Studio
_OTHER_REGIONS: Final = ("brush", "bitmask", "ellipse", "keypoint", "polygon", "rectangle", "vector")


def is_corrected(path: Path) -> bool:
    """Return whether a path is a JSON file, or a folder of JSON files without JSON lines."""
    if os.path.isdir(path):
        return any(path.glob("**/*.json")) and not any(path.glob("*.jsonl"))
    return path.suffix.lower() == ".json"


def corrected_lines(path: Path, image_root: Path | None = None) -> Iterator[Line | DatasetError]:
    """Yield a line for each expression about each image, and an error in the place of each that is malformed.

    Args:
        path: a file of LabelMe, a folder of such files, or a JSON export of Label Studio.
        image_root: folder of the images; None: that of each file.

    Raises:
        MissingExtraError: pycocotools, which decodes polygons, is not installed.
    """
    coco_tools()
    for file in sorted(path.glob("**/*.json")) if os.path.isdir(path) else [path]:
        try:
            content = read_json(file)
            tasks = content if isinstance(content, list) else [content]
        except DatasetError as error:
            yield error
            continue
        for number, task in enumerate(tasks):
            where = f"{shown(file)}, task {number + 1}" if isinstance(content, list) else shown(file)
            try:
                checked_object(task, where)
                if isinstance(content, list):
                    yield from _label_studio_lines(task, image_root or file.parent, where)
                else:
                    yield from _labelme_lines(task, image_root or file.parent, where)
            except DatasetError as error:
                yield error


def _labelme_lines(content: dict[str, Any], folder: Path, where: str) -> Iterator[Line]:
    image = folder / member(content, "imagePath", checked_text, where)
    polygons: dict[str, list[Polygon]] = {}
    for index, shape in enumerate(member(content, "shapes", checked_list, where)):
        place = f"{where}, shape {index + 1}"
        checked_object(shape, place)
        if shape.get("shape_type", "polygon") != "polygon":
            raise DatasetError(f"{place} is a {shown(shape['shape_type'])}; only polygons are read")
        text = shape.get("description") or member(shape, "label", checked_text, place)
        points = member(shape, "points", checked_list, place)
        polygons.setdefault(checked_text(text, place), []).append(_flat(points, 1.0, 1.0, place))
    flags = checked_object(content.get("flags") or {}, f"{where}: 'flags'")
    for text, refers_to_nothing in flags.items():
        if refers_to_nothing and polygons.get(text):
            raise DatasetError(f"{where}: the flag {shown(text)!r} says no target, but there are shapes of it")
        if refers_to_nothing:
            polygons.setdefault(text, [])
    for text in checked_list(content.get(TEXTS) or [], f"{where}: {TEXTS!r}"):
        if checked_text(text, f"{where}: {TEXTS!r}") not in polygons:
            raise DatasetError(
                f"{where}: {shown_repr(text)} has no shape, and its flag is not set: draw its shapes, or set the flag "
                "if it refers to nothing"
            )
    yield from _lines(image, polygons, where, _drawn_by_labelme)


def _label_studio_lines(task: dict[str, Any], folder: Path, where: str) -> Iterator[Line]:
    data = member(task, "data", checked_object, where)
    image = folder / (data[FILE] if isinstance(data.get(FILE), str) else _path_of_url(_url(data, where), where))
    height, width = image_size(image, where)
    annotations = [
        annotation
        for annotation in checked_list(task.get("annotations") or [], f"{where}: 'annotations'")
        if not checked_object(annotation, f"{where}: an annotation").get("was_cancelled")
    ]
    if not annotations:
        return  # a task without annotations
    texts = checked_list(data.get(TEXTS) or [], f"{where}: {TEXTS!r}")
    polygons: dict[str, list[Polygon]] = {checked_text(text, f"{where}: {TEXTS!r}"): [] for text in texts}
    for index, region in enumerate(member(annotations[-1], "result", checked_list, where)):
        place = f"{where}, region {index + 1}"
        if not _is_polygon(region, place):
            continue
        value = member(region, "value", checked_object, place)
        points = member(value, "points", checked_list, place)
        polygons.setdefault(_text_of_region(region, value, place), []).append(
            _flat(points, width / 100, height / 100, place)
        )
    yield from _lines(image, polygons, where, _drawn_by_label_studio)


def _is_polygon(region: Any, place: str) -> bool:
    """Return whether an item of a result is a polygon; refuse regions of other kinds, which would be lost."""
    kind = checked_text(checked_object(region, place).get("type", ""), f"{place}: 'type'")
    if kind != _POLYGON and (kind.endswith("labels") or kind in _OTHER_REGIONS):
        raise DatasetError(f"{place} is of the type {shown(kind)}; only polygons with labels are read ({_POLYGON})")
    return kind == _POLYGON


def _text_of_region(region: dict[str, Any], value: dict[str, Any], place: str) -> str:
    """Return the expression of a region: its meta text, else its label."""
    meta = region.get("meta") or {}
    texts = meta.get("text") if isinstance(meta, dict) else None
    if not texts:
        texts = member(value, "polygonlabels", checked_list, place)
    if isinstance(texts, list) and texts:
        return checked_text(texts[0], place)
    return checked_text(texts, place)


def _url(data: dict[str, Any], where: str) -> str:
    url = data.get("image") or next((value for value in data.values() if isinstance(value, str)), None)
    if not isinstance(url, str):
        raise DatasetError(f"{where} names no image")
    return url


def _path_of_url(url: str, where: str) -> str:
    """Return the path of a local file in a URL of Label Studio: the parameter `d`, or the last part of the path."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise DatasetError(f"{where}: {shown(url)} is not a URL: {shown(error)}") from error
    local = parse_qs(parts.query).get("d")
    return local[0] if local else PurePosixPath(unquote(parts.path)).name


def _flat(points: list[Any], x_scale: float, y_scale: float, place: str) -> Polygon:
    """[[x, y], ...] -> [x, y, x, y, ...] in pixels."""
    if len(points) < 3:
        raise DatasetError(f"{place} must have at least 3 corners, not {len(points)}")
    flat: Polygon = []
    for point in points:
        x, y = (checked_number(number, place) for number in _pair(point, place))
        flat += [x * x_scale, y * y_scale]
    return flat


def _pair(point: Any, place: str) -> list[Any]:
    numbers = checked_list(point, place)
    if len(numbers) != 2:
        raise DatasetError(f"{place}: a corner has 2 numbers, not {len(numbers)}")
    return numbers


def _lines(image: Path, polygons: dict[str, list[Polygon]], where: str, drawn: _Drawn) -> Iterator[Line]:
    size = image_size(image, where)
    for text, parts in polygons.items():
        key = f"{image.name}: {text}"
        if not parts:
            yield Line(Entry(image, image.name, size, text, True, None, key), where, False)
            continue
        check_segmentation(parts, size, where)
        source, box = drawn(parts, where)
        yield Line(Entry(image, image.name, size, text, False, box, key, source), where, True)


def _drawn_by_label_studio(polygons: list[Polygon], where: str) -> tuple[MaskSource, Box]:
    """Return the mask of all pixels whose centres are inside, and its box."""
    return COCOMask((polygons,), where), _hull(polygons)


def _drawn_by_labelme(polygons: list[Polygon], where: str) -> tuple[MaskSource, Box]:
    """Return the mask as LabelMe draws it, which cuts corners off to pixels and fills those on the outline too."""
    x0, y0, x1, y1 = _hull(polygons)
    corners = tuple(list(zip(polygon[::2], polygon[1::2], strict=True)) for polygon in polygons)
    return DrawnMask(corners, where), (int(x0), int(y0), int(x1) + 1, int(y1) + 1)


def _hull(polygons: list[Polygon]) -> Box:
    x = [number for polygon in polygons for number in polygon[::2]]
    y = [number for polygon in polygons for number in polygon[1::2]]
    return min(x), min(y), max(x), max(y)
