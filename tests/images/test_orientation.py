"""EXIF orientation: every value, in every format, damaged, and without a change to the caller's image."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sspsam.images.loading import load_image
from tests.support.encoded_images import Transform, blocks, chunk, exif, noise, opened, saved

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
