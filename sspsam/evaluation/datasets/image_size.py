"""Size of an image from the header of its file."""

import os
from pathlib import Path
from typing import IO, Final

from PIL import Image

from sspsam.errors import DatasetError, DatasetMissingError
from sspsam.images.loading import pillow_pixel_limit
from sspsam.utils.arrays import HeightWidth
from sspsam.utils.paths import shown

_ORIENTATION: Final = 0x0112  # of EXIF
_SIDEWAYS: Final = (5, 6, 7, 8)  # orientations that exchange width and height


def image_size(path: Path, where: str) -> HeightWidth:
    """Return height and width of the upright image in pixels, without decoding it.

    Args:
        path: of the image.
        where: file and entry that refer to it, for errors.

    Raises:
        DatasetMissingError: there is no such file.
        DatasetError: it is no image, or a folder.
    """
    if os.path.isdir(path):
        raise DatasetError(f"{where} refers to {shown(path)}, which is a folder, not an image")
    if not os.path.isfile(path):
        raise DatasetMissingError(f"{where} refers to {shown(path)}, which does not exist")
    return image_file_size(path, where, shown(path))


def image_file_size(file: Path | IO[bytes], where: str, name: str) -> HeightWidth:
    """Return height and width of the upright image in pixels, without decoding it.

    Args:
        file: the image file, or its path.
        where: file and entry that refer to it, for errors.
        name: of the image, for errors.

    Raises:
        DatasetError: it is no image.
    """
    try:
        with pillow_pixel_limit(), Image.open(file) as image:
            width, height = image.size
            return (width, height) if image.getexif().get(_ORIENTATION) in _SIDEWAYS else (height, width)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{where}: {name} cannot be read as an image: {shown(error)}") from error
