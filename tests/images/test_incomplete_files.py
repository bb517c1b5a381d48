"""Files that are cut and closed again, in which Pillow fills the missing pixels: JPEG, and icons that hold a PNG."""

import io
import itertools
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sspsam.errors import ImageError
from sspsam.images import load_image

END = b"\xff\xd9"
VARIANTS = list(itertools.product(["RGB", "L", "CMYK"], [False, True], [0, 2], [0, 5]))


def scene(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth colors with noise, as a photograph has them in every block."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(float)
    return Image.fromarray(np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8))


def jpeg(image: Image.Image, mode: str, progressive: bool, subsampling: int, restarts: int, quality: int = 85) -> bytes:
    buffer = io.BytesIO()
    options = {"restart_marker_blocks": restarts} if restarts else {}
    image.convert(mode).save(
        buffer,
        "JPEG",
        quality=quality,
        progressive=progressive,
        subsampling=subsampling if mode == "RGB" else 0,
        **options,
    )
    return buffer.getvalue()


@pytest.mark.parametrize(("mode", "progressive", "subsampling", "restarts"), VARIANTS)
def test_a_jpeg_that_is_cut_and_closed_again_is_refused(
    mode: str, progressive: bool, subsampling: int, restarts: int
) -> None:
    """Also where a side is one pixel longer than whole blocks, and where a restart marker stands at the cut."""
    data = jpeg(scene(97, 129), mode, progressive, subsampling, restarts)
    load_image(data)
    start = data.index(b"\xff\xda") + 14
    accepted = 0
    for part in np.linspace(0.1, 0.9, 9):
        cut = data[: start + int((len(data) - start) * part)] + END
        for image in (cut, Image.open(io.BytesIO(cut + b"trailing bytes"))):
            try:
                load_image(image)
                accepted += 1
            except ImageError:
                pass
    assert accepted <= 2 * progressive  # a progressive file that is cut between two scans is whole, with less detail


@pytest.mark.parametrize(("mode", "progressive", "subsampling", "restarts"), VARIANTS)
@pytest.mark.parametrize("kind", ["scene", "grey", "grey corner"])
def test_a_whole_jpeg_is_never_refused(
    mode: str, progressive: bool, subsampling: int, restarts: int, kind: str
) -> None:
    for height, width in ((1, 1), (8, 8), (17, 33), (97, 129)):
        image = scene(height, width) if kind != "grey" else Image.new("RGB", (width, height), (128, 128, 128))
        if kind == "grey corner":
            image.paste((128, 128, 128), (width // 2, height // 2, width, height))
        data = jpeg(image, mode, progressive, subsampling, restarts)
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        for end in (b"", b"\0" * 40, b"\xff\xd8\xff\xe0" * 9, data):
            assert np.array_equal(load_image(data + end), expected)
        assert np.array_equal(load_image(data[:-2] + b"\xff\xff" + END), expected)  # fill bytes before the end marker


def test_a_jpeg_that_lost_its_last_bits_is_still_decoded() -> None:
    data = jpeg(scene(97, 129), "RGB", False, 2, 0)
    assert load_image(data[:-3] + END).shape == (97, 129, 3)


def test_a_jpeg_that_pillow_shrinks_while_decoding_is_not_refused() -> None:
    image = Image.open(io.BytesIO(jpeg(scene(97, 129), "RGB", True, 2, 0)))
    image.draft("RGB", (32, 24))
    assert load_image(image).shape[1] < 129


@pytest.mark.parametrize("progressive", [False, True])
def test_a_multi_picture_file_is_checked_as_its_first_image(tmp_path: Path, progressive: bool) -> None:
    path = tmp_path / "a.mpo"
    scene(97, 129).save(
        path, "MPO", save_all=True, append_images=[scene(97, 129, 1)], quality=85, progressive=progressive
    )
    data = path.read_bytes()
    assert np.array_equal(load_image(data), np.asarray(Image.open(path)))
    start, stop = data.index(b"\xff\xda") + 14, data.index(END + b"\xff\xd8")
    cut = (start + stop) // 2
    with pytest.raises(ImageError, match="truncated"):
        load_image(data[:cut] + END + data[stop + 2 :])


def short(data: bytes) -> bytes:
    """The PNG files in an icon, each with half of its rows; lengths and offsets stay as they are."""
    result = bytearray(data)
    position = 0
    while (found := data.find(b"\x89PNG\r\n\x1a\n", position)) >= 0:
        start = data.index(b"IDAT", found)
        stop = data.index(b"IEND", found)
        lengths, at, stream = [], start, b""
        while data[at : at + 4] == b"IDAT":
            [length] = struct.unpack(">I", data[at - 4 : at])
            lengths.append(length)
            stream += data[at + 4 : at + 4 + length]
            at += 12 + length
        rows = zlib.decompress(stream)
        kept = zlib.compress(rows[: len(rows) // 2])
        chunk = struct.pack(">I", len(kept)) + b"IDAT" + kept + struct.pack(">I", zlib.crc32(b"IDAT" + kept))
        space = stop - 4 - (start - 4)
        filling = space - len(chunk) - 12
        text = b"tEXt" + b"k\0" + b"v" * (filling - 2)
        chunk += struct.pack(">I", filling) + text + struct.pack(">I", zlib.crc32(text))
        result[start - 4 : stop - 4] = chunk
        position = stop
    assert len(result) == len(data)
    return bytes(result)


def icns(kind: bytes, content: bytes) -> bytes:
    """A macOS icon with one block."""
    block = kind + struct.pack(">I", len(content) + 8) + content
    return b"icns" + struct.pack(">I", len(block) + 8) + block


@pytest.mark.parametrize("kind", ["ICO", "ICNS"])
def test_a_short_png_inside_an_icon_is_refused_like_a_short_png(kind: str) -> None:
    buffer = io.BytesIO()
    if kind == "ICO":
        scene(128, 128).save(buffer, "ICO", sizes=[(64, 64), (128, 128)])
        data = buffer.getvalue()
    else:
        scene(128, 128).save(buffer, "PNG")
        data = icns(b"ic07", buffer.getvalue())
    assert load_image(data).shape == (128, 128, 3)
    with pytest.raises(ImageError, match="truncated"):
        load_image(short(data))


def test_a_short_png_of_another_size_inside_an_icon_costs_nothing() -> None:
    buffer = io.BytesIO()
    scene(128, 128).save(buffer, "ICO", sizes=[(64, 64), (128, 128)])
    data = buffer.getvalue()
    large = data.rindex(b"\x89PNG")
    first_is_large = struct.unpack(">I", data[data.index(b"IHDR") + 4 :][:4])[0] == 128
    assert not first_is_large
    damaged = short(data[:large]) + data[large:]
    assert np.array_equal(load_image(damaged), load_image(data))


def test_a_cut_jpeg_2000_inside_an_icon_is_refused() -> None:
    buffer = io.BytesIO()
    scene(256, 256).save(buffer, "JPEG2000")
    for keep in (1.0, 0.6):
        content = buffer.getvalue()[: int(len(buffer.getvalue()) * keep)]
        data = icns(b"ic08", content)
        if keep == 1.0:
            assert load_image(data).shape == (256, 256, 3)
        else:
            with pytest.raises(ImageError):
                load_image(data)
