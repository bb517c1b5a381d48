"""Masks as Pillow images, their outlines in pixels, and PNG bytes."""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from sspsam.segmentation.colors import RGB


def png_bytes(image: Image.Image) -> bytes:
    """Return an image as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def mask_image(mask: NDArray[np.bool_]) -> Image.Image:
    """Return an (h, w) mask as an 8-bit grey image: 255 inside, 0 outside."""
    return Image.fromarray(mask.astype(np.uint8) * np.uint8(255))


def dilated(mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """Dilate a mask by a square of side 2 * radius + 1, in a number of passes that grows with the logarithm."""
    for axis in (0, 1):
        wider = mask.swapaxes(0, axis).copy()
        reached = 0
        while reached < radius:
            step = min(radius - reached, reached + 1)  # a longer step would leave gaps
            before = wider.copy()
            wider[step:] |= before[:-step]
            wider[:-step] |= before[step:]
            reached += step
        mask = wider.swapaxes(0, axis)
    return mask


def draw_rectangle(canvas: Image.Image, box: Sequence[float], color: RGB, line: int) -> None:
    """Draw the outline of a box with all four sides inside the image.

    Args:
        canvas: image to draw on.
        box: x0, y0, x1, y1 in pixels.
        color: of the outline.
        line: width of the outline, pixels.
    """
    x0, y0, x1, y1 = box
    last = (max(x0, x1 - 1), max(y0, y1 - 1))  # Pillow draws the last pixel too
    ImageDraw.Draw(canvas).rectangle((x0, y0, *last), outline=color, width=line)
