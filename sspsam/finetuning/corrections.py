"""Files that were corrected by hand, read back as lines: LabelMe's JSON files and Label Studio's JSON exports.

`sspsam finetune --worst` writes such files, which list every expression: LabelMe's among their flags, of which one that
is set says that its expression refers to nothing, Label Studio's in the data of a task, where an expression without
regions refers to nothing. `expressions.py` says which of them a shape belongs to.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
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
from sspsam.evaluation.datasets.entry import Entry, MaskSource
from sspsam.evaluation.datasets.image_size import image_size
from sspsam.evaluation.datasets.jsonl import Line
from sspsam.evaluation.datasets.masks import COCOMask, DrawnMask, check_segmentation, coco_tools
from sspsam.finetuning.corrected_images import WORST_FOLDER, found_image
from sspsam.finetuning.expressions import ListedTexts, Named, renamed, same_words
from sspsam.utils.arrays import FloatBox, HeightWidth
from sspsam.utils.paths import shown, shown_repr

# key of a Label Studio task's data, and of a LabelMe file, which LabelMe keeps: every expression about the image
TEXTS: Final = "texts"
FILE: Final = "file"  # key of a task's data: path of the image, relative to the next
FOLDER: Final = "folder"  # key of the same: absolute path of the folder of the worst lines
DIGEST: Final = "sha256"  # key of the same: of the image file
Folders = tuple[Path | None, Path]  # the image root, and the folder of the file
_ADVICE: Final = (
    f": put the export into the folder {WORST_FOLDER}/ that the tasks were written to, or name the folder of the "
    "images with image_root= (command line: --image-root)"
)
Polygon = list[float]  # x, y, x, y, ... in pixels
_Drawn = Callable[[list[Polygon], str], tuple[MaskSource, FloatBox]]  # mask and box, as the program means its polygons
_POLYGON: Final = "polygonlabels"  # type of a region of Label Studio
_OTHER_REGIONS: Final = ("brush", "bitmask", "ellipse", "keypoint", "polygon", "rectangle", "vector")


def is_corrected(path: Path) -> bool:
    """Return whether a path is a JSON file, or a folder of JSON files without JSON lines."""
    if os.path.isdir(path):
        return any(path.glob("**/*.json")) and not any(path.glob("*.jsonl"))
    return path.suffix.lower() == ".json"


@dataclass(frozen=True)
class Remark:
    """Something that the user should know about corrected files, although it is no problem.

    Args:
        sentence: what happened, for a count before it.
        where: file and place.
    """

    sentence: str
    where: str


def corrected_lines(path: Path, image_root: Path | None = None) -> Iterator[Line | Remark | DatasetError]:
    """Yield a line for each expression about each image, and an error in the place of each that is malformed.

    Args:
        path: a file of LabelMe, a folder of such files, or a JSON export of Label Studio.
        image_root: folder of the images; images that are not there, and all without it, are looked for in the folder of
            each file, and those of Label Studio in the folder `worst` as well.

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
                    yield from _label_studio_lines(task, (image_root, file.parent), where)
                else:
                    yield from _labelme_lines(task, (image_root, file.parent), where)
            except DatasetError as error:
                yield error


def _labelme_lines(content: dict[str, Any], folders: Folders, where: str) -> Iterator[Line | Remark]:
    image = found_image(member(content, "imagePath", checked_text, where), folders, where)
    _check_stated_size((content.get("imageHeight"), content.get("imageWidth")), image_size(image, where), image, where)
    texts = _texts(content, where)
    polygons: dict[str, list[Polygon]] = {}
    shapes = []
    for index, shape in enumerate(member(content, "shapes", checked_list, where)):
        place = f"{where}, shape {index + 1}"
        checked_object(shape, place)
        if shape.get("shape_type", "polygon") != "polygon":
            raise DatasetError(f"{place} is a {shown(shape['shape_type'])}; only polygons are read")
        description = checked_text(shape.get("description") or "", f"{place}: 'description'")
        label = checked_text(shape.get("label") or "", f"{place}: 'label'")
        if not (label or description):
            raise DatasetError(f"{place} has no label")
        shapes.append(Named(label, description, texts.of_group(shape.get("group_id")), place))
        points = member(shape, "points", checked_list, place)
        polygons.setdefault(shapes[-1].expression(texts), []).append(_flat(points, 1.0, 1.0, place))
    for flag in _set_flags(content, where):
        text = texts.listed(flag) if texts else flag
        place = f"{where}, {shown_repr(flag)}"
        if text is None:
            yield Remark("flags that are set and are none of the expressions of their file are left out", place)
            continue
        if polygons.get(text):
            raise DatasetError(f"{where}: the flag {shown(flag)!r} says no target, but there are shapes of it")
        if not texts:
            yield Remark(
                "flags that are set are expressions that refer to nothing, in files that sspsam did not write", place
            )
        polygons.setdefault(text, [])
    for text in texts.texts:
        if text not in polygons:
            raise DatasetError(
                f"{where}: {shown_repr(text)} has no shape, and its flag is not set: draw its shapes, or set the flag "
                f"if it refers to nothing{renamed(shapes, text, texts)}"
            )
    yield from _remarks(shapes, texts)
    yield from _lines(image, polygons, where, _drawn_by_labelme)


