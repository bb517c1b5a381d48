"""PNG, JPEG and JPEG 2000 files in which Pillow refuses good pixels for their metadata, or accepts missing pixels."""

import struct
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from PIL import Image

from sspsam.errors import ImageError

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_JPEG: Final = b"\xff\xd8"
_JP2: Final = b"\x00\x00\x00\x0cjP  "
_CODESTREAM: Final = b"\xff\x4f\xff\x51"
_PNG_CHUNKS: Final = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf", b"sBIT"})
_MAX_EXIF_BYTES: Final = 1 << 16
_PNG_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_ADAM7: Final = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_COLOR_SEGMENTS: Final = {0xE0: 16, 0xEE: 14}  # JFIF and Adobe markers: length of a whole segment
_BLOCK: Final = 1 << 20


def without_metadata(data: bytes) -> bytes | None:
    """Return a PNG or JPEG file without the parts that hold no pixels; None for other files.

    Text, colour profiles, XMP and the like do not prevent decoding: a file that Pillow refuses is decoded again without
    them. EXIF is kept in a PNG, for its orientation.
    """
    if data.startswith(_PNG):
        return _PNG + b"".join(
            data[start:stop]
            for kind, start, stop in _png_chunks(data)
            if kind in _PNG_CHUNKS and (kind != b"eXIf" or stop - start <= _MAX_EXIF_BYTES)
        )
    if data.startswith(_JPEG):
        return _jpeg_without_metadata(data)
    return None


class PNGLevels(NamedTuple):
    """Meaning of the grey levels in a PNG file, as far as Pillow does not apply it."""

    depth: int  # bits of a level
    significant_bits: int | None  # of the first channel (sBIT chunk)


def png_levels(data: bytes) -> PNGLevels | None:
    """Return the meaning of the grey levels in a PNG file; None for other files."""
    if not data.startswith(_PNG):
        return None
    depth, significant_bits = 8, None
    for kind, start, stop in _png_chunks(data):
        if kind == b"IHDR" and stop - start >= 25:
            depth = data[start + 16]
        elif kind == b"sBIT" and stop - start > 12:
            significant_bits = data[start + 8] or None
        elif kind == b"IDAT":
            break
    return PNGLevels(depth, significant_bits)


def require_complete(data: bytes, image: Image.Image, name: str) -> None:
    """Refuse a file whose missing pixels Pillow fills with zeros or with noise.

    Args:
        data: of the file.
        image: decoded from it, in the mode of the file.
        name: of the image, for errors.

    Raises:
        ImageError: pixels are missing.
    """
    if data.startswith(_PNG):
        _require_complete_png(data, image, name)
    elif data.startswith((_JP2, _CODESTREAM)):
        codestream = data if data.startswith(_CODESTREAM) else _codestream_of(data)
        if codestream is not None and not _has_all_tiles(codestream):
            raise ImageError(f"{name} is truncated: its JPEG 2000 data ends before the end marker")


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and stop of each chunk of a PNG file, up to IEND or the end of the data."""
    position = len(_PNG)
    while position + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        stop = min(position + 12 + length, len(data))
        yield kind, position, stop
        if kind == b"IEND":
            return
        position = stop


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


def _require_complete_png(data: bytes, image: Image.Image, name: str) -> None:
    """Count the decompressed bytes, unless neither of the last two rows is all zeros, as truncated rows are."""
    chunks = list(_png_chunks(data))
    if not chunks or chunks[0][0] != b"IHDR":
        return
    header = data[chunks[0][1] + 8 : chunks[0][2] - 4]
    is_interlaced = bool(header[12])
    last_rows = range(max(0, image.height - 2), image.height)
    if not is_interlaced and all(any(image.crop((0, row, image.width, row + 1)).tobytes()) for row in last_rows):
        return
    expected = _png_bytes(header)
    decompressor, found = zlib.decompressobj(), 0
    for kind, start, stop in chunks:
        if kind == b"IDAT" and not decompressor.eof:
            block = data[start + 8 : stop - 4]
            while block and not decompressor.eof and found < expected:
                found += len(decompressor.decompress(block, _BLOCK))
                block = decompressor.unconsumed_tail
    if found < expected:
        raise ImageError(f"{name} is truncated: its pixel data has {found:,} of {expected:,} bytes")


def _png_bytes(header: bytes) -> int:
    """Return the bytes of all rows, each with its filter byte, that an IHDR chunk announces."""
    width, height, depth, color, _, _, interlace = struct.unpack(">IIBBBBB", header[:13])
    bits = depth * _PNG_CHANNELS[color]
    passes = _ADAM7 if interlace else ((0, 0, 1, 1),)
    total = 0
    for x, y, step_x, step_y in passes:
        columns, rows = -(-(width - x) // step_x), -(-(height - y) // step_y)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total


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
