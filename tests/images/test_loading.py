"""Images of every kind, shape and kind of damage."""

import io
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageFile, ImageSequence

from sspsam.errors import ImageError, ImageNotFoundError, ImageTooLargeError, SSPSAMWarning
from sspsam.images.loading import Pixels, load_image

Transform = Callable[[Pixels], Pixels]

# pixels that a camera stores for an upright image, by EXIF orientation (EXIF 2.3, table of tag 274)
STORED: dict[int, Transform] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}
LOSSLESS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "TIFF": {},
    "TIFF deflate": {"compression": "tiff_adobe_deflate"},
    "WEBP": {"lossless": True},
}


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


# --- kinds of inputs ---


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_a_numpy_matrix_is_loaded_as_an_array() -> None:
    grey = noise(4, 6, 1)
    assert np.array_equal(load_image(np.asmatrix(grey[..., 0])), np.repeat(grey, 3, axis=2))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "TGA", "WEBP"])
def test_path_bytes_pil_and_array_give_the_same_pixels(tmp_path: Path, kind: str) -> None:
    pixels = noise(13, 17)
    data = saved(pixels, kind, **({"lossless": True} if kind == "WEBP" else {}))
    strided = memoryview(bytes(byte for pair in zip(data, data, strict=True) for byte in pair))[::2]
    path = tmp_path / "image with spaces ü"
    path.write_bytes(data)
    for image in (
        path,
        str(path),
        data,
        bytearray(data),
        memoryview(data),
        strided,
        opened(data),
        Image.fromarray(pixels),
    ):
        assert np.array_equal(load_image(image), pixels)


@pytest.mark.parametrize(
    "view",
    [
        lambda pixels: pixels,
        lambda pixels: np.asfortranarray(pixels),
        lambda pixels: np.pad(pixels, ((2, 1), (1, 1), (0, 0)))[2:-1, 1:-1],
        lambda pixels: pixels[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1],
    ],
)
def test_the_result_is_contiguous_and_shares_no_memory_with_the_array(view: Transform) -> None:
    pixels = view(noise(6, 7))
    pixels.flags.writeable = False
    result = load_image(pixels)
    assert np.array_equal(result, pixels)
    assert result.dtype == np.uint8
    assert result.flags.c_contiguous
    assert result.flags.writeable
    assert not np.shares_memory(result, pixels)


def test_arrays_are_converted_as_the_table_states() -> None:
    grey = noise(4, 6, 1)
    as_rgb = np.repeat(grey, 3, axis=2)
    assert np.array_equal(load_image(grey), as_rgb)
    assert np.array_equal(load_image(grey[..., 0]), as_rgb)
    with pytest.raises(ImageError, match="masked"):
        load_image(np.ma.masked_array(grey[..., 0]))
    assert np.array_equal(load_image(grey[..., 0] > 99), np.where(as_rgb > 99, 255, 0))
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 100, 255, 128]]], dtype=np.uint8)
    assert load_image(rgba).tolist() == [[[10, 20, 30], [255, 255, 255], [127, 177, 255]]]


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_every_16_bit_value_is_scaled_and_not_clipped(dtype: str) -> None:
    values = np.arange(65536, dtype=dtype).reshape(256, 256)
    expected = np.rint(np.arange(65536) / 257).reshape(256, 256, 1)
    assert np.array_equal(load_image(values), np.repeat(expected, 3, axis=2))
    assert np.array_equal(load_image(np.stack([values] * 3, axis=-1)), np.repeat(expected, 3, axis=2))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 5, 3)), "float64"),
        (np.zeros((4, 5, 3), np.float32), "astype"),
        (np.zeros((4, 5), np.int64), "int64"),
        (np.zeros((4, 5), object), "object"),
        (np.array([["a", "b"]]), "dtype"),
        (np.zeros((2, 2), [("r", "u1")]), "dtype"),
        (np.zeros((2, 2), "M8[s]"), "datetime64"),
        (np.zeros((2, 2), complex), "complex128"),
        (np.zeros((3, 40, 50), np.uint8), "channel-first"),
        (np.zeros((1, 40, 50), np.uint8), "channel-first"),
        (np.zeros((1, 40, 50, 3), np.uint8), "is not an image"),
        (np.zeros((40, 50, 2), np.uint8), "is not an image"),
        (np.zeros((40, 50, 0), np.uint8), "is not an image"),
        (np.zeros(5, np.uint8), "is not an image"),
        (np.array(5, np.uint8), "is not an image"),
        (np.zeros((0, 5, 3), np.uint8), "empty: 5 x 0"),
        (np.zeros((5, 0), np.uint8), "empty: 0 x 5"),
    ],
    ids=lambda value: f"{value.dtype}{value.shape}" if isinstance(value, np.ndarray) else "",
)
def test_an_array_with_an_ambiguous_meaning_is_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_image(array)


