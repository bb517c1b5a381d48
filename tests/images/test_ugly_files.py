"""Image files as programs really write them: grey levels by their tags, damaged metadata, missing pixels."""

import gzip
import io
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence, PngImagePlugin

from sspsam.errors import ImageError, ImageTypeError
from sspsam.images import load_image
from tests.support.images import chunk

GRADIENT = np.linspace(0, 1, 40 * 30).reshape(30, 40)
GREY = np.rint(GRADIENT * 255).astype(np.uint8)


def tiff(tags: dict[int, tuple[str, tuple[int, ...]]], data: bytes, next_directory: int = 0) -> bytes:
    """A little-endian TIFF of one strip; `tags` are number -> (kind "H" or "L", values)."""
    entries = {**tags, 273: ("L", (8,)), 279: ("L", (len(data),))}
    directory = struct.pack("<H", len(entries))
    offset_of_directory = 8 + len(data)
    extra = b""
    extra_at = offset_of_directory + 2 + 12 * len(entries) + 4
    for number, (kind, values) in sorted(entries.items()):
        packed = struct.pack(f"<{len(values)}{kind}", *values)
        if len(packed) > 4:
            packed, extra = struct.pack("<L", extra_at + len(extra)), extra + packed
        directory += struct.pack("<HHL", number, {"H": 3, "L": 4}[kind], len(values)) + packed.ljust(4, b"\0")
    return (
        b"II*\0" + struct.pack("<L", offset_of_directory) + data + directory + struct.pack("<L", next_directory) + extra
    )


def grey_tiff(values: np.ndarray, bits: int, photometric: int = 1, sample_format: int = 1, **kwargs: int) -> bytes:
    data = values.tobytes()
    if bits == 12:
        pairs = values.astype(np.uint32).reshape(-1, 2)
        data = (
            np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=1)
            .astype(np.uint8)
            .tobytes()
        )
    height, width = values.shape
    one = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 277: 1, 278: height, 339: sample_format}
    return tiff({number: ("H", (value,)) for number, value in one.items()}, data, **kwargs)


