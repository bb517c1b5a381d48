"""PhraseCut, as its loader and evaluator read it."""

from collections.abc import Iterator
from typing import Any, Final

from sspsam.errors import DatasetError
from sspsam.evaluation.datasets.checks import (
    Identifier,
    checked_box,
    checked_identifier,
    checked_list,
    checked_number,
    checked_object,
    checked_side,
    checked_text,
    member,
    read_json,
)
from sspsam.evaluation.datasets.entry import Box, Entry, Size, unique_key
from sspsam.evaluation.datasets.instances import hull
from sspsam.evaluation.datasets.masks import DrawnMask
from sspsam.evaluation.datasets.places import Request
from sspsam.utils.paths import shown

SPLITS: Final = ("train", "val", "test", "miniv")
_IMAGE_FILES: Final = ("image_data_split3000.json", "image_data_split.json")


def entries(request: Request) -> Iterator[Entry]:
    """Yield one entry for each task of a split in the order of the file; keys are task ids.

    Args:
        request: its split is a name, or several joined by `_` such as `val_miniv`, read one after the other.

    Raises:
        DatasetError: there is no such split, or the annotations are malformed.
        DatasetMissingError: a file is missing.
    """
    splits = request.split.split("_")
    if not set(splits) <= set(SPLITS):
        raise DatasetError(
            f"phrasecut has no split {request.split!r}: use one of {', '.join(SPLITS)}, or several joined by _"
        )
    image_path, *task_paths = request.files(_IMAGE_FILES, *(f"refer_{split}.json" for split in splits))
    sizes = _image_sizes(checked_list(read_json(image_path), shown(image_path)), shown(image_path))
    folder = request.image_folder
    counts: dict[str, int] = {}
    for path in task_paths:
        for index, value in enumerate(checked_list(read_json(path), shown(path))):
            where = f"{shown(path)}: task {index}"
            task = checked_object(value, where)
            task_id = member(task, "task_id", checked_text, where)
            where = f"{where} ({shown(task_id)})"
            image_id = member(task, "image_id", checked_identifier, where)
            if image_id not in sizes:
                raise DatasetError(f"{where} refers to image {image_id!r}, which {shown(image_path)} lacks")
            polygons = [
                _corners(polygon, f"{where}: 'Polygons'")
                for parts in member(task, "Polygons", checked_list, where)
                for polygon in checked_list(parts, f"{where}: 'Polygons'")
            ]
            yield Entry(
                image=folder / f"{image_id}.jpg",
                image_id=str(image_id),
                size=sizes[image_id],
                text=member(task, "phrase", checked_text, where),
                no_target=False,
                box=_box(member(task, "instance_boxes", checked_list, where), f"{where}: 'instance_boxes'"),
                key=unique_key(task_id, counts),
                source=DrawnMask(tuple(polygons), where),
            )


def _image_sizes(images: list[Any], name: str) -> dict[Identifier, Size]:
    """Return height and width of each image by its id."""
    sizes = {}
    for index, value in enumerate(images):
        where = f"{name}: image {index}"
        image = checked_object(value, where)
        image_id = member(image, "image_id", checked_identifier, where)
        sizes[image_id] = member(image, "height", checked_side, where), member(image, "width", checked_side, where)
    return sizes


def _box(values: list[Any], where: str) -> Box | None:
    """Return the hull of boxes x, y, width, height, whose last column and row are x + width - 1 and y + height - 1."""
    boxes = [checked_box(value, where) for value in values]
    return hull([(x, y, x + width - 1, y + height - 1) for x, y, width, height in boxes]) if boxes else None


def _corners(polygon: Any, where: str) -> list[tuple[float, float]]:
    corners = []
    for corner in checked_list(polygon, where):
        if len(checked_list(corner, where)) != 2:
            raise DatasetError(f"{where} must have corners of 2 numbers, not {len(corner)}")
        corners.append((checked_number(corner[0], where), checked_number(corner[1], where)))
    return corners