@pytest.mark.parametrize("image", [3, 2.5, True, [[1]], ("a.png",), {}, np.uint8(3), Image.Image])
def test_an_object_that_is_not_an_image_is_a_type_error(image: object) -> None:
    with pytest.raises(TypeError, match="an image must be a path, bytes, a PIL image or a NumPy array, not"):
        load_image(image)  # type: ignore[arg-type]


def test_a_tensor_is_a_type_error_that_names_the_conversion() -> None:
    with pytest.raises(TypeError, match=r"Tensor of shape \(3, 4, 5\); pass tensor\.permute"):
        load_image(torch.zeros(3, 4, 5))  # type: ignore[arg-type]


# --- orientation ---


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", LOSSLESS)
def test_every_exif_orientation_gives_an_upright_image(tmp_path: Path, kind: str, orientation: int) -> None:
    upright = noise(12, 20)
    data = saved(STORED[orientation](upright), kind, exif=exif(orientation), **LOSSLESS[kind])
    (path := tmp_path / "image").write_bytes(data)
    for image in (path, data, opened(data), opened(data, loaded=True)):
        assert np.array_equal(load_image(image), upright)


@pytest.mark.parametrize("orientation", STORED)
def test_every_exif_orientation_of_a_jpeg_gives_an_upright_image(orientation: int) -> None:
    data = saved(STORED[orientation](blocks()), "JPEG", quality=95, subsampling=0, exif=exif(orientation))
    for image in (data, opened(data), opened(data, loaded=True)):
        assert np.abs(load_image(image).astype(int) - blocks()).mean() < 3


def test_exif_behind_the_pixels_of_a_png_is_applied() -> None:
    upright = noise(5, 9)
    tags = exif(6).tobytes().removeprefix(b"Exif\0\0")
    plain = saved(STORED[6](upright), "PNG")
    assert np.array_equal(load_image(plain[:-12] + chunk(b"eXIf", tags) + plain[-12:]), upright)


