"""Bytes of a client -> pixels, by a short list of decoders that run no other program."""

import io
import re
from typing import Final

from PIL import Image, UnidentifiedImageError

from sspsam.errors import ImageError, ImageTooLargeError
from sspsam.images.loading import Pixels, load_image
from sspsam.utils.file_kinds import HEAD_BYTES, foreign_kind

# Pillow opens some more formats, one of them (EPS) by a program of PostScript, which a client must not be able to start
FORMATS: Final = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

_PILLOW_PIXELS: Final = re.compile(r"\((\d{1,18}) pixels\)")
# those of formats whose damaged headers Pillow does not tell from other files
_SIGNATURES: Final = (
    ("PNG", re.compile(rb"\x89PNG")),
    ("JPEG", re.compile(rb"\xff\xd8\xff")),
    ("GIF", re.compile(rb"GIF8[79]a")),
    ("TIFF", re.compile(rb"II[*+]\0|MM\0[*+]")),
    ("WEBP", re.compile(rb"RIFF....WEBP", re.DOTALL)),
    ("AVIF", re.compile(rb"....ftypavi[fs]", re.DOTALL)),
    ("JPEG2000", re.compile(rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n", re.DOTALL)),
)


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
    try:
        with _opened(data) as image:
            width, height = image.size
    except UnidentifiedImageError:
        raise ImageError(_unidentified(data, "the server")) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLargeError(_too_large(_pillow_size(error), max_pixels)) from None
    except Exception as error:  # decoders raise many kinds of errors for damaged files
        raise ImageError(f"the image of {len(data)} bytes is damaged: {type(error).__name__}") from None
    if width * height > max_pixels:
        raise ImageTooLargeError(_too_large(f"{width} x {height} = {width * height:,} pixels", max_pixels))
    return width, height


def require_format(data: bytes, reader: str) -> None:
    """Check that an image file is of a format in `FORMATS`; whether it is damaged otherwise is not checked.

    Args:
        data: the file.
        reader: noun for messages.

    Raises:
        ImageError: of no such format, or with a damaged header.
    """
    try:
        _opened(data).close()
    except UnidentifiedImageError:
        raise ImageError(_unidentified(data, reader)) from None
    except Exception:  # decoders raise many kinds of errors for damaged files
        return


def decode(data: bytes, max_pixels: int) -> Pixels:
    """Return the pixels of an image file that passed `image_size`; see `load_image`."""
    return load_image(data, max_pixels)


def _opened(data: bytes) -> Image.Image:
    Image.init()
    return Image.open(io.BytesIO(data), formats=[name for name in FORMATS if name in Image.OPEN])


def _too_large(size: str, max_pixels: int) -> str:
    return f"the image has {size}, more than the server's limit of {max_pixels:,}. Reduce the image."


def _pillow_size(error: Exception) -> str:
    """Return the number of pixels that Pillow's own limit names; Pillow gives it before width and height are known."""
    match = _PILLOW_PIXELS.search(str(error))
    return f"{int(match[1]):,} pixels" if match else "very many pixels"


def _unidentified(data: bytes, reader: str) -> str:
    head = data[:HEAD_BYTES]
    for name, signature in _SIGNATURES:
        if signature.match(head):
            return (
                f"the image of {len(data)} bytes is damaged: it begins like {name}, but its header cannot be read. "
                "Save or send it again."
            )
    kind = foreign_kind(head) or f"begins with {head[:8]!r}"
    return f"the image of {len(data)} bytes is in no format that {reader} reads ({', '.join(FORMATS)}); it {kind}"
