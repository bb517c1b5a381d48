"""PNG files with levels or transparent colours of which Pillow keeps 8 bits; all files are written here, row by row."""

import struct
import zlib

import numpy as np
import pytest

from sspsam.images import load_image
from tests.support.images import chunk

CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}
HEIGHT, WIDTH = 14, 11


def filtered(row: bytes, above: bytes, step: int, kind: int) -> bytes:
    """A row of bytes after one of the five filters of PNG."""
    left, corner = bytes(step) + row, bytes(step) + above
    out = bytearray([kind])
    for index, value in enumerate(row):
        a, b, c = left[index], above[index], corner[index]
        nearest = min((a, b, c), key=lambda each, p=a + b - c: abs(p - each))
        out.append((value - (0, a, b, (a + b) // 2, nearest)[kind]) & 255)
    return bytes(out)


def png(levels: np.ndarray, depth: int, color: int, extra: bytes = b"") -> bytes:
    """A PNG file of (h, w, channels) levels whose rows use all filters in turn."""
    height, width, channels = levels.shape
    if depth < 8:
        bits = np.unpackbits(levels.astype(np.uint8)[..., None], axis=-1)[..., -depth:].reshape(height, -1)
        rows = np.packbits(bits, axis=1)
    else:
        rows = np.ascontiguousarray(levels.astype(">u2" if depth == 16 else np.uint8)).view(np.uint8)
    data, above = b"", b""
    for number, row in enumerate(rows.reshape(height, -1)):
        above = above or bytes(row.size)
        data += filtered(row.tobytes(), above, max(1, channels * depth // 8), number % 5)
        above = row.tobytes()
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


def expected(levels: np.ndarray, limits: list[int], color: int) -> np.ndarray:
    """The RGB pixels on white of levels from 0 to the limit of their channel."""
    values = levels / np.array(limits) * 255
    colors, alpha = (values[..., :-1], values[..., -1:] / 255) if color >= 4 else (values, 1.0)
    return np.broadcast_to(colors * alpha + 255 * (1 - alpha), (*levels.shape[:2], 3))


RAW = [(16, [12]), (16, [10, 9, 12, 11]), (8, [5, 6, 5, 4]), (8, [3])]


@pytest.mark.parametrize(
    ("color", "depth", "bits"), [(color, *kind) for color in CHANNELS for kind in RAW] + [(0, 4, [3]), (0, 2, [1])]
)
def test_raw_levels_are_scaled_by_the_declared_range_of_each_channel(color: int, depth: int, bits: list[int]) -> None:
    declared = (bits * 4)[: CHANNELS[color]]
    limits = [(1 << each) - 1 for each in declared]
    rng = np.random.default_rng(0)
    levels = np.stack([rng.integers(0, limit + 1, (HEIGHT, WIDTH)) for limit in limits], axis=-1)
    pixels = load_image(png(levels, depth, color, chunk(b"sBIT", bytes(declared))))
    assert np.abs(pixels - expected(levels, limits, color)).max() <= 1.5


@pytest.mark.parametrize("color", CHANNELS)
@pytest.mark.parametrize("darkest", [False, True])
@pytest.mark.parametrize(("depth", "bits"), [(16, 12), (8, 5), (8, 7)])
def test_levels_that_are_scaled_already_stay_as_they_are(color: int, darkest: bool, depth: int, bits: int) -> None:
    """Also those of an image that is so dark that its levels lie within the declared range."""
    full, limit = (1 << depth) - 1, (1 << bits) - 1
    rng = np.random.default_rng(0)
    few = max(1, (limit * limit) // full)  # levels that stay below the limit after scaling
    levels = rng.integers(0, (few if darkest else limit) + 1, (HEIGHT, WIDTH, CHANNELS[color]))
    for scaled in (np.rint(levels * full / limit).astype(int), levels << (depth - bits)):
        pixels = load_image(png(scaled, depth, color, chunk(b"sBIT", bytes([bits] * CHANNELS[color]))))
        assert np.abs(pixels - expected(scaled, [full] * CHANNELS[color], color)).max() <= 2


def test_significant_bits_that_are_malformed_change_nothing() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3))
    whole = load_image(png(levels, 8, 2))
    assert np.array_equal(whole, levels)
    for content in (b"", b"\5", b"\0\0\0", b"\x20\x20\x20", b"\5\5\5\5"):
        assert np.array_equal(load_image(png(levels, 8, 2, chunk(b"sBIT", content))), whole)


@pytest.mark.parametrize("key", [(0x1234, 0x5678, 0x9ABC), (100, 7, 200), (0, 0, 0), (65535, 65535, 65535)])
def test_the_transparent_color_of_a_16_bit_file_is_compared_with_all_of_its_bits(key: tuple[int, int, int]) -> None:
    levels = np.zeros((HEIGHT, WIDTH, 3), int) + key
    levels[1:5] ^= 1  # other colors with the same high bytes
    levels[5:9, :, 1] ^= 0x80
    levels[9:13] = np.random.default_rng(0).integers(0, 65536, (4, WIDTH, 3))
    pixels = load_image(png(levels, 16, 2, chunk(b"tRNS", struct.pack(">HHH", *key))))
    is_key = (levels == key).all(axis=-1)
    assert (pixels[is_key] == 255).all()
    assert np.array_equal(pixels[~is_key], levels[~is_key] >> 8)


@pytest.mark.parametrize(("color", "depth"), [(0, 4), (0, 8), (0, 16), (2, 8), (2, 16)])
def test_the_transparent_color_of_raw_levels_is_compared_before_they_are_scaled(color: int, depth: int) -> None:
    bits = depth - 1 if depth < 16 else 11
    limit, channels = (1 << bits) - 1, CHANNELS[color]
    levels = np.random.default_rng(0).integers(0, limit + 1, (HEIGHT, WIDTH, channels))
    key = tuple(levels[3, 4])
    extra = chunk(b"sBIT", bytes([bits] * channels)) + chunk(b"tRNS", struct.pack(f">{channels}H", *key))
    pixels = load_image(png(levels, depth, color, extra))
    is_key = (levels == key).all(axis=-1)
    assert (pixels[is_key] == 255).all()
    values = expected(levels, [limit] * channels, color)
    assert np.abs(pixels[~is_key] - values[~is_key]).max() <= 1
