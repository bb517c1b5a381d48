"""JPEG files that end in the middle of their pixel data: libjpeg fills the missing part with grey, or without detail.

libjpeg's warning of a premature end does not reach Pillow, and the length of the data is written nowhere. But bytes
that follow complete pixel data change nothing, whereas bytes that follow incomplete data are decoded as pixels. So a
file is decoded once more with bytes inserted before its end marker, if it is progressive, has several scans, or ends in
grey; most files are not and do not.
"""

import io
import random
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from PIL import Image, ImageChops

from sspsam.errors import ImageError

SIGNATURE: Final = b"\xff\xd8"
_COLOR_SEGMENTS: Final = {0xE0: 16, 0xEE: 14}  # JFIF and Adobe markers: length of a whole segment
_EOI, _SOS, _DRI = 0xD9, 0xDA, 0xDD
_PROGRESSIVE: Final = 0xC2
_HUFFMAN_FRAMES: Final = (0xC0, 0xC1, _PROGRESSIVE)  # baseline, extended
_OTHER_FRAMES: Final = (0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
_WITHOUT_LENGTH: Final = (0x01, *range(0xD0, 0xD9))
_MARKER: Final = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # restart markers are part of a scan
_GREY: Final = (126, 130)  # levels of a block without coefficients, after rounding; 128 is exact
_INSERTED_BYTES: Final = 256


class _Layout(NamedTuple):
    """Frame and scans of a JPEG file.

    Args:
        unit: width and height of the smallest coded unit in pixels.
        has_restarts: whether restart markers divide the scans.
        may_lack_detail: whether the file is progressive or has several scans, so that missing pixels need not be grey.
        stop: end of the last scan's data.
    """

    unit: tuple[int, int]
    has_restarts: bool
    may_lack_detail: bool
    stop: int


def require_complete_jpeg(data: bytes, name: str, image: Image.Image) -> None:
    """Refuse a JPEG file whose pixel data ends early although an end marker follows.

    Files with arithmetic coding, and the loss of a single coded unit (at most 32 x 32 pixels), are not recognised.

    Args:
        data: of the file.
        name: of the image, for errors.
        image: decoded from it, in the mode of the file.

    Raises:
        ImageError: pixels are missing.
    """
    layout = _layout(data)
    if layout is None:
        return
    if (layout.may_lack_detail or _ends_in_grey(image)) and _reads_inserted_bytes(data, layout, image):
        raise ImageError(f"{name} is truncated: its JPEG data ends before the end of the image")


def without_jpeg_metadata(data: bytes) -> bytes:
    """Drop comments and application segments other than whole JFIF and Adobe segments."""
    parts, position = [data[:2]], 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == _SOS:  # the pixels
            break
        is_metadata = marker == 0xFE or 0xE0 <= marker <= 0xEF
        # JFIF and Adobe segments say how to decode the colours, unless they are too short to say it
        if length >= _COLOR_SEGMENTS.get(marker, 1 << 16):
            is_metadata = False
        if not is_metadata:
            parts.append(data[position : position + 2 + length])
        position += 2 + length
    return b"".join([*parts, data[position:]])


def _layout(data: bytes) -> _Layout | None:
    """Return frame and scans up to the end marker; None for other kinds of coding and for damaged files."""
    unit, has_restarts, is_progressive, scans, stop = (0, 0), False, False, 0, 0
    for marker, segment, end in _segments(data):
        if marker in _OTHER_FRAMES:
            return None
        if marker in _HUFFMAN_FRAMES:
            is_progressive = marker == _PROGRESSIVE
            factors = segment[7::3]  # of each component: four bits for each direction
            unit = 8 * max(byte >> 4 for byte in factors), 8 * max(byte & 15 for byte in factors)
        elif marker == _DRI:
            has_restarts = has_restarts or any(segment)
        elif marker == _SOS:
            scans, stop = scans + 1, end
    return _Layout(unit, has_restarts, is_progressive or scans > 1, stop) if scans and all(unit) else None


def _segments(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield marker, content, and end of each segment up to the end marker; a scan ends where its pixel data ends.

    Nothing is yielded behind a damaged segment. Without an end marker, Pillow itself finds missing data.
    """
    position = len(SIGNATURE)
    while (found := _MARKER.search(data, position)) is not None:
        marker, position = data[found.start() + 1], found.end()
        if marker == _EOI:
            return
        if marker in _WITHOUT_LENGTH:
            continue
        start, position = position + 2, position + int.from_bytes(data[position : position + 2], "big")
        following = _MARKER.search(data, position)
        if following is None:
            return
        yield marker, data[start:position], following.start() if marker == _SOS else position


def _ends_in_grey(image: Image.Image) -> bool:
    """Return whether the last block is of a middle grey, as a missing one is; colour may bleed into it."""
    last_block = image.crop(((image.width - 1) // 8 * 8, (image.height - 1) // 8 * 8, *image.size))
    values = np.asarray(last_block.convert("L") if image.mode == "RGB" else last_block)
    return bool(((values >= _GREY[0]) & (values <= _GREY[1])).all())


def _reads_inserted_bytes(data: bytes, layout: _Layout, image: Image.Image) -> bool:
    """Return whether bytes behind the data of the last scan change pixels other than those of the last units."""
    bits = random.Random(0)
    runs = [bytes(bits.choices(range(1, 0xFF), k=_INSERTED_BYTES)) for _ in range(8)]
    inserted = runs[0]
    if layout.has_restarts:  # each run is read only behind the restart marker that the decoder waits for
        inserted = b"".join(run + bytes([0xFF, 0xD0 + number]) for number, run in enumerate(runs))
    complete_bytes = data[: layout.stop].rstrip(b"\xff")
    changed = without_jpeg_metadata(complete_bytes + inserted + data[layout.stop :])
    try:
        with Image.open(io.BytesIO(changed), formats=["JPEG"]) as other:
            if other.size != image.size or other.mode != image.mode:  # the caller asked Pillow for a smaller image
                return False
            changed_box = ImageChops.difference(other, image).getbbox(alpha_only=False)
    except Exception:  # nothing is known then
        return False
    # some encoders lose the last bits: the last unit, of which the pixels beside it take colour, does not count
    left, top = ((side - 1) // unit * unit - 1 for side, unit in zip(image.size, layout.unit, strict=True))
    return changed_box is not None and (changed_box[0] < left or changed_box[1] < top)