def png(rows: bytes, header: tuple[int, int, int, int], extra: bytes = b"") -> bytes:
    """A PNG of width, height, depth and colour type with the given raw rows, each with its filter byte."""
    ihdr = struct.pack(">IIBBBBB", *header, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def test_a_12_bit_tiff_is_scaled_by_its_own_range() -> None:
    pixels = load_image(grey_tiff(np.rint(GRADIENT * 4095).astype(np.uint16), 12))
    assert np.abs(pixels[..., 0].astype(int) - GREY).max() <= 1
    assert pixels[-1, -1, 0] == 255


def test_16_bit_white_is_zero_is_inverted_like_8_bit() -> None:
    wide = load_image(grey_tiff(np.rint((1 - GRADIENT) * 65535).astype("<u2"), 16, photometric=0))
    narrow = load_image(grey_tiff(255 - GREY, 8, photometric=0))
    assert np.abs(wide.astype(int) - narrow).max() <= 1
    assert np.abs(wide[..., 0].astype(int) - GREY).max() <= 1


def test_a_float_tiff_with_white_is_zero_is_inverted() -> None:
    pixels = load_image(grey_tiff((1 - GRADIENT).astype("<f4"), 32, photometric=0, sample_format=3))
    assert np.abs(pixels[..., 0].astype(int) - GREY).max() <= 1


def test_signed_levels_are_scaled_by_their_range_and_negative_ones_are_refused() -> None:
    pixels = load_image(grey_tiff(np.rint(GRADIENT * 32767).astype("<i2"), 16, sample_format=2))
    assert np.abs(pixels[..., 0].astype(int) - GREY).max() <= 1
    with pytest.raises(ImageError, match="would be a guess"):
        load_image(grey_tiff(np.full((30, 40), -5, "<i2"), 16, sample_format=2))
    with pytest.raises(ImageError, match="negative"):
        load_image(grey_tiff(np.full((30, 40), -5, np.int8), 8, sample_format=2))


def test_significant_bits_of_a_png_scale_what_is_not_scaled_already() -> None:
    sbit = chunk(b"sBIT", bytes([12]))
    for maximum in (4095, 65535):  # raw levels, and levels that the writer scaled to the container, as the format asks
        values = np.rint(GRADIENT * maximum).astype(">u2")
        rows = b"".join(b"\0" + row.tobytes() for row in values)
        pixels = load_image(png(rows, (40, 30, 16, 0), sbit))
        assert np.abs(pixels[..., 0].astype(int) - GREY).max() <= 1


def test_a_fourth_band_that_is_not_called_alpha_is_no_transparency() -> None:
    bands = np.stack([GREY, 255 - GREY, GREY, np.zeros_like(GREY)], axis=-1)
    tags = {256: 40, 257: 30, 259: 1, 262: 2, 277: 4, 278: 30}
    base = {number: ("H", (value,)) for number, value in tags.items()} | {258: ("H", (8, 8, 8, 8))}
    assert np.array_equal(load_image(tiff(base, bands.tobytes())), bands[..., :3])
    transparent = load_image(tiff({**base, 338: ("H", (2,))}, bands.tobytes()))  # unassociated alpha of 0
    assert (transparent == 255).all()


def test_a_garbage_offset_of_the_next_directory_costs_nothing() -> None:
    assert np.array_equal(load_image(grey_tiff(GREY, 8, next_directory=0x7FFFFFF0))[..., 0], GREY)
    assert np.array_equal(load_image(grey_tiff(GREY, 8, next_directory=3))[..., 0], GREY)


@pytest.mark.parametrize("kind", ["text", "compressed text", "many texts", "profile", "bad checksum"])
def test_metadata_of_any_size_does_not_cost_the_pixels_of_a_png(kind: str) -> None:
    megabytes = b"a" * (3 << 20)
    compressed = zlib.compress(b"a" * (70 << 20))
    extra = {
        "text": chunk(b"tEXt", b"parameters\0" + megabytes),
        "compressed text": chunk(b"zTXt", b"parameters\0\0" + compressed),
        "many texts": b"".join(chunk(b"tEXt", b"k%d\0" % i + b"a" * 900_000) for i in range(80)),
        "profile": chunk(b"iCCP", b"icc\0\0" + compressed),
        "bad checksum": chunk(b"tEXt", b"k\0v")[:-1] + b"?",
    }[kind]
    rows = b"".join(b"\0" + row.tobytes() for row in GREY)
    before = PngImagePlugin.MAX_TEXT_CHUNK
    assert np.array_equal(load_image(png(rows, (40, 30, 8, 0), extra))[..., 0], GREY)
    assert before == PngImagePlugin.MAX_TEXT_CHUNK


@pytest.mark.parametrize(
    "payload", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"]
)
@pytest.mark.parametrize("marker", [0xE1, 0xE2, 0xED, 0xFE])
def test_broken_segments_of_a_jpeg_and_trailing_bytes_cost_nothing(payload: bytes, marker: int) -> None:
    buffer = io.BytesIO()
    Image.fromarray(GREY).save(buffer, "JPEG", quality=95)
    data = buffer.getvalue()
    segment = bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload
    damaged = data[:2] + segment + data[2:] + b"trailing bytes" * 100
    assert np.array_equal(load_image(damaged), load_image(data))


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB", "P", "RGBA", "1"])
def test_a_png_whose_stream_is_complete_but_short_is_refused(mode: str, interlaced: bool) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.maximum(GREY, 1)).convert(mode).save(buffer, "PNG", interlace=int(interlaced))
    data = buffer.getvalue()
    load_image(data)
    start = data.index(b"IDAT")
    length = struct.unpack(">I", data[start - 4 : start])[0]
    rows = zlib.decompress(data[start + 4 : start + 4 + length])
    for kept in (0.5, 0.97):
        short = rows[: int(len(rows) * kept)]
        with pytest.raises(ImageError, match="truncated"):
            load_image(data[: start - 4] + chunk(b"IDAT", zlib.compress(short)) + chunk(b"IEND", b""))


