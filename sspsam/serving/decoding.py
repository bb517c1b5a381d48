"""Bytes of a client -> pixels, by a short list of decoders that run no other program."""

import io
import re
from typing import Final

from PIL import Image, UnidentifiedImageError

from sspsam.errors import ImageError, ImageTooLargeError
from sspsam.images.pixel_limits import pillow_pixels
from sspsam.utils.file_kinds import HEAD_BYTES, foreign_kind

# Pillow opens some more formats, one of them (EPS) by a program of PostScript, which a client must not be able to start
FORMATS: Final = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

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
        raise ImageError(_unidentified(data, f"the image of {len(data)} bytes", "the server")) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        count = pillow_pixels(error)  # found before width and height are known
        raise _too_large("very many pixels" if count is None else f"{count:,} pixels", count, max_pixels) from None
    except Exception as error:  # decoders raise many kinds of errors for damaged files
        raise ImageError(f"the image of {len(data)} bytes is damaged: {type(error).__name__}") from None
    if (count := width * height) > max_pixels:
        raise _too_large(f"{width} x {height} = {count:,} pixels", count, max_pixels)
    return width, height


def require_format(data: bytes, name: str | None, reader: str) -> None:
    """Check that an image file is of a format in `FORMATS`; whether it is damaged otherwise is not checked.

    Args:
        data: the file.
        name: of the image in errors; None: by its size.
        reader: noun for messages.

    Raises:
        ImageError: of no such format, or with a damaged header.
    """
    try:
        _opened(data).close()
    except UnidentifiedImageError:
        raise ImageError(_unidentified(data, name or f"the image of {len(data)} bytes", reader)) from None
    except Exception:  # decoders raise many kinds of errors for damaged files
        return


def _opened(data: bytes) -> Image.Image:
    Image.init()
    return Image.open(io.BytesIO(data), formats=[name for name in FORMATS if name in Image.OPEN])


def _too_large(size: str, count: int | None, max_pixels: int) -> ImageTooLargeError:
    message = f"the image has {size}, more than the server's limit of {max_pixels:,}. Reduce the image."
    return ImageTooLargeError(message, pixels=count)


def _unidentified(data: bytes, name: str, reader: str) -> str:
    head = data[:HEAD_BYTES]
    for format_name, signature in _SIGNATURES:
        if signature.match(head):
            reason = f"it begins like {format_name}, but its header cannot be read"
            return f"{name} is damaged: {reason}. Save or send it again."
    kind = foreign_kind(head) or f"begins with {head[:8]!r}"
    return f"{name} is in no format that {reader} reads ({', '.join(FORMATS)}); it {kind}"
