"""`instances.json`, COCO's file of images and objects, as the RefCOCO family and gRefCOCO use it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sspsam.errors import DatasetError
from sspsam.evaluation.datasets.checks import (
    Identifier,
    checked_box,
    checked_identifier,
    checked_list,
    checked_object,
    checked_text,
    member,
    read_json,
    size_of,
)
from sspsam.evaluation.datasets.masks import check_segmentation
from sspsam.utils.arrays import FloatBox, HeightWidth
from sspsam.utils.paths import shown, shown_repr


@dataclass(frozen=True)
class ImageRecord:
    """An image of the file.

    Args:
        file_name: below the folder of images.
        size: height and width, pixels.
    """

    file_name: str
    size: HeightWidth


@dataclass(frozen=True)
class ObjectRecord:
    """An annotated object of the file.

    Args:
        box: x0, y0, x1, y1 in pixels: x and y of COCO's box, and those plus its width and height.
        segmentation: polygons or run-length encodings, checked.
        is_crowd: whether the annotation covers a crowd of objects.
    """

    box: FloatBox
    segmentation: Any
    is_crowd: bool


class Instances:
    """Images and objects by their ids; each is checked when it is looked up.

    Args:
        path: of `instances.json`.

    Raises:
        DatasetError: it is malformed.
    """

    def __init__(self, path: Path) -> None:
        self._name = shown(path)
        content = checked_object(read_json(path), self._name)
        self._images = self._by_id(content, "images")
        self._objects = self._by_id(content, "annotations")
        self._checked_objects: dict[tuple[Identifier, HeightWidth], ObjectRecord] = {}

    def image(self, image_id: Identifier, where: str) -> ImageRecord:
        """Return an image.

        Args:
            image_id: of the image.
            where: file and entry that refer to the image, for errors.

        Raises:
            DatasetError: there is none, or it is malformed.
        """
        if image_id not in self._images:
            raise DatasetError(f"{where} refers to image {image_id!r}, which {self._name} lacks")
        image, place = self._images[image_id], f"{self._name}: image {image_id!r}"
        return ImageRecord(_safe_name(member(image, "file_name", checked_text, place), place), size_of(image, place))

    def object(self, object_id: Identifier, image_id: Identifier, size: HeightWidth, where: str) -> ObjectRecord:
        """Return an annotated object.

        Args:
            object_id: of the annotation.
            image_id: of its image.
            size: height and width of its image.
            where: file and entry that refer to the object, for errors.

        Raises:
            DatasetError: there is none, it is malformed, or it belongs to another image.
        """
        if object_id not in self._objects:
            raise DatasetError(f"{where} refers to annotation {object_id!r}, which {self._name} lacks")
        other = self._objects[object_id].get("image_id", image_id)
        if other != image_id:
            raise DatasetError(
                f"{where} is about image {image_id!r}, but in {self._name} its annotation {object_id!r} is of image "
                f"{shown_repr(other)}"
            )
        if (object_id, size) not in self._checked_objects:
            self._checked_objects[object_id, size] = self._object(object_id, size)
        return self._checked_objects[object_id, size]

    def _object(self, object_id: Identifier, size: HeightWidth) -> ObjectRecord:
        annotation, place = self._objects[object_id], f"{self._name}: annotation {object_id!r}"
        x, y, width, height = member(annotation, "bbox", checked_box, place)
        segmentation = member(annotation, "segmentation", lambda value, _: value, place)
        check_segmentation(segmentation, size, f"{place}: 'segmentation'")
        return ObjectRecord((x, y, x + width, y + height), segmentation, bool(annotation.get("iscrowd")))

    def _by_id(self, content: dict[str, Any], name: str) -> dict[Identifier, dict[str, Any]]:
        found = {}
        for index, value in enumerate(member(content, name, checked_list, self._name)):
            where = f"{self._name}: {name}[{index}]"
            record = checked_object(value, where)
            found[member(record, "id", checked_identifier, where)] = record
        return found


def hull(boxes: Sequence[FloatBox]) -> FloatBox:
    """Return the smallest box around boxes."""
    x0, y0, x1, y1 = zip(*boxes, strict=True)
    return min(x0), min(y0), max(x1), max(y1)


def _safe_name(name: str, where: str) -> str:
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts or "\0" in name:
        raise DatasetError(f"{where}: 'file_name' must be a path below the folder of images, not {shown(name)}")
    return name