def _set_flags(content: dict[str, Any], where: str) -> list[str]:
    """Return the flags of an image of LabelMe that are set."""
    place = f"{where}: 'flags'"
    flags = checked_object(content.get("flags") or {}, place)
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise DatasetError(f"{place}: {shown_repr(name)} must be true or false, not {shown_repr(value)}")
    return [name for name, is_set in flags.items() if is_set]


def _label_studio_lines(task: dict[str, Any], folders: Folders, where: str) -> Iterator[Line | Remark]:
    data = member(task, "data", checked_object, where)
    annotations = [
        annotation
        for annotation in checked_list(task.get("annotations") or [], f"{where}: 'annotations'")
        if not checked_object(annotation, f"{where}: an annotation").get("was_cancelled")
    ]
    if not annotations:
        yield Remark("tasks of Label Studio without an annotation that was submitted are left out", where)
        return
    if len(annotations) > 1:
        yield Remark("tasks of Label Studio with several submitted annotations are read by the last", where)
    image = _image_of_task(data, folders, where)
    height, width = image_size(image, where)
    texts = _texts(data, where)
    polygons: dict[str, list[Polygon]] = {text: [] for text in texts.texts}
    regions = []
    for index, region in enumerate(member(annotations[-1], "result", checked_list, where)):
        place = f"{where}, region {index + 1}"
        if not _is_polygon(region, place):
            continue
        if region.get("image_rotation"):
            raise DatasetError(
                f"{place} was drawn on the image rotated by {shown_repr(region['image_rotation'])} degrees; only "
                "regions of the upright image are read: rotate it back in Label Studio and draw the region again"
            )
        stated = region.get("original_height"), region.get("original_width")
        _check_stated_size(stated, (height, width), image, place, in_percent=True)
        value = member(region, "value", checked_object, place)
        points = member(value, "points", checked_list, place)
        regions.append(_named_region(region, value, texts, place))
        polygons.setdefault(regions[-1].expression(texts), []).append(_flat(points, width / 100, height / 100, place))
    for text in texts.texts:
        advice = "" if polygons[text] else renamed(regions, text, texts)
        if advice:
            raise DatasetError(
                f"{where}: {shown_repr(text)} has no region, which says that it refers to nothing{advice}"
            )
    yield from _remarks(regions, texts)
    yield from _lines(image, polygons, where, _drawn_by_label_studio)


def _check_stated_size(
    stated: tuple[Any, Any], actual: HeightWidth, image: Path, where: str, *, in_percent: bool = False
) -> None:
    """Refuse shapes that were drawn on an image of another size, where the file states the size.

    Args:
        stated: height and width in the file; None: not stated.
        actual: those of the upright image.
        image: path of the image.
        where: file and place, for errors.
        in_percent: whether the corners are in percent of the sides, so that the image may be scaled.

    Raises:
        DatasetError: the upright image has another size, or other proportions.
    """
    if None in stated:
        return
    height, width = (checked_number(side, f"{where}: the size of the image") for side in stated)
    actual_height, actual_width = actual
    if in_percent:
        fits = abs(height * actual_width - width * actual_height) <= max(height, width, actual_height, actual_width)
    else:
        fits = (height, width) == (actual_height, actual_width)
    if not fits:
        raise DatasetError(
            f"{where} was drawn on an image of {width:g} x {height:g} pixels (width x height), but {shown(image)} has "
            f"{actual_width} x {actual_height}: give the image that was drawn on"
        )


