"""Images that the browser lays over each other: the image at the size of a screen, and a tint for each mask."""

import base64
import io
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sspsam.images.loading import Pixels
from sspsam.segmentation.colors import RGB, readable_on
from sspsam.segmentation.rasters import dilated, mask_image, png_bytes
from sspsam.utils.arrays import IntBox, Mask

LONGEST_SIDE: Final = 1400  # of an image on the page, pixels
_OPACITY: Final = 0.7
_MARKER_SIDE: Final = 96  # the place of a marker is searched in a mask of this size
_WEBP_QUALITY: Final = 88
_PIN_SHARE: Final = 0.03  # of width and height of the image: nearer numbers would hide each other
_PIN_PIXELS: Final = 26  # size of a number on the page
_PINS_IN_A_ROW: Final = 4

Size = tuple[int, int]  # width, height


def view_size(height: int, width: int) -> Size:
    """Return width and height of an image on the page."""
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def image_url(pixels: Pixels) -> str:
    """Return an image, at the size of the page, as a data URL."""
    image = Image.fromarray(pixels)
    size = view_size(image.height, image.width)
    if image.size != size:
        image = image.resize(size, Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=_WEBP_QUALITY, method=2)
    return _data_url("webp", buffer.getvalue())


def mask_url(mask: Mask, color: RGB) -> str:
    """Return a mask, at the size of the page, as a data URL of a PNG: tint, outline, and transparency around."""
    size = view_size(*mask.shape)
    soft = _resized(mask, size)
    line = max(2, round(max(size) / 320))
    alpha = soft.astype(np.float32) / 255 * _OPACITY
    inside = soft >= 128
    if mask.any() and not inside.any():
        inside = soft >= max(1, int(soft.max()))  # a mask that is thinner than a pixel of the page
    ring = dilated(inside, line) & ~inside
    border = dilated(inside, line + max(1, line // 2)) & ~inside & ~ring
    pixels = np.empty((*soft.shape, 4), dtype=np.uint8)
    pixels[..., :3] = color
    pixels[..., 3] = np.round(alpha * 255)
    pixels[ring, 3] = 255
    pixels[border] = (*readable_on(color), 190)
    return _data_url("png", png_bytes(Image.fromarray(pixels)))


def most_different(colors: Sequence[RGB], pixels: Pixels, mask: Mask, box: IntBox) -> RGB:
    """Return the colour that differs most from the mean colour of an image under a mask.

    Args:
        colors: to choose from.
        pixels: (h, w, 3), the image.
        mask: (h, w), not empty.
        box: tight box around the mask.
    """
    x0, y0, x1, y1 = box
    mean = pixels[y0:y1, x0:x1][mask[y0:y1, x0:x1]].mean(axis=0)
    return max(colors, key=lambda color: float(np.abs(mean - color).sum()))


def marker(mask: Mask) -> tuple[float, float] | None:
    """Return a place well inside a mask for its number.

    Returns:
        x and y as fractions of width and height; None for an empty mask.
    """
    height, width = mask.shape
    scale = min(1.0, _MARKER_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    soft = _resized(mask, size)
    inside = soft >= max(1, min(128, int(soft.max())))
    if not mask.any():
        return None
    while (smaller := _eroded(inside)).any():
        inside = smaller
    row, column = np.argwhere(inside)[0]
    return (float(column) + 0.5) / size[0], (float(row) + 0.5) / size[1]


class Pins:
    """Places of the numbers on one image: a number that would hide an earlier one is moved beside it."""

    def __init__(self) -> None:
        self._places: list[tuple[float, float]] = []

    def position(self, place: tuple[float, float]) -> str:
        """Return the CSS position of the next number.

        Args:
            place: x and y as fractions of width and height.
        """
        covered = sum(max(abs(x - place[0]), abs(y - place[1])) < _PIN_SHARE for x, y in self._places)
        self._places.append(place)
        row, column = divmod(covered, _PINS_IN_A_ROW)
        shifts = zip(("left", "top"), place, (column, row), strict=True)
        return ";".join(_position(side, share, steps) for side, share, steps in shifts)


def _position(side: str, share: float, steps: int) -> str:
    if steps == 0:
        return f"{side}:{share:.2%}"
    return f"{side}:calc({share:.2%} {'-' if share > 0.5 else '+'} {steps * _PIN_PIXELS}px)"


def _eroded(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    padded = np.pad(mask, 1)
    return padded[1:-1, 1:-1] & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


def _resized(mask: Mask, size: Size) -> NDArray[np.uint8]:
    """Return the share of each pixel that a mask covers, from 0 to 255."""
    image = mask_image(mask)
    return np.asarray(image if image.size == size else image.resize(size, Image.Resampling.BOX))


def figure_url(figure: Image.Image) -> str:
    """Return a drawing as a data URL."""
    return _data_url("png", png_bytes(figure))


def _data_url(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
