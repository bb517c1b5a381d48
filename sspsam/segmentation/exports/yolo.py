"""YOLO data sets for segmentation: a text file of outlines for each image, and `data.yaml` with the categories.

A row is an instance: the number of its category, then x and y of each corner of its outline, divided by width and
height of the image. The outline runs through the outermost pixels of the mask (see `pixel_outlines`), since the readers
of these files, such as Ultralytics and supervision, turn the corners into numbers of pixels and fill the pixels on the
outline too. An image without a target has an empty file, which makes it a background image.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sspsam.segmentation.exports.images import ImageAnswers, Instances, answers_by_image
from sspsam.segmentation.pixel_outlines import pixel_outlines
from sspsam.segmentation.result import Segmentation
from sspsam.utils.markup import yaml_string
from sspsam.utils.paths import shown, shown_repr

LABELS_FOLDER: Final = "labels"
DATA_FILE: Final = "data.yaml"
DATA_BEGINNING: Final = "# written by sspsam: put the images, or a link to their folder, beside this file as images\n"
_DECIMALS: Final = 8  # a corner must stay in its part of a pixel in an image 10,000 pixels wide
_JOINED_AT_ONCE: Final = 32  # rings
_BRIDGE_CANDIDATES: Final = 128  # corners of a ring that are compared for the shortest bridge to another ring


def to_yolo(
    images: ImageAnswers, *, labels: Mapping[str, str] | None = None, instances: bool = True, min_area: float = 1
) -> dict[str, str]:
    """Return the files of a YOLO data set, all but the images: the content of each file by its relative path.

    Args:
        images: name of each image relative to the folder `images` of the data set, and its results.
        labels: category of each expression; None, or no label: the expression.
        instances: whether each 8-connected part of a mask is a row of its own, so that the rows of a category give the
            mask again; otherwise a row has all parts of a mask, joined by bridges of no width, which readers fill as
            lines of one pixel.
        min_area: smallest area in pixels of such a part; smaller ones are left out.

    Raises:
        TypeError, ValueError: `images` or `labels` have another form, or two images would share a file.
    """
    division = Instances(instances, min_area)
    files: dict[str, str] = {}
    names: dict[str, str] = {}  # of the image that a file belongs to
    categories: dict[str, int] = {}
    for name, answers in answers_by_image(images, labels):
        path = label_path(name)
        if path.casefold() in names:
            raise ValueError(shared_file_message(names[path.casefold()], name, path))
        names[path.casefold()] = name
        rows = [
            yolo_rows(answer.result, categories.setdefault(answer.category, len(categories)), division)
            for answer in answers
        ]
        files[f"{LABELS_FOLDER}/{path}"] = "".join(rows)
    return {DATA_FILE: data_file(categories), **files}


def label_path(image: str) -> str:
    """Return the path of an image's text file in the folder of labels.

    Raises:
        ValueError: the name of the image is empty, absolute or leads out of the folder.
    """
    path = PurePosixPath(image)
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise ValueError(f"{shown_repr(image)} is no name of an image relative to the folder of the images")
    return path.with_suffix(".txt").as_posix()


def shared_file_message(first: str, second: str, path: str) -> str:
    """Return the message for two images whose names differ only in case or suffix."""
    return (
        f"{shown(first)} and {shown(second)} would share the YOLO file {LABELS_FOLDER}/{shown(path)}, because YOLO "
        "finds the file of an image without the image's suffix: rename one of the two images"
    )


def data_file(categories: Iterable[str]) -> str:
    """Return the content of `data.yaml`.

    Args:
        categories: names in the order of their numbers, from 0.
    """
    names = [f"  {number}: {yaml_string(name)}\n" for number, name in enumerate(categories)]
    head = f"train: images\nval: images\nnc: {len(names)}\n"
    return f"{DATA_BEGINNING}{head}names:{'' if names else ' {}'}\n{''.join(names)}"


def yolo_rows(result: Segmentation, category: int, instances: Instances) -> str:
    """Return the rows of an answer, each with its line end; empty for an empty mask.

    Args:
        result: the answer.
        category: number of the category, from 0.
        instances: division of the mask into rows.
    """
    height, width = result.mask.shape
    outlines = (pixel_outlines(part.mask) for part in instances.of(result))
    return "".join(_row(joined_ring(polygons), category, width, height) for polygons in outlines if polygons)


def _row(ring: NDArray[np.float64], category: int, width: int, height: int) -> str:
    relative = (ring / (width, height)).ravel()
    return f"{category} {' '.join(f'{value:.{_DECIMALS}f}' for value in relative)}\n"


def joined_ring(polygons: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Join polygons to one ring by bridges of no width, each from the new polygon to the nearest corner of the ring.

    Args:
        polygons: (n, 2) corners of each of at least one polygon.

    Returns:
        (N, 2) corners of a ring that encloses the same area.
    """
    rings = _by_place(polygons) if len(polygons) > _JOINED_AT_ONCE else list(polygons)
    while len(rings) > 1:  # in groups, since every bridge copies the ring so far
        rings = [_joined(rings[first : first + _JOINED_AT_ONCE]) for first in range(0, len(rings), _JOINED_AT_ONCE)]
    return rings[0]


def _by_place(rings: Sequence[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """Return rings in an order in which neighbours in the image are mostly in the same group."""
    corners = np.array([ring[0] for ring in rings])
    bands = max(1, round((len(rings) / _JOINED_AT_ONCE) ** 0.5))
    band = corners[:, 1] * bands // (corners[:, 1].max() + 1)
    return [rings[index] for index in np.lexsort((corners[:, 0], band))]


def _joined(rings: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    joined = rings[0]
    for ring in rings[1:]:
        near, own = _candidates(joined), _candidates(ring)
        distances = np.square(joined[near][:, None] - ring[own][None]).sum(axis=-1)
        first, second = np.unravel_index(np.argmin(distances), distances.shape)
        place, start = near[first], own[second]
        around = np.roll(ring, -start, axis=0)
        joined = np.concatenate([joined[: place + 1], around, around[:1], joined[place:]])
    return joined


def _candidates(ring: NDArray[np.float64]) -> NDArray[np.int64]:
    count = min(len(ring), _BRIDGE_CANDIDATES)
    return np.linspace(0, len(ring) - 1, count).astype(np.int64)
