"""Bytes of a client -> pixels, by a short list of decoders that run no other program."""

import io
from typing import Final

from PIL import Image, UnidentifiedImageError

from sspsam.errors import ImageError, ImageTooLargeError
from sspsam.images.loading import Pixels, load_image
from sspsam.utils.file_kinds import HEAD_BYTES, foreign_kind

# Pillow opens some more formats, one of them (EPS) by a program of PostScript, which a client must not be able to start
FORMATS: Final = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")


def image_size(data: bytes, max_pixels: int) -> tuple[int, int]:
    """Return width and height of an image file, from its header.

    Args:
        data: the file.
        max_pixels: largest width times height.

    Raises:
        ImageError: empty, of no format in `FORMATS`, or with a damaged header.
        ImageTooLargeError: more than `max_pixels`.
    """
    if not data:
        raise ImageError("the image is empty (0 bytes)")
    Image.init()
    try:
        with Image.open(io.BytesIO(data), formats=[name for name in FORMATS if name in Image.OPEN]) as image:
            width, height = image.size
    except UnidentifiedImageError:
        raise ImageError(_unidentified(data)) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageTooLargeError(f"the image has more pixels than the server's limit of {max_pixels:,}") from None
    except Exception as error:  # decoders raise many kinds of errors for damaged files
        raise ImageError(f"the image of {len(data)} bytes is damaged: {type(error).__name__}") from None
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"the image has {width} x {height} = {width * height:,} pixels, more than the server's limit of "
            f"{max_pixels:,}. Reduce the image."
        )
    return width, height


def decode(data: bytes, max_pixels: int) -> Pixels:
    """Return the pixels of an image file that passed `image_size`; see `load_image`."""
    return load_image(data, max_pixels)


def _unidentified(data: bytes) -> str:
    head = data[:HEAD_BYTES]
    kind = foreign_kind(head) or f"begins with {head[:8]!r}"
    return f"the image of {len(data)} bytes is in no format that the server reads ({', '.join(FORMATS)}); it {kind}"