@pytest.mark.parametrize("orientation", [0, 9, 255, 65535])
def test_an_undefined_orientation_is_ignored(orientation: int) -> None:
    pixels = noise(5, 9)
    assert np.array_equal(load_image(saved(pixels, "PNG", exif=exif(orientation))), pixels)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(
    "damaged",
    [
        b"Exif\0\0",
        b"Exif\0\0garbage that is no TIFF header",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x05\0\x01\0\0\0\xff\xff\xff\x7f",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x02six\0",
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_image_with_damaged_exif_is_loaded_without_it(kind: str, damaged: bytes) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    expected = load_image(saved(blocks(), kind, **options))
    data = saved(blocks(), kind, exif=damaged, **options)
    assert np.array_equal(load_image(data), expected)
    assert np.array_equal(load_image(opened(data)), expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "GIF", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_the_callers_pil_image_is_not_changed(kind: str, mode: str) -> None:
    source = Image.fromarray(noise(8, 11)).convert(mode)
    options = {} if kind == "GIF" else {"exif": exif(6)}
    image, untouched = (opened(saved(source, kind, **options), loaded=True) for _ in range(2))
    load_image(image)
    assert (image.mode, image.size, image.tobytes()) == (untouched.mode, untouched.size, untouched.tobytes())
    assert image.info == untouched.info
    assert dict(image.getexif()) == dict(untouched.getexif())
    assert image.getpalette() == untouched.getpalette()


# --- modes of Pillow ---

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


# --- several frames ---


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_of_several_frames_is_used_with_a_warning(tmp_path: Path, kind: str) -> None:
    frames = [Image.new("RGB", (6, 4), color) for color in ("red", "lime", "blue")]
    data = saved(
        frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
    )
    (path := tmp_path / "animated").write_bytes(data)
    for image in (data, path, opened(data)):
        with pytest.warns(SSPSAMWarning, match="3 frames; only frame 0") as caught:
            result = load_image(image)
        assert len(caught) == 1
        assert np.array_equal(result, np.asarray(frames[0]))


def test_the_current_frame_of_a_pil_image_is_used_and_stays_current() -> None:
    frames = [Image.new("RGB", (6, 4), color) for color in ("red", "lime", "blue")]
    image = opened(saved(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    for index, _ in enumerate(ImageSequence.Iterator(image)):
        with pytest.warns(SSPSAMWarning, match=f"only frame {index}"):
            assert np.array_equal(load_image(image), np.asarray(frames[index]))
        assert image.tell() == index


def test_an_mpo_photograph_with_a_preview_gives_no_warning() -> None:
    photograph = Image.fromarray(blocks())
    data = saved(photograph, "MPO", save_all=True, append_images=[photograph.resize((8, 8))])
    assert opened(data).n_frames == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_image(data).shape == blocks().shape


def test_a_warning_that_is_turned_into_an_error_keeps_its_class() -> None:
    frames = [Image.new("RGB", (6, 4), color) for color in ("red", "lime")]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    for image in (data, opened(data)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(SSPSAMWarning):
                load_image(image)


# --- size limits ---


def test_max_pixels_is_checked_before_decoding() -> None:
    header_only = png(5000, 4000, 8, 2)
    for image in (header_only, opened(header_only)):
        with pytest.raises(ImageTooLargeError, match=r"5000 x 4000 = 20,000,000 pixels, more than .* 19,999,999"):
            load_image(image, max_pixels=19_999_999)
        with pytest.raises(ImageError, match="damaged"):  # within the limit decoding starts, and finds no pixels
            load_image(image, max_pixels=20_000_000)


def test_an_image_of_exactly_max_pixels_is_accepted() -> None:
    pixels = noise(4, 5)
    for image in (pixels, Image.fromarray(pixels), saved(pixels, "PNG")):
        assert load_image(image, max_pixels=20).shape == (4, 5, 3)
        with pytest.raises(ImageTooLargeError):
            load_image(image, max_pixels=19)


def test_an_image_beyond_pillows_own_limit_is_too_large_and_the_limit_does_not_change() -> None:
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(ImageTooLargeError, match="MAX_IMAGE_PIXELS"):
        load_image(png(60000, 60000, 8, 2), max_pixels=10**12)
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.filterwarnings("ignore:Image was not the expected size")
def test_an_icon_whose_header_understates_its_size_is_too_large() -> None:
    data = saved(noise(300, 300), "PNG")
    icon = struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(data), 22) + data
    with pytest.raises(ImageTooLargeError, match="300 x 300"):
        load_image(icon, max_pixels=1000)


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (12000, 3)])
def test_images_of_extreme_shape_are_loaded(size: tuple[int, int]) -> None:
    pixels = noise(*size)
    assert np.array_equal(load_image(saved(pixels, "PNG")), pixels)


# --- unreadable inputs ---


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_a_truncated_file_is_an_image_error_that_names_the_file(tmp_path: Path, kind: str, kept: float) -> None:
    data = saved(noise(40, 50), kind)
    (path := tmp_path / "half.bin").write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ImageError, match=r"half\.bin"):
        load_image(path)


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"just words, and not an image", b"<svg/>", b"\xff\xd8", b"\x89PNG\r\n\x1a\n"]
)
def test_bytes_that_are_not_an_image_are_an_image_error(tmp_path: Path, data: bytes) -> None:
    (path := tmp_path / "no.png").write_bytes(data)
    with pytest.raises(ImageError, match=f"image of {len(data)} bytes"):
        load_image(data)
    with pytest.raises(ImageError, match=r"no\.png"):
        load_image(path)


