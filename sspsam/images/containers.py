"""PNG, JPEG and JPEG 2000 files in which Pillow refuses good pixels for their metadata, or accepts missing pixels."""

import struct
from typing import Final

from PIL import Image

from sspsam.errors import ImageError
from sspsam.images import png

_JPEG: Final = b"\xff\xd8"
_JP2: Final = b"\x00\x00\x00\x0cjP  "
_CODESTREAM: Final = b"\xff\x4f\xff\x51"
_PNG_CHUNKS: Final = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf", b"sBIT"})
_MAX_EXIF_BYTES: Final = 1 << 16
_COLOR_SEGMENTS: Final = {0xE0: 16, 0xEE: 14}  # JFIF and Adobe markers: length of a whole segment


def without_metadata(data: bytes) -> bytes | None:
    """Return a PNG or JPEG file without the parts that hold no pixels; None for other files.

    Text, colour profiles, XMP and the like do not prevent decoding: a file that Pillow refuses is decoded again without
    them. EXIF is kept in a PNG, for its orientation.
    """
    if data.startswith(png.SIGNATURE):
        return png.SIGNATURE + b"".join(
            data[start:stop]
            for kind, start, stop in png.chunks(data)
            if kind in _PNG_CHUNKS and (kind != b"eXIf" or stop - start <= _MAX_EXIF_BYTES)
        )
    if data.startswith(_JPEG):
        return _jpeg_without_metadata(data)
    return None


def require_complete(data: bytes, image: Image.Image, name: str) -> None:
    """Refuse a file whose missing pixels Pillow fills with zeros or with noise.

    Args:
        data: of the file.
        image: decoded from it, in the mode of the file.
        name: of the image, for errors.

    Raises:
        ImageError: pixels are missing.
    """
    if data.startswith(png.SIGNATURE):
        png.require_complete_png(data, name, image)
    elif data.startswith((_JP2, _CODESTREAM)):
        codestream = data if data.startswith(_CODESTREAM) else _codestream_of(data)
        if codestream is not None and not _has_all_tiles(codestream):
            raise ImageError(f"{name} is truncated: its JPEG 2000 data ends before the end marker")


def _jpeg_without_metadata(data: bytes) -> bytes:
    """Drop comments and application segments other than whole JFIF and Adobe segments."""
    parts, position = [data[:2]], 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xDA:  # the pixels
            break
        is_metadata = marker == 0xFE or 0xE0 <= marker <= 0xEF
        # JFIF and Adobe segments say how to decode the colours, unless they are too short to say it
        if length >= _COLOR_SEGMENTS.get(marker, 1 << 16):
            is_metadata = False
        if not is_metadata:
            parts.append(data[position : position + 2 + length])
        position += 2 + length
    return b"".join([*parts, data[position:]])


def _codestream_of(data: bytes) -> bytes | None:
    """Return the content of the codestream box of a JP2 file, cut off where the file ends."""
    position = 0
    while position + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        header = 8
        if length == 1:
            length, header = int.from_bytes(data[position + 8 : position + 16], "big"), 16
        stop = len(data) if length == 0 else position + length
        if kind == b"jp2c":
            return data[position + header : stop]
        if stop <= position:
            return None
        position = stop
    return None


def _has_all_tiles(codestream: bytes) -> bool:
    """Return whether every tile-part of a JPEG 2000 codestream is there, up to the end marker."""
    position = 2
    while codestream[position : position + 2] not in (b"", b"\xff\x90", b"\xff\xd9"):  # the segments of the main header
        position += 2 + int.from_bytes(codestream[position + 2 : position + 4], "big")
    while codestream[position : position + 2] == b"\xff\x90":  # tile-parts
        length = int.from_bytes(codestream[position + 6 : position + 10], "big")
        if length == 0:  # the last one, up to the end marker
            return codestream.rstrip(b"\x00").endswith(b"\xff\xd9") or b"\xff\xd9" in codestream[position + 12 :]
        position += length
    return codestream[position : position + 2] == b"\xff\xd9"