def _texts(content: dict[str, Any], where: str) -> ListedTexts:
    """Return the expressions that a file of LabelMe or a task of Label Studio lists."""
    place = f"{where}: {TEXTS!r}"
    return ListedTexts.of(checked_text(text, place) for text in checked_list(content.get(TEXTS) or [], place))


def _remarks(shapes: Iterable[Named], texts: ListedTexts) -> Iterator[Remark]:
    """Yield a remark about each description that is read as an expression, and may be a note instead."""
    for shape in shapes:
        if not texts and shape.description and same_words(shape.description) != same_words(shape.label):
            text, label = shown_repr(shape.description), shown_repr(shape.label)
            yield Remark(
                "expressions are the description (LabelMe) or the meta text (Label Studio) of a shape with another "
                "label, in files that sspsam did not write",
                f"{shape.place}, {text} with the label {label}",
            )


def _image_of_task(data: dict[str, Any], folders: Folders, where: str) -> Path:
    """Return the path of the image of a task: that of the file that sspsam wrote, or that of the URL."""
    name, written, digest = (data.get(key) for key in (FILE, FOLDER, DIGEST))
    if not isinstance(name, str):
        return found_image(_path_of_url(_url(data, where), where), folders, where, advice=_ADVICE)
    image_root, beside = folders
    usual = (image_root, Path(written) if isinstance(written, str) else None, beside, beside / WORST_FOLDER)
    stated = digest if isinstance(digest, str) else None
    return found_image(name, usual, where, digest=stated, advice=_ADVICE)


def _is_polygon(region: Any, place: str) -> bool:
    """Return whether an item of a result is a polygon; refuse regions of other kinds, which would be lost."""
    kind = checked_text(checked_object(region, place).get("type", ""), f"{place}: 'type'")
    if kind != _POLYGON and (kind.endswith("labels") or kind in _OTHER_REGIONS):
        raise DatasetError(f"{place} is of the type {shown(kind)}; only polygons with labels are read ({_POLYGON})")
    return kind == _POLYGON


def _named_region(region: dict[str, Any], value: dict[str, Any], texts: ListedTexts, place: str) -> Named:
    """Return a region with its label and its meta text."""
    meta = region.get("meta") or {}
    notes = meta.get("text") if isinstance(meta, dict) else None
    note = notes[0] if isinstance(notes, list) and notes else notes or ""
    labels = checked_list(value.get("polygonlabels") or [], f"{place}: 'polygonlabels'")
    if len(labels) > 1 and (texts or not note):
        names = ", ".join(shown_repr(label) for label in labels)
        raise DatasetError(f"{place} has {len(labels)} labels ({names}): draw one region for each expression")
    if not (labels or note):
        raise DatasetError(f"{place} has no label")
    label = checked_text(labels[0] if labels else "", f"{place}: 'polygonlabels'")
    text = checked_text(note, f"{place}: 'meta'")
    return Named(label, text, texts.listed(text), place)  # Label Studio shows the label, and changes it alone


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


def _drawn_by_label_studio(polygons: list[Polygon], where: str) -> tuple[MaskSource, FloatBox]:
    """Return the mask of all pixels whose centres are inside, and its box."""
    return COCOMask((polygons,), where), _hull(polygons)


def _drawn_by_labelme(polygons: list[Polygon], where: str) -> tuple[MaskSource, FloatBox]:
    """Return the mask as LabelMe draws it, which cuts corners off to pixels and fills those on the outline too."""
    x0, y0, x1, y1 = _hull(polygons)
    corners = tuple(list(zip(polygon[::2], polygon[1::2], strict=True)) for polygon in polygons)
    return DrawnMask(corners, where), (int(x0), int(y0), int(x1) + 1, int(y1) + 1)


def _hull(polygons: list[Polygon]) -> FloatBox:
    x = [number for polygon in polygons for number in polygon[::2]]
    y = [number for polygon in polygons for number in polygon[1::2]]
    return min(x), min(y), max(x), max(y)
