"""Images of every kind of input, of several frames, and of every size."""

import os
import struct
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile, ImageSequence

from sspsam.errors import ImageError, ImageTooLargeError, SSPSAMWarning
from sspsam.images.loading import load_image
from tests.support.encoded_images import Transform, blocks, noise, opened, png, saved

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
