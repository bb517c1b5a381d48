"""Repair of TIFF files with damaged optional tags: Pillow drops all tags behind a damaged one, or the image."""

import struct
from typing import IO, Final, NamedTuple

_BYTE_ORDERS: Final = {b"II*\0": "<", b"MM\0*": ">"}
TIFF_SIGNATURES: Final = (*_BYTE_ORDERS, b"II+\0", b"MM\0+")  # also of BigTIFF
_TYPE_BYTES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
# the tags that say how to decode the pixels, and the orientation; all others are metadata
_PIXEL_TAGS: Final = frozenset(
    {254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 332, 334}
    | {338, 339, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532}
)
_MAX_ENTRIES: Final = 4096


class _Directory(NamedTuple):
    """The first directory of a classic TIFF file."""

    order: str  # "<" or ">"
    entries: list[bytes]  # of 12 bytes each
    is_damaged: bool  # whether the value of an entry lies outside of the file


def _first_directory(file: IO[bytes]) -> _Directory | None:
    """Read the first directory; None where there is none, as in BigTIFF files."""
    size = file.seek(0, 2)
    file.seek(0)
    header = file.read(8)
    order = _BYTE_ORDERS.get(header[:4])
    if order is None or len(header) < 8:
        return None
    file.seek(struct.unpack(order + "L", header[4:])[0])
    count_bytes = file.read(2)
    if len(count_bytes) < 2:
        return None
    [count] = struct.unpack(order + "H", count_bytes)
    data = file.read(12 * min(count, _MAX_ENTRIES))
    entries = [data[start : start + 12] for start in range(0, len(data) - 11, 12)]
    return _Directory(order, entries, any(_is_outside(entry, order, size) for entry in entries))


def _is_outside(entry: bytes, order: str, size: int) -> bool:
    _, kind, count, offset = struct.unpack(order + "HHLL", entry)
    length: int = _TYPE_BYTES.get(kind, 1) * count
    end: int = offset + length
    return length > 4 and end > size


def has_damaged_tags(file: IO[bytes]) -> bool:
    """Return whether a TIFF file has an optional tag whose value lies outside of the file. The position is kept."""
    position = file.tell()
    directory = _first_directory(file)
    file.seek(position)
    return directory is not None and directory.is_damaged


def without_tiff_metadata(file: IO[bytes]) -> bytes | None:
    """Return a TIFF file with the tags of the first image's pixels only; None for other files.

    The new directory stands at the end; everything else stays in its place.
    """
    directory = _first_directory(file)
    if directory is None:
        return None
    order = directory.order
    kept = [entry for entry in directory.entries if struct.unpack(order + "H", entry[:2])[0] in _PIXEL_TAGS]
    file.seek(0)
    data = bytearray(file.read())
    data += bytes(len(data) % 2)  # a directory begins at an even offset
    data[4:8] = struct.pack(order + "L", len(data))
    return bytes(data) + struct.pack(order + "H", len(kept)) + b"".join(kept) + bytes(4)
