"""Mirrored images and crops as further examples, only where the expression stays true.

A view is another image, which the encoders must see: mirrored images double the embeddings and their time, each crop
adds as many again. The rules about expressions are in `view_words.py`.
"""

from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from sspsam.finetuning.view_words import stays_true_cropped, stays_true_mirrored
from sspsam.images.loading import ImageInput, Pixels, load_image
from sspsam.utils.arrays import FloatBox, HeightWidth, Mask

_Array = TypeVar("_Array", bound=NDArray[Any])
_SMALLEST: Final = 0.6  # side of a crop, divided by that of the image
_LARGEST: Final = 0.9


@dataclass(frozen=True)
class View:
    """A part of an image, mirrored or not.

    Args:
        name: of the view, unique for its image.
        mirrored: whether left and right change places.
        crop: x0, y0, x1, y1 in pixels; None: the whole image.
    """

    name: str
    mirrored: bool = False
    crop: tuple[int, int, int, int] | None = None

    def pixels(self, image: ImageInput) -> Pixels:
        """Load an image and return the (h, w, 3) pixels of the view."""
        return np.ascontiguousarray(self._part(load_image(image)))

    def mask(self, mask: Mask) -> Mask:
        """Return the part of an (h, w) mask."""
        return np.ascontiguousarray(self._part(mask))

    def box(self, box: FloatBox, size: HeightWidth) -> FloatBox:
        """Map x0, y0, x1, y1 in pixels of the image, of height and width `size`, to pixels of the view."""
        x0, y0, x1, y1 = box
        left, top, right, _ = self.crop or (0, 0, size[1], size[0])
        x0, y0, x1, y1 = x0 - left, y0 - top, x1 - left, y1 - top
        width = right - left
        return (width - x1, y0, width - x0, y1) if self.mirrored else (x0, y0, x1, y1)

    def _part(self, array: _Array) -> _Array:
        x0, y0, x1, y1 = self.crop or (0, 0, array.shape[1], array.shape[0])
        part: Any = array[y0:y1, x0:x1]
        return cast(_Array, part[:, ::-1] if self.mirrored else part)


def image_views(size: HeightWidth, *, mirrored: bool, crops: int, rng: np.random.Generator) -> list[View]:
    """Return the further views of an image.

    Args:
        size: height and width of the image.
        mirrored: whether to add the mirrored image.
        crops: number of crops.
        rng: chooses the crops.
    """
    views = [View("mirrored", mirrored=True)] if mirrored else []
    return views + [View(f"crop {number}", crop=_crop(size, rng)) for number in range(crops)]


def holds(view: View, text: str, mask: Mask) -> bool:
    """Return whether an expression with this (h, w) mask stays true in a view: nothing of the target is cut off."""
    if view.mirrored and not stays_true_mirrored(text):
        return False
    if view.crop is None:
        return True
    return stays_true_cropped(text) and int(view.mask(mask).sum()) == int(mask.sum())


def _crop(size: HeightWidth, rng: np.random.Generator) -> tuple[int, int, int, int]:
    height, width = (max(1, round(side * float(rng.uniform(_SMALLEST, _LARGEST)))) for side in size)
    top, left = int(rng.integers(size[0] - height + 1)), int(rng.integers(size[1] - width + 1))
    return left, top, left + width, top + height
