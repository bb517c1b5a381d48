"""Size of an image from the header of its file."""

import os
from pathlib import Path
from typing import Final

from PIL import Image

from sspsam.errors import DatasetError, DatasetMissingError
from sspsam.evaluation.datasets.entry import Size
from sspsam.images.loading import pillow_pixel_limit
from sspsam.utils.paths import shown

_ORIENTATION: Final = 0x0112  # of EXIF
_SIDEWAYS: Final = (5, 6, 7, 8)  # orientations that exchange width and height


def image_size(path: Path, where: str) -> Size:
    """Return height and width of the upright image in pixels, without decoding it.

    Args:
        path: of the image.
        where: file and entry that refer to it, for errors.

    Raises:
        DatasetMissingError: there is no such file.
        DatasetError: it is no image.
    """
    if not os.path.isfile(path):
        raise DatasetMissingError(f"{where} refers to {shown(path)}, which does not exist")
    try:
        with pillow_pixel_limit(), Image.open(path) as image:
            width, height = image.size
            return (width, height) if image.getexif().get(_ORIENTATION) in _SIDEWAYS else (height, width)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{where}: {shown(path)} cannot be read as an image: {shown(error)}") from error
