"""Files, bytes and paths that cannot be read: each is an `ImageError` that names the file and the reason."""

import io
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image, ImageFile

from sspsam.errors import ImageError, ImageNotFoundError
from sspsam.images.loading import load_image
from tests.support.encoded_images import blocks, exif, noise, opened, saved


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_a_truncated_file_is_an_image_error_that_names_the_file(tmp_path: Path, kind: str, kept: float) -> None:
    data = saved(noise(40, 50), kind)
    (path := tmp_path / "half.bin").write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ImageError, match=r"half\.bin"):
        load_image(path)


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "GIF", "TIFF", "BMP", "PPM", "TGA", "PCX", "SGI"])
def test_a_program_that_lets_pillow_fill_up_truncated_files_gets_the_error_too(monkeypatch, kind: str) -> None:
    whole = saved(noise(120, 150), kind)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert load_image(whole).shape == (120, 150, 3)
    for kept in (0.3, 0.6, 0.95):
        half = whole[: int(len(whole) * kept)]
        with pytest.raises(ImageError):
            load_image(half)
        with pytest.raises(ImageError):
            load_image(Image.open(io.BytesIO(half)))
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_threads_that_decode_at_once_restore_the_setting_of_the_program(monkeypatch) -> None:
    files = [saved(noise(40 + number, 50), "JPEG") for number in range(8)]
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with ThreadPoolExecutor(8) as pool:
        for file in files * 10:
            pool.submit(load_image, file)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"just words, and not an image", b"<svg/>", b"\xff\xd8", b"\x89PNG\r\n\x1a\n"]
)
def test_bytes_that_are_not_an_image_are_an_image_error(tmp_path: Path, data: bytes) -> None:
    (path := tmp_path / "no.png").write_bytes(data)
    with pytest.raises(ImageError, match=f"image of {len(data)} bytes"):
        load_image(data)
    with pytest.raises(ImageError, match=r"no\.png"):
        load_image(path)


def test_postscript_is_refused_and_no_program_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("Ghostscript was started"))
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    with pytest.raises(ImageError, match=r"PostScript.*convert it to PNG"):
        load_image(saved(noise(40, 50), "EPS"))


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
