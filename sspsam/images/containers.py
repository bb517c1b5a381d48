"""Files in which Pillow refuses good pixels for their metadata, or accepts missing pixels: PNG, JPEG, icons, others."""

import struct
from collections.abc import Iterator
from typing import Final

from PIL import Image

from sspsam.errors import ImageError
from sspsam.images import jpeg, png

_JP2: Final = b"\x00\x00\x00\x0cjP  "
_CODESTREAM: Final = b"\xff\x4f\xff\x51"
_ICO: Final = (b"\0\0\1\0", b"\0\0\2\0")  # icon and cursor
_MAX_ICONS: Final = 256  # entries that are looked at; they may overlap, and icons have about ten
_ICNS: Final = b"icns"
_PNG_CHUNKS: Final = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf", b"sBIT"})
_MAX_EXIF_BYTES: Final = 1 << 16


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
    if data.startswith(jpeg.SIGNATURE):
        return jpeg.without_jpeg_metadata(data)
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
    elif data.startswith(jpeg.SIGNATURE):
        jpeg.require_complete_jpeg(data, name, image)
    elif data.startswith((_JP2, _CODESTREAM)):
        _require_complete_jpeg_2000(data, name)
    elif data.startswith((*_ICO, _ICNS)):
        for file in _files_in_icns(data) if data.startswith(_ICNS) else _files_in_ico(data):
            _require_complete_icon(file, image.size, name)


def _require_complete_jpeg_2000(data: bytes, name: str) -> None:
    codestream = data if data.startswith(_CODESTREAM) else _codestream_of(data)
    if codestream is not None and not _has_all_tiles(codestream):
        raise ImageError(f"{name} is truncated: its JPEG 2000 data ends before the end marker")


def _files_in_ico(data: bytes) -> Iterator[bytes]:
    """Yield the PNG files in a Windows icon or cursor."""
    count = min(int.from_bytes(data[4:6], "little"), _MAX_ICONS)
    for position in range(6, min(6 + 16 * count, len(data) - 15), 16):
        length, offset = struct.unpack("<LL", data[position + 8 : position + 16])
        if data.startswith(png.SIGNATURE, offset):
            yield data[offset : offset + length]


def _files_in_icns(data: bytes) -> Iterator[bytes]:
    """Yield the files and bitmaps in a macOS icon."""
    position = 8
    while position + 8 <= len(data):
        length = max(8, int.from_bytes(data[position + 4 : position + 8], "big"))
        yield data[position + 8 : position + length]
        position += length


def _require_complete_icon(file: bytes, size: tuple[int, int], name: str) -> None:
    """Check a file inside an icon, if it has the size that was decoded: Pillow decodes the largest."""
    if file.startswith(png.SIGNATURE) and struct.unpack(">II", file[16:24].ljust(8, b"\0")) == size:
        png.require_complete_png(file, name)
    codestream = _codestream_of(file) if file.startswith(_JP2) else file if file.startswith(_CODESTREAM) else None
    if codestream is not None:
        x1, y1, x0, y0 = struct.unpack(">LLLL", codestream[8:24].ljust(16, b"\0"))
        if (x1 - x0, y1 - y0) == size:
            _require_complete_jpeg_2000(codestream, name)


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
