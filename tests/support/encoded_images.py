"""Images of noise and flat squares, and their files: encoded by Pillow, or PNG files written chunk by chunk."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from sspsam.images.loading import Pixels

Transform = Callable[[Pixels], Pixels]


def noise(height: int, width: int, channels: int = 3) -> Pixels:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, channels), dtype=np.uint8)


def blocks() -> Pixels:
    """Flat squares, which JPEG changes little."""
    return np.kron(noise(3, 5), np.ones((16, 16, 1), dtype=np.uint8))


def saved(image: Image.Image | Pixels, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(np.ascontiguousarray(image))).save(
        buffer, kind.split()[0], **options
    )
    return buffer.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = orientation
    return tags


def opened(data: bytes, *, loaded: bool = False) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    if loaded:
        image.load()
    return image


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, color: int, *chunks: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*content) for content in [(b"IHDR", header), *chunks, (b"IEND", b"")])
