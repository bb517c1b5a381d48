"""Files of LabelMe, in which masks are corrected by hand: one JSON file for each image, next to it.

The outlines run through the outermost pixels of a mask (see `pixel_outlines`), since LabelMe, like supervision, turns
corners into numbers of pixels and fills the pixels on the outline too.
"""

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from sspsam.segmentation.exports.answer_files import NamedAnswer
from sspsam.segmentation.exports.images import ImageAnswers, answers_by_image
from sspsam.segmentation.pixel_outlines import pixel_outlines
from sspsam.utils.arrays import Mask
from sspsam.utils.paths import shown, shown_repr

_LABELME_VERSION: Final = "5.4.0"  # whose form the files have
_CHANGED: Final = 0.01  # largest share of a part's pixels
_MOST_CORNERS: Final = 5000  # of a simplified outline; Pillow fills larger ones slowly


def to_labelme(images: ImageAnswers, *, labels: Mapping[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """Return the files of LabelMe: the content of each file by its path, for `json.dump`.

    LabelMe opens `photo.json` together with `photo.jpg` in the same folder. Each 8-connected part of a mask is a shape;
    the shapes of one answer have the number of the answer as their `group_id`, and the expression as their description.

    Args:
        images: path of each image, relative to the folder that LabelMe opens, and its results.
        labels: label of each expression; None, or no label: the expression.

    Raises:
        TypeError, ValueError: `images` or `labels` have another form, or two images would share a file.
    """
    files: dict[str, dict[str, Any]] = {}
    paths: set[str] = set()  # without case, which some file systems ignore
    for name, answers in answers_by_image(images, labels):
        if PurePosixPath(name).name in ("", ".."):
            raise ValueError(f"{shown_repr(name)} is no path of an image")
        path = PurePosixPath(name).with_suffix(".json").as_posix()
        if path.casefold() in paths:
            raise ValueError(f"two images would share the file {shown(path)}: rename one of them")
        paths.add(path.casefold())
        height, width = answers[0].result.mask.shape
        shapes = [shape for number, answer in enumerate(answers, 1) for shape in _shapes(number, answer)]
        files[path] = {
            "version": _LABELME_VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": PurePosixPath(name).name,
            "imageData": None,  # the image is read from `imagePath`
            "imageHeight": height,
            "imageWidth": width,
        }
    return files


def _shapes(number: int, answer: NamedAnswer) -> list[dict[str, Any]]:
    return [
        {
            "label": answer.category,
            "points": polygon.round(3).tolist(),
            "group_id": number,
            "description": answer.result.text,
            "shape_type": "polygon",
            "flags": {},
            "mask": None,
        }
        for polygon in _polygons(answer.result.mask)
    ]


def _polygons(mask: Mask) -> Iterator[NDArray[np.float64]]:
    """Yield (n, 2) corners of each part of a mask, simplified if Pillow, with which LabelMe fills them, agrees."""
    for simple, exact in zip(pixel_outlines(mask), pixel_outlines(mask, simplify=False), strict=True):
        yield simple if len(simple) <= _MOST_CORNERS and _look_alike(simple, exact) else exact


def _look_alike(simple: NDArray[np.float64], exact: NDArray[np.float64]) -> bool:
    corner = np.floor(exact.min(axis=0))
    width, height = (int(side) + 1 for side in exact.max(axis=0) - corner)
    expected = _filled(exact - corner, width, height)
    changed = np.count_nonzero(_filled(simple - corner, width, height) != expected)
    return bool(changed <= _CHANGED * np.count_nonzero(expected))


def _filled(polygon: NDArray[np.float64], width: int, height: int) -> Mask:
    image = Image.new("1", (width, height))
    ImageDraw.Draw(image).polygon(polygon.ravel().tolist(), fill=1, outline=1)
    return np.asarray(image)