def test_a_png_that_is_black_at_its_end_is_whole() -> None:
    black = np.zeros((50, 60, 3), np.uint8)
    black[:10] = 200
    buffer = io.BytesIO()
    Image.fromarray(black).save(buffer, "PNG")
    assert np.array_equal(load_image(buffer.getvalue()), black)


@pytest.mark.parametrize("suffix", ["jp2", "j2k"])
def test_a_jpeg_2000_cut_anywhere_is_refused_or_the_same(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (24, 31, 3), np.uint8)).save(path)
    data = path.read_bytes()
    whole = load_image(data)
    assert np.array_equal(load_image(data + b"trailing"), whole)
    for length in range(60, len(data)):
        try:
            pixels = load_image(data[:length])
        except ImageError:
            continue
        assert np.array_equal(pixels, whole), f"cut at {length} of {len(data)}"


def frames(count: int) -> Image.Image:
    buffer = io.BytesIO()
    images = [Image.fromarray(np.full((20, 30, 3), 25 * number + 10, np.uint8)) for number in range(count)]
    images[0].save(buffer, "TIFF", save_all=True, append_images=images[1:])
    return Image.open(io.BytesIO(buffer.getvalue()))


@pytest.mark.filterwarnings("ignore:.*frames:UserWarning")
def test_an_image_of_the_caller_stays_on_its_frame() -> None:
    image = frames(4)
    for number in (2, 0, 3):
        image.seek(number)
        assert (load_image(image) == 25 * number + 10).all()
        assert image.tell() == number
    for number, frame in enumerate(ImageSequence.Iterator(image)):
        assert (load_image(frame) == 25 * number + 10).all()


