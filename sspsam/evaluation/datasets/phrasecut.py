"""PhraseCut, as its loader and evaluator read it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sspsam.errors import DatasetError
from sspsam.evaluation.datasets.checks import (
    Identifier,
    checked_box,
    checked_coordinate,
    checked_identifier,
    checked_list,
    checked_object,
    checked_text,
    member,
    read_json,
    size_of,
)
from sspsam.evaluation.datasets.entry import Entry, unique_key
from sspsam.evaluation.datasets.instances import hull
from sspsam.evaluation.datasets.masks import DrawnMask
from sspsam.evaluation.datasets.places import Request
from sspsam.utils.arrays import FloatBox, HeightWidth
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
    sizes = _image_sizes(image_path)
    folder = request.image_folder
    counts: dict[str, int] = {}
    for path in task_paths:
        for index, value in enumerate(checked_list(read_json(path), shown(path))):
            task = _task(value, f"{shown(path)}: task {index}")
            if task.image_id not in sizes:
                raise DatasetError(f"{task.where} refers to image {task.image_id!r}, which {shown(image_path)} lacks")
            yield Entry(
                image=folder / f"{task.image_id}.jpg",
                image_id=str(task.image_id),
                size=sizes[task.image_id],
                text=task.phrase,
                no_target=False,
                box=task.box,
                key=unique_key(task.task_id, counts),
                source=DrawnMask(task.polygons, task.where),
            )


@dataclass(frozen=True)
class _Task:
    """A phrase with its instances in an image.

    Args:
        task_id: of the task.
        image_id: of the image.
        phrase: expression.
        polygons: of all instances.
        box: hull of the boxes of the instances; None: there are none.
        where: file and task, for errors.
    """

    task_id: str
    image_id: Identifier
    phrase: str
    polygons: tuple[list[tuple[float, float]], ...]
    box: FloatBox | None
    where: str


def _task(value: Any, where: str) -> _Task:
    task = checked_object(value, where)
    task_id = member(task, "task_id", checked_text, where)
    where = f"{where} ({shown(task_id)})"
    return _Task(
        task_id,
        member(task, "image_id", checked_identifier, where),
        member(task, "phrase", checked_text, where),
        tuple(
            _corners(polygon, f"{where}: 'Polygons'")
            for parts in member(task, "Polygons", checked_list, where)
            for polygon in checked_list(parts, f"{where}: 'Polygons'")
        ),
        _box(member(task, "instance_boxes", checked_list, where), f"{where}: 'instance_boxes'"),
        where,
    )


def _image_sizes(path: Path) -> dict[Identifier, HeightWidth]:
    """Return height and width of each image by its id."""
    sizes, name = {}, shown(path)
    for index, value in enumerate(checked_list(read_json(path), name)):
        where = f"{name}: image {index}"
        image = checked_object(value, where)
        image_id = member(image, "image_id", checked_identifier, where)
        sizes[image_id] = size_of(image, where)
    return sizes


def _box(values: list[Any], where: str) -> FloatBox | None:
    """Return the hull of boxes x, y, width, height, whose last column and row are x + width - 1 and y + height - 1."""
    boxes = [checked_box(value, where) for value in values]
    return hull([(x, y, x + width - 1, y + height - 1) for x, y, width, height in boxes]) if boxes else None


def _corners(polygon: Any, where: str) -> list[tuple[float, float]]:
    corners = []
    for corner in checked_list(polygon, where):
        if len(checked_list(corner, where)) != 2:
            raise DatasetError(f"{where} must have corners of 2 numbers, not {len(corner)}")
        corners.append((checked_coordinate(corner[0], where), checked_coordinate(corner[1], where)))
    return corners