def test_an_error_for_heic_names_the_plugin() -> None:
    with pytest.raises(ImageError, match="pillow-heif"):
        load_image(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 40)


def test_a_missing_file_is_also_a_file_not_found_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing-here"):
        load_image(tmp_path / "nothing-here.jpg")
    with pytest.raises(ImageNotFoundError):
        load_image(str(tmp_path / "nothing-here.jpg"))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "empty"),
        ("a\0b.png", "NUL"),
        ("a" * 5000, "longer than any path"),
        ("a" * 300, "cannot read"),
        ("data:image/png;base64," + "A" * 1_400_000, "URL"),
        ("\udc80.png", "no such"),
        (__file__ + "/inside.png", "cannot read"),
        ("https://example.org/dog.jpg", "download"),
        ("HTTP://example.org/dog.jpg", "download"),
        ("s3://bucket/dog.jpg", "download"),
        ("file:///dog.jpg", "download"),
        (".", "folder"),
        ("/dev/zero", "not a regular file"),
        ("/dev/null", "not a regular file"),
    ],
)
def test_an_error_for_an_unusable_path_gives_the_reason_in_few_words(path: str, message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        load_image(path)
    assert len(str(caught.value)) < 500


@pytest.mark.timeout(20)
def test_a_fifo_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="not a regular file"):
        load_image(tmp_path / "pipe.png")


def test_a_loop_of_symbolic_links_is_an_image_error(tmp_path: Path) -> None:
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    with pytest.raises(ImageError, match=r"loop\.png"):
        load_image(tmp_path / "loop.png")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root can read every file")
def test_a_file_without_permission_is_an_image_error(tmp_path: Path) -> None:
    (path := tmp_path / "secret.png").write_bytes(saved(noise(2, 2), "PNG"))
    path.chmod(0)
    with pytest.raises(ImageError, match="Permission denied"):
        load_image(path)


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_a_file_that_cannot_be_opened_is_an_image_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def raise_error(*_: object, **__: object) -> None:
        raise error

    (path := tmp_path / "existing.png").write_bytes(saved(noise(2, 2), "PNG"))
    monkeypatch.setattr(Path, "open", raise_error)
    with pytest.raises(ImageError, match=rf"existing\.png: {error.strerror}"):
        load_image(path)


def test_closed_and_empty_pil_images_are_image_errors() -> None:
    closed = opened(saved(noise(4, 4), "PNG"))
    closed.close()
    for image in (closed, Image.new("RGB", (0, 5))):
        with pytest.raises(ImageError, match="the PIL image"):
            load_image(image)


SEEDS = [
    saved(blocks(), "JPEG", exif=exif(6)),
    saved(noise(9, 7), "PNG", exif=exif(3)),
    saved(noise(9, 7), "TIFF", exif=exif(8)),
    saved(noise(9, 7), "WEBP"),
    saved(noise(9, 7), "BMP"),
    saved(noise(16, 16), "ICO"),
    saved(noise(9, 7), "GIF", save_all=True, append_images=[Image.new("RGB", (7, 9), "red")]),
]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.one_of(st.integers(0, 80), st.integers(0, 5000)), st.integers(0, 255)), max_size=6),
    st.integers(0, 30),
)
def test_changed_bytes_give_an_image_or_an_image_error(seed: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(seed[: len(seed) - cut])
    for position, value in changes:
        data[position % len(data)] = value
    try:
        pixels = load_image(bytes(data), max_pixels=100_000)
    except ImageError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert 0 < pixels.shape[0] * pixels.shape[1] <= 100_000


# --- global state ---


def test_loading_changes_no_global_state() -> None:
    def state() -> tuple[object, ...]:
        settings_ = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, ImageFile.MAXBLOCK
        return *settings_, list(warnings.filters), np.geterr(), dict(os.environ), Path.cwd(), threading.active_count()

    before = state()
    load_image(saved(noise(5, 5), "JPEG"))
    load_image(Image.new("LAB", (3, 3)))
    for bad in (b"", b"nothing", png(9000, 9000, 8, 2), saved(noise(40, 40), "JPEG")[:500]):
        with pytest.raises(ImageError):
            load_image(bad, max_pixels=10_000)
    assert state() == before