def test_threads_may_share_one_lazy_image() -> None:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (400, 500, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    for _ in range(5):
        image = Image.open(io.BytesIO(buffer.getvalue()))
        results: list[object] = []

        def load(image: Image.Image = image, results: list[object] = results) -> None:
            try:
                results.append(load_image(image))
            except Exception as error:
                results.append(error)

        threads = [threading.Thread(target=load) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(np.array_equal(result, pixels) for result in results), results


@pytest.mark.parametrize("nothing", [None, np.array(None), np.array([None], dtype=object)])
def test_none_is_an_error_that_names_the_failed_read(nothing: object) -> None:
    with pytest.raises(ImageTypeError, match=r"None.*cv2.imread") as caught:
        load_image(nothing)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS"),
        (b"\n<!DOCTYPE html><html>", "HTML"),
        (b"<html><body>403</body></html>", "HTML"),
        (b"", "empty"),
        (b"\n \n", "only blanks"),
        (b"/annex/objects/SHA256E-s1--a.jpg\n", "git-annex"),
        (b'{"error": "not found"}', 'JSON document.*"error": "not found"'),
        (b"Entry not found", "text.*: Entry not found"),
        (b"\xef\xbb\xbf\n<!-- page --><HTML>", "HTML"),
        (gzip.compress(b"<html>", mtime=0), "gzip, and unpacked it is an HTML"),
    ],
)
def test_files_in_the_place_of_an_image_are_called_by_their_kind(content: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        load_image(content)


@pytest.mark.parametrize("limit", [None, float("nan"), 0, -3, "many", 2.5, True])
def test_a_limit_that_is_no_number_of_pixels_is_named_before_the_image_is_read(limit: object) -> None:
    with pytest.raises(ValueError, match="max_pixels"):
        load_image(b"not an image", limit)


def test_a_limit_may_be_a_number_of_numpy() -> None:
    assert load_image(GREY, np.int64(1200)).shape == (30, 40, 3)


def test_an_image_that_the_caller_opened_is_checked_like_its_file(tmp_path: Path) -> None:
    values = np.rint(GRADIENT * 4095).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    data = png(rows, (40, 30, 16, 0), chunk(b"sBIT", bytes([12])))
    assert np.array_equal(load_image(Image.open(io.BytesIO(data))), load_image(data))
    with pytest.raises(ImageError, match="truncated"):
        load_image(Image.open(io.BytesIO(png(rows[: len(rows) // 2], (40, 30, 16, 0)))))


def test_a_short_stream_is_found_in_animations_and_behind_interlacing() -> None:
    rows = b"".join(b"\0" + row.tobytes() for row in np.maximum(GREY, 1))
    animated = chunk(b"acTL", struct.pack(">II", 1, 0))
    load_image(png(rows, (40, 30, 8, 0), animated))
    with pytest.raises(ImageError, match="truncated"):
        load_image(png(rows[: len(rows) // 2], (40, 30, 8, 0), animated))


def test_transparency_that_the_caller_adds_to_a_tiff_stays_transparency() -> None:
    tags = {256: 40, 257: 30, 259: 1, 262: 2, 277: 3, 278: 30}
    base = {number: ("H", (value,)) for number, value in tags.items()} | {258: ("H", (8, 8, 8))}
    image = Image.open(io.BytesIO(tiff(base, np.stack([GREY] * 3, axis=-1).tobytes())))
    image.putalpha(0)
    assert (load_image(image) == 255).all()


@pytest.mark.parametrize("depth", [2, 4])
def test_the_transparent_level_of_a_narrow_png_is_scaled_with_the_others(depth: int) -> None:
    rows = (b"\0" + b"\x55" * (8 * depth // 8)) * 8  # all levels 1 at depth 2, 5 at depth 4
    level = 1 if depth == 2 else 5
    opaque = load_image(png(rows, (8, 8, depth, 0)))
    assert (opaque == level * 255 // ((1 << depth) - 1)).all()
    assert (load_image(png(rows, (8, 8, depth, 0), chunk(b"tRNS", struct.pack(">H", level)))) == 255).all()


@pytest.mark.parametrize("content", [b"<?xml version='1.0'?><Error/>", b'{"error": "not found"}'])
def test_documents_in_the_place_of_an_image_are_called_so(content: bytes) -> None:
    with pytest.raises(ImageError, match="document"):
        load_image(content)


@pytest.mark.parametrize("tag", [270, 271, 282, 306, 700])
@pytest.mark.parametrize("sample_format", [1, 2])
def test_a_tag_whose_value_lies_outside_of_the_file_costs_neither_pixels_nor_other_tags(
    tag: int, sample_format: int
) -> None:
    white = 65535 if sample_format == 1 else 32767
    values = np.rint(GRADIENT * white).astype("<u2")
    whole = grey_tiff(values, 16, sample_format=sample_format)
    expected = load_image(whole)
    assert np.abs(expected[..., 0].astype(int) - GREY).max() <= 1
    one = {256: 40, 257: 30, 258: 16, 259: 1, 262: 1, 277: 1, 278: 30, 339: sample_format}
    entries = {number: ("H", (value,)) for number, value in one.items()} | {tag: ("L", (1, 2, 3))}
    data = bytearray(tiff(entries, values.tobytes()))
    entry = data.index(struct.pack("<HHL", tag, 4, 3))
    data[entry + 8 : entry + 12] = struct.pack("<L", 0x7FFFFF00)
    assert np.array_equal(load_image(bytes(data)), expected)


def test_a_tiff_with_xmp_as_text_is_decoded() -> None:
    one = {256: 40, 257: 30, 258: 8, 259: 1, 262: 1, 277: 1, 278: 30}
    data = bytearray(tiff({number: ("H", (v,)) for number, v in one.items()} | {700: ("L", (1, 2, 3))}, GREY.tobytes()))
    entry = data.index(struct.pack("<HHL", 700, 4, 3))
    data[entry : entry + 8] = struct.pack("<HHL", 700, 2, 12)  # ASCII
    assert np.array_equal(load_image(bytes(data))[..., 0], GREY)


@pytest.mark.parametrize("segment", [b"\xff\xe0\0\x07JFIF\0", b"\xff\xee\0\x07Adobe"])
def test_a_short_colour_segment_of_a_jpeg_costs_nothing(segment: bytes) -> None:
    buffer = io.BytesIO()
    Image.fromarray(GREY).save(buffer, "JPEG", quality=95)
    data = buffer.getvalue()
    assert np.array_equal(load_image(data[:2] + segment + data[2:]), load_image(data))
