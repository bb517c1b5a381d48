"""The part of an image inside a mask, alone or on another background."""

import math
import os

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from sspsam.errors import ImageError
from sspsam.images.loading import ImageInput, Pixels, load_image
from sspsam.segmentation.colors import RGB, Color, named_rgb, rgb
from sspsam.utils.arguments import real_number
from sspsam.utils.arrays import IntBox, Mask
from sspsam.utils.paths import shown_repr

Background = Color | ImageInput


def cutout(
    pixels: Pixels, mask: Mask, box: IntBox | None, feather: float, background: Background | None
) -> Image.Image:
    """Return the image inside a mask.

    Args:
        pixels: (h, w, 3) uint8, the image.
        mask: (h, w) bool.
        box: tight box around the mask; None for an empty mask.
        feather: standard deviation of a Gaussian that softens the edge, in pixels.
        background: a colour, or an image, which is scaled and cropped to the size of the mask; None: transparency.

    Returns:
        RGBA, with black under full transparency; RGB on a background.

    Raises:
        ValueError: `feather` or `background` is out of range.
        ImageError: the background cannot be loaded.
    """
    alpha = _alpha(mask, box, real_number("feather", feather, 0))
    if background is None:
        result = Image.new("RGBA", alpha.size)
        # nothing of the image is left where it is invisible
        result.paste(Image.fromarray(pixels), mask=alpha.point(lambda value: 255 if value else 0))
        result.putalpha(alpha)
        return result
    canvas = _canvas(background, alpha.size)
    canvas.paste(Image.fromarray(pixels), mask=alpha)
    return canvas


def _alpha(mask: Mask, box: IntBox | None, feather: float) -> Image.Image:
    """Return the opacity of each pixel as an 8-bit grey image."""
    alpha = Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
    if feather == 0 or box is None:
        return alpha
    reach = math.ceil(3 * min(feather, max(alpha.size))) + 1
    area = (
        max(0, box[0] - reach),
        max(0, box[1] - reach),
        min(alpha.width, box[2] + reach),
        min(alpha.height, box[3] + reach),
    )
    alpha.paste(alpha.crop(area).filter(ImageFilter.GaussianBlur(feather)), area)
    return alpha


def _canvas(background: Background, size: tuple[int, int]) -> Image.Image:
    """Return a colour or an image as an RGB image of a size."""
    color = _color_of(background)
    if color is not None:
        return Image.new("RGB", size, color)
    image = Image.fromarray(load_image(background))  # type: ignore[arg-type]  # what is no image is refused
    return ImageOps.fit(image, size, Image.Resampling.LANCZOS)


def _color_of(background: Background) -> RGB | None:
    """Return the colour that a background is; None for an image.

    Raises:
        ValueError: neither.
    """
    if isinstance(background, str):
        color = named_rgb(background)
        if color is None and not os.path.exists(os.path.expanduser(background)):
            raise ImageError(
                f'background must be a colour such as "white" or "#e69f00", or an image: {shown_repr(background)} is '
                "no colour, and no file has this name"
            )
        return color
    is_color = isinstance(background, tuple | list) or (isinstance(background, np.ndarray) and background.ndim == 1)
    return rgb(background, "background") if is_color else None  # type: ignore[arg-type]  # checked one line above


def crop(pixels: Pixels, box: IntBox, margin: float) -> Image.Image:
    """Return the image inside a box.

    Args:
        pixels: (h, w, 3) uint8, the image.
        box: x0, y0, x1, y1 in whole pixels.
        margin: added on every side, as a share of the box's width or height; cut off at the border of the image.

    Raises:
        ValueError: `margin` is negative or not a number.
    """
    margin = min(real_number("margin", margin, 0), max(pixels.shape))
    x0, y0, x1, y1 = box
    across, down = round(margin * (x1 - x0)), round(margin * (y1 - y0))
    return Image.fromarray(pixels[max(0, y0 - down) : y1 + down, max(0, x0 - across) : x1 + across].copy())
