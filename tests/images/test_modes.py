"""Modes of Pillow: colours, palettes, alpha, 16 and 32 bits, and transparency."""

import zlib

import numpy as np
import pytest
from PIL import Image

from sspsam.errors import ImageError
from sspsam.images.loading import load_image
from tests.support.encoded_images import opened, png, saved

_RED, _GREEN = np.meshgrid(np.arange(0, 256, 5), np.arange(0, 256, 15))
RAMP = np.stack([_RED, _GREEN, np.full_like(_RED, 90)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "RGBX", "YCbCr", "HSV", "CMYK"])
def test_colour_modes_keep_their_colours(mode: str) -> None:
    result = load_image(Image.fromarray(RAMP).convert(mode))
    assert np.abs(result.astype(int) - RAMP).max() <= {"RGB": 0, "RGBX": 0, "CMYK": 0}.get(mode, 6)


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_grey_and_palette_modes_keep_their_values(mode: str) -> None:
    grey = RAMP[..., 0] if mode != "1" else np.where(RAMP[..., 0] > 99, 255, 0).astype(np.uint8)
    image = Image.fromarray(grey).convert(mode)
    assert np.array_equal(load_image(image), np.repeat(grey[..., None], 3, axis=2))


def test_a_palette_is_applied() -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 7, 8, 9])
    assert load_image(image).tolist() == [[[255, 0, 0], [0, 255, 0], [7, 8, 9]]]


@pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBA", "RGBa"])
def test_alpha_is_composited_on_white(mode: str) -> None:
    grey, alpha = RAMP[..., 0], RAMP[..., 1]
    image = Image.fromarray(grey).convert("P" if mode == "PA" else "L")
    image.putalpha(Image.fromarray(alpha))
    image = image.convert("RGBA").convert(mode) if mode == "RGBa" else image.convert(mode)
    assert image.mode == mode
    weight = alpha[..., None] / 255
    expected = grey[..., None] * weight + 255 * (1 - weight)
    assert np.abs(load_image(image) - expected).max() <= 2  # premultiplied modes round twice


def test_lab_is_converted_with_its_white_point() -> None:
    # CIE 1976 values (D50) of sRGB white, black, mid grey, red and green; a and b are signed bytes
    lab = [(100, 0, 0), (0, 0, 0), (53.6, 0, 0), (54.3, 80.8, 69.9), (46.3, -47.6, 48.6)]
    bytes_ = bytes(round(v) for light, a, b in lab for v in (light * 2.55, a % 256, b % 256))
    result = load_image(Image.frombytes("LAB", (5, 1), bytes_))[0].astype(int)
    expected = [[255] * 3, [0] * 3, [128] * 3, [255, 0, 0], [0, 128, 0]]
    assert np.abs(result - expected).max() <= 6


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N"])
def test_16_bit_modes_are_scaled_by_1_257(mode: str) -> None:
    values = np.array([0, 128, 129, 256, 257, 32768, 65406, 65407, 65535])
    raw = values.astype({"I;16B": ">u2", "I;16N": "=u2"}.get(mode, "<u2")).tobytes()
    result = load_image(Image.frombytes(mode, (len(values), 1), raw))[0]
    assert np.array_equal(result, np.repeat(np.rint(values / 257)[:, None], 3, axis=1))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_files_are_scaled_even_if_all_values_are_small(kind: str) -> None:
    for brightest in (200, 65535):
        values = np.linspace(0, brightest, 60).astype(np.uint16).reshape(6, 10)
        result = load_image(saved(Image.fromarray(values), kind))
        assert np.array_equal(result[..., 1], np.rint(values / 257))


def test_the_values_of_32_bit_integers_determine_their_range() -> None:
    small, large = np.array([[0, 7, 255]], np.int32), np.array([[0, 257, 65535]], np.int32)
    assert load_image(Image.fromarray(small))[0, :, 0].tolist() == [0, 7, 255]
    assert load_image(Image.fromarray(large))[0, :, 0].tolist() == [0, 1, 255]


def test_the_values_of_floats_determine_their_range() -> None:
    assert load_image(Image.fromarray(np.array([[0, 0.5, 1]], np.float32)))[0, :, 0].tolist() == [0, 128, 255]
    assert load_image(Image.fromarray(np.array([[0, 99.6, 255]], np.float32)))[0, :, 0].tolist() == [0, 100, 255]


@pytest.mark.parametrize(
    "values",
    [np.array([[-1, 5]], np.int32), np.array([[0, 65536]], np.int32)]
    + [np.array([[0, bad]], np.float32) for bad in (-0.5, 256, np.nan, np.inf, -np.inf)],
)
def test_32_bit_values_of_an_unknown_range_are_refused(values: np.ndarray) -> None:
    with pytest.raises(ImageError, match="guess"):
        load_image(Image.fromarray(values))


def scanline(*values: int, depth: int = 8) -> tuple[bytes, bytes]:
    """Return the chunk with the pixels of a PNG of one row."""
    return b"IDAT", zlib.compress(b"\0" + b"".join(value.to_bytes(depth // 8) for value in values))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (png(2, 1, 1, 0, (b"tRNS", b"\0\0"), scanline(0b01000000)), [255, 255]),
        (png(2, 1, 8, 0, (b"tRNS", b"\0\x05"), scanline(5, 6)), [255, 6]),
        (png(3, 1, 16, 0, (b"tRNS", b"\x01\x05"), scanline(0x105, 0x104, 0, depth=16)), [255, 1, 0]),
        (png(2, 1, 8, 2, (b"tRNS", b"\0\5\0\5\0\5"), scanline(5, 5, 5, 6, 6, 6)), [255, 6]),
        (png(2, 1, 16, 2, (b"tRNS", b"\x80\0" * 3), scanline(*[0x8000] * 3, *[0x500] * 3, depth=16)), [255, 5]),
        (png(3, 1, 8, 3, (b"PLTE", bytes([9] * 9)), (b"tRNS", b"\0\x80"), scanline(0, 1, 2)), [255, 132, 9]),
        (png(2, 1, 8, 4, scanline(7, 0, 7, 255)), [255, 7]),
        (png(2, 1, 16, 6, scanline(*[0x700] * 3, 0, *[0x700] * 3, 0xFFFF, depth=16)), [255, 7]),
    ],
    ids=["1 bit", "grey", "grey 16", "colour", "colour 16", "palette", "grey alpha", "colour alpha 16"],
)
def test_transparency_of_a_png_is_composited_on_white(data: bytes, expected: list[int]) -> None:
    for image in (data, opened(data), opened(data, loaded=True)):
        result = load_image(image)[0]
        assert np.abs(result.astype(int) - np.array(expected)[:, None]).max() <= 1


def test_a_transparent_gif_is_composited_on_white() -> None:
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), "P")
    image.putpalette([1, 2, 3, 7, 8, 9])
    assert load_image(saved(image, "GIF", transparency=0)).tolist() == [[[255, 255, 255], [7, 8, 9]]]


@pytest.mark.parametrize("mode", ["RGBX", "CMYK", "HSV", "YCbCr", "I", "F", "LAB"])
def test_a_transparency_entry_without_a_meaning_is_ignored(mode: str) -> None:
    image = Image.frombytes(mode, (2, 2), bytes(4 * len(Image.new(mode, (1, 1)).tobytes())))  # padding of 0 too
    expected = load_image(image)
    image.info["transparency"] = 300
    assert np.array_equal(load_image(image), expected)
