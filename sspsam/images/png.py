"""PNG files: levels and transparent colours of which Pillow keeps 8 bits, and pixel data that ends too early."""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sspsam.errors import ImageError

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_PALETTE: Final = 3
_ADAM7: Final = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_BLOCK: Final = 1 << 20


def chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and stop of each chunk of a PNG file, up to IEND or the end of the data."""
    position = len(SIGNATURE)
    while position + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        stop = min(position + 12 + length, len(data))
        yield kind, position, stop
        if kind == b"IEND":
            return
        position = stop


@dataclass(frozen=True)
class PNGLevels:
    """Meaning of the levels in a PNG file, as far as Pillow does not apply it.

    Levels that the writer scaled to all bits, as the format demands, are left alone. Where the file declares fewer
    significant bits (sBIT) and its levels are raw, they are scaled by the declared range, each channel by its own.

    Args:
        data: the file.
        depth: bits of a level.
        color: colour type of the header.
        significant_bits: of each channel; empty where the file declares none.
    """

    data: bytes = field(repr=False)
    depth: int
    color: int
    significant_bits: tuple[int, ...] = ()

    @classmethod
    def of(cls, data: bytes) -> Self | None:
        """Return the meaning of the levels in a PNG file; None for other and for damaged files."""
        header: bytes = b""
        declared: tuple[int, ...] = ()
        if data.startswith(SIGNATURE):
            for kind, start, stop in chunks(data):
                if kind == b"IHDR":
                    header = data[start + 8 : stop - 4]
                elif kind == b"sBIT":
                    declared = tuple(data[start + 8 : stop - 4])
                elif kind == b"IDAT":
                    break
        if len(header) < 13 or header[9] not in _CHANNELS:
            return None
        depth, color = header[8], header[9]
        is_valid = color != _PALETTE and len(declared) == _CHANNELS[color] and 0 not in declared
        return cls(data, depth, color, tuple(min(bits, depth) for bits in declared) if is_valid else ())

    def applied(self, image: Image.Image) -> Image.Image:
        """Return the image with its levels scaled to 8 bits, or the same image where Pillow applies everything.

        Args:
            image: decoded from the file, in the mode of the file.
        """
        key: Any = image.info.get("transparency")  # a level, or a level of each channel
        has_color_key = self._is_wide_color and isinstance(key, tuple)
        declares_less = any(bits < self.depth for bits in self.significant_bits)
        values = self._decoded_values(image) if has_color_key or declares_less else None
        if values is None:
            return self._with_scaled_key(image, key)
        may_be_raw = declares_less and self._may_be_raw(values, 8 if self._is_wide_color else self.depth)
        if self._is_wide_color and (has_color_key or may_be_raw):
            values = self._wide_values(values)
        if may_be_raw and not self._is_scaled(values):
            return self._scaled(values, key)
        if has_color_key:
            transparent = image.convert("RGB")
            transparent.putalpha(Image.fromarray(_opacity(values, key)))
            return transparent
        return self._with_scaled_key(image, key)

    def _with_scaled_key(self, image: Image.Image, key: Any) -> Image.Image:
        """Scale the transparent level like the levels; Pillow scales grey levels of 2 and 4 bits, but not their key."""
        if self.color == 0 and self.depth in (2, 4) and isinstance(key, int):
            image = image.copy()
            image.info["transparency"] = key * self._step
        return image

    @property
    def _is_wide_color(self) -> bool:
        """True if Pillow drops the low bytes of the levels."""
        return self.depth == 16 and self.color != 0

    @property
    def _step(self) -> int:
        """Factor by which Pillow multiplies grey levels of less than 8 bits."""
        return 255 // ((1 << self.depth) - 1) if self.depth < 8 else 1

    def _decoded_values(self, image: Image.Image) -> NDArray[Any] | None:
        """Return (h, w, channels) levels as Pillow decoded them; None for palettes and single bits."""
        if self.color == _PALETTE or self.depth == 1:
            return None
        values = np.asarray(image)
        values = values[..., None] if values.ndim == 2 else values
        if self.color == 4 and values.shape[-1] == 4:  # 16-bit grey with alpha becomes RGBA
            values = values[..., [0, 3]]
        if values.shape[-1] != _CHANNELS[self.color]:
            return None
        return values // self._step if self._step > 1 else values

    def _may_be_raw(self, values: NDArray[Any], depth: int) -> bool:
        """Return whether no level exceeds its declared range; only the upper `depth` bits of the levels are known."""
        limits = [((1 << bits) - 1) >> (self.depth - depth) for bits in self.significant_bits]
        return all(int(values[..., channel].max()) <= limit for channel, limit in enumerate(limits))

    def _is_scaled(self, values: NDArray[Any]) -> bool:
        """Return whether all levels are such as scaling to all bits makes them, or exceed the declared range."""
        if not self._may_be_raw(values, self.depth):
            return True
        return all(
            bool(_scaled_levels(bits, self.depth)[values[..., channel]].all())
            for channel, bits in enumerate(self.significant_bits)
        )

    def _scaled(self, values: NDArray[Any], key: Any) -> Image.Image:
        limits = [(1 << bits) - 1 for bits in self.significant_bits]
        channels = [_to_8_bits(values[..., channel], limit) for channel, limit in enumerate(limits)]
        if key is not None and len(channels) in (1, 3):
            channels.append(_opacity(values, key))
        mode = ("L", "LA", "RGB", "RGBA")[len(channels) - 1]
        return Image.merge(mode, [Image.fromarray(channel) for channel in channels])

    def _wide_values(self, high: NDArray[np.uint8]) -> NDArray[np.uint16]:
        """Decode the file again for the low bytes, which Pillow drops, and return (h, w, channels) 16-bit levels."""
        if self.color == 4:  # grey and alpha of 16 bits have the bytes and the filters of RGBA of 8 bits
            with Image.open(io.BytesIO(_with_header(self.data, depth=8, color=6))) as image:
                quads = np.asarray(image)
            return _joined(quads[..., ::2], quads[..., 1::2])
        with Image.open(io.BytesIO(self.data)) as image:
            mode = "RGB;16L" if self.color == 2 else "RGBA;16L"  # little-endian: the second byte of each pair
            image.tile = [tile._replace(args=mode) for tile in image.tile]
            return _joined(high, np.asarray(image))


def _joined(high: NDArray[np.uint8], low: NDArray[np.uint8]) -> NDArray[np.uint16]:
    joined: NDArray[np.uint16] = (high.astype(np.uint16) << np.uint16(8)) | low.astype(np.uint16)
    return joined


def _scaled_levels(bits: int, depth: int) -> NDArray[np.bool_]:
    """Return for each level of `depth` bits whether scaling of a level of `bits` bits may make it."""
    full, limit = (1 << depth) - 1, (1 << bits) - 1
    levels = np.arange(limit + 1, dtype=np.int64)
    replicated = shifted = levels << (depth - bits)
    for shift in range(bits, depth, bits):
        replicated = replicated | shifted >> shift
    is_scaled = np.zeros(full + 1, np.bool_)
    for scaled in (shifted, replicated, levels * full // limit, (levels * full + limit // 2) // limit):
        is_scaled[scaled] = True
    return is_scaled


def _to_8_bits(values: NDArray[Any], limit: int) -> NDArray[np.uint8]:
    scaled: NDArray[np.uint32] = (values.astype(np.uint32) * 255 + limit // 2) // limit
    return scaled.astype(np.uint8)


def _opacity(values: NDArray[Any], key: Any) -> NDArray[np.uint8]:
    """Return 0 for pixels whose levels all equal those of the transparent colour, else 255."""
    return np.where((values == np.asarray(key)).all(axis=-1), np.uint8(0), np.uint8(255))


def _with_header(data: bytes, depth: int, color: int) -> bytes:
    """Return a PNG file with another depth and colour type in its header, without what follows from the old ones."""
    parts = [SIGNATURE]
    for kind, start, stop in chunks(data):
        chunk = data[start:stop]
        if kind == b"IHDR":
            content = kind + chunk[8:16] + bytes([depth, color]) + chunk[18:21]
            chunk = chunk[:4] + content + struct.pack(">I", zlib.crc32(content))
        if kind in (b"IHDR", b"IDAT", b"IEND"):
            parts.append(chunk)
    return b"".join(parts)


def require_complete_png(data: bytes, name: str, image: Image.Image | None = None) -> None:
    """Refuse a PNG file with fewer pixels than its header announces; Pillow fills them with zeros.

    Args:
        data: of the file.
        name: of the image, for errors.
        image: decoded from it, in the mode of the file; the decompressed bytes are counted unless neither of its last
            two rows is all zeros, as missing rows are. None: they are counted in any case.

    Raises:
        ImageError: pixels are missing.
    """
    found_chunks = list(chunks(data))
    if not found_chunks or found_chunks[0][0] != b"IHDR":
        return
    header = data[found_chunks[0][1] + 8 : found_chunks[0][2] - 4]
    if image is not None and not header[12] and _has_last_rows(image):  # not interlaced
        return
    expected = _expected_bytes(header)
    decompressor, found = zlib.decompressobj(), 0
    for kind, start, stop in found_chunks:
        if kind == b"IDAT" and not decompressor.eof:
            block = data[start + 8 : stop - 4]
            while block and not decompressor.eof and found < expected:
                found += len(decompressor.decompress(block, _BLOCK))
                block = decompressor.unconsumed_tail
    if found < expected:
        raise ImageError(f"{name} is truncated: its pixel data has {found:,} of {expected:,} bytes")


def _has_last_rows(image: Image.Image) -> bool:
    rows = range(max(0, image.height - 2), image.height)
    return all(any(image.crop((0, row, image.width, row + 1)).tobytes()) for row in rows)


def _expected_bytes(header: bytes) -> int:
    """Return the bytes of all rows, each with its filter byte, that an IHDR chunk announces."""
    width, height, depth, color, _, _, interlace = struct.unpack(">IIBBBBB", header[:13])
    bits = depth * _CHANNELS[color]
    passes = _ADAM7 if interlace else ((0, 0, 1, 1),)
    total = 0
    for x, y, step_x, step_y in passes:
        columns, rows = -(-(width - x) // step_x), -(-(height - y) // step_y)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total
