"""One's own data as JSON lines: masks as files, run lengths and polygons, compared with masks drawn by NumPy."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sspsam.errors import DatasetError, DatasetMissingError, MissingExtraError
from sspsam.evaluation.datasets.entries import read_dataset
from sspsam.evaluation.datasets.entry import Entry
from sspsam.segmentation.rle import rle_encode

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools

RECTANGLE = np.zeros((20, 30), np.bool_)
RECTANGLE[3:9, 5:12] = True
EMPTY = np.zeros_like(RECTANGLE)
RUNS = [5 * 20 + 3, *([6, 14] * 6), 6, 11 + 18 * 20]  # column by column
POLYGON = [5, 3, 12, 3, 12, 9, 5, 9]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An image and the mask of a rectangle in it."""
    Image.new("RGB", (30, 20)).save(tmp_path / "image.jpg")
    Image.fromarray(RECTANGLE).save(tmp_path / "mask.png")
    return tmp_path


def read(folder: Path, *lines: Any, **options: Any) -> list[Entry]:
    texts = [
        line if isinstance(line, str) else json.dumps({"image": "image.jpg", "text": "x", **line}) for line in lines
    ]
    (folder / "val.jsonl").write_text("\n".join(texts) + "\n")
    return read_dataset("jsonl", "val", data_root=folder, **options)


@pytest.mark.parametrize(
    "annotation",
    [
        {"mask": "mask.png"},
        {"rle": rle_encode(RECTANGLE)},
        {"rle": {"size": [20, 30], "counts": RUNS}},
        {"polygons": [POLYGON]},
        {"polygons": [[[5, 3], [12, 3], [12, 9], [5, 9]]]},
        {"polygons": [[5, 3, 8, 3, 8, 9, 5, 9], [7, 3, 12, 3, 12, 9, 7, 9]], "mask": None},
    ],
)
def test_every_kind_of_mask_gives_the_same_entry(folder: Path, annotation: dict[str, Any]) -> None:
    (entry,) = read(folder, annotation)
    assert entry == Entry(folder / "image.jpg", "image.jpg", (20, 30), "x", False, (5, 3, 12, 9), "1")
    assert np.array_equal(entry.mask(), RECTANGLE)


@pytest.mark.parametrize("mode", ["1", "L", "I;16", "P"])
@pytest.mark.parametrize("value", [1, 255])
def test_every_value_but_0_is_target_in_grey_masks_of_every_mode(folder: Path, mode: str, value: int) -> None:
    values = {"1": RECTANGLE, "I;16": RECTANGLE * np.uint16(256 * value)}.get(mode, RECTANGLE * np.uint8(value))
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette([0, 0, 0] * 256)
    image.save(folder / "mask.png")
    with Image.open(folder / "mask.png") as saved:
        assert saved.mode == mode
    assert np.array_equal(read(folder, {"mask": "mask.png"})[0].mask(), RECTANGLE)


@pytest.mark.parametrize(
    "annotation", [{"mask": None}, {"rle": None}, {"polygons": None}, {"rle": rle_encode(EMPTY)}, {"mask": "empty.png"}]
)
def test_null_and_empty_masks_mean_that_there_is_no_target(folder: Path, annotation: dict[str, Any]) -> None:
    Image.fromarray(EMPTY).save(folder / "empty.png")
    (entry,) = read(folder, annotation)
    assert (entry.no_target, entry.box, entry.size) == (True, None, (20, 30))
    assert not entry.mask().any()


def test_ids_name_entries_and_blank_lines_count_as_lines(folder: Path) -> None:
    line = json.dumps({"image": "image.jpg", "text": " café ", "mask": None})
    found = read(folder, {"mask": None, "id": "a"}, "", line, {"mask": None, "id": "a"}, {"mask": None, "id": 7})
    assert [entry.key for entry in found] == ["a", "3", "a#2", "7"]
    assert found[1].text == " café "


def test_a_box_of_the_line_is_kept(folder: Path) -> None:
    assert read(folder, {"mask": "mask.png", "box": [1, 2, 3.5, 4]})[0].box == (1, 2, 3.5, 4)


def test_the_size_is_that_of_the_upright_image(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(folder / "turned.jpg", exif=exif)
    assert read(folder, {"image": "turned.jpg", "polygons": [POLYGON]})[0].size == (30, 20)


def test_images_are_below_the_image_root_and_masks_beside_the_file(folder: Path) -> None:
    (folder / "images").mkdir()
    (folder / "image.jpg").rename(folder / "images" / "image.jpg")
    assert read(folder, {"mask": "mask.png"}, image_root=folder / "images")[0].image == folder / "images" / "image.jpg"


@pytest.mark.parametrize("place", [".", "images", "jsonl", "jsonl/images"])
def test_images_are_beside_the_file_or_in_a_usual_place(folder: Path, place: str) -> None:
    (folder / place).mkdir(parents=True, exist_ok=True)
    (folder / "jsonl").mkdir(exist_ok=True)
    (folder / "image.jpg").rename(folder / place / "image.jpg")
    (folder / "jsonl" / "val.jsonl").write_text(json.dumps({"image": "image.jpg", "text": "x", "mask": None}))
    assert read_dataset("jsonl", "val", data_root=folder)[0].image == folder / place / "image.jpg"


def test_masks_are_enough_where_the_image_is_not_there(folder: Path) -> None:
    for annotation in ({"mask": "mask.png"}, {"rle": rle_encode(RECTANGLE)}):
        (entry,) = read(folder, {"image": "absent.jpg", **annotation})
        assert entry.size == (20, 30)
        assert np.array_equal(entry.mask(), RECTANGLE)
    for annotation in ({"mask": None}, {"polygons": [POLYGON]}):
        with pytest.raises(DatasetMissingError, match=r"line 1 refers to .*absent\.jpg, which does not exist"):
            read(folder, {"image": "absent.jpg", **annotation})


def test_the_data_root_may_be_the_file_itself(folder: Path) -> None:
    expected = read(folder, {"mask": "mask.png"})
    assert read_dataset("jsonl", "any", data_root=folder / "val.jsonl") == expected
    with pytest.raises(DatasetMissingError, match=r"test\.jsonl"):
        read_dataset("jsonl", "test", data_root=folder)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1 is not valid JSON"),
        (
            '{"image": "a.png", "text": "x", "mask": "m.png", "mask": null}',
            "line 1 is not valid JSON: the entry 'mask' occurs twice",
        ),
        ("[1]", "line 1 must be an object, not list"),
        ({"image": 3, "mask": None}, "line 1: 'image' must be a string"),
        ({"text": "  ", "mask": None}, "line 1: 'image' and 'text' must not be empty"),
        ({}, "line 1 lacks one of 'mask', 'rle' and 'polygons'"),
        ({"mask": "mask.png", "rle": rle_encode(EMPTY)}, "line 1 must have only one of 'mask' and 'rle'"),
        ({"mask": "absent.png"}, r"line 1: the mask .*absent\.png cannot be read"),
        ({"mask": "image.jpg"}, r"line 1: the mask .*image\.jpg must be a grey image, not RGB"),
        ({"mask": "small.png"}, r"line 1: the mask .*small\.png is of size \[5, 4\], but the image of size \[20, 30\]"),
        ({"rle": {"size": [30, 20], "counts": "0"}}, r"line 1: 'rle', part 0 is of size \[30, 20\]"),
        ({"rle": {"size": [20, 30], "counts": "0"}}, "line 1: the segmentation cannot be decoded"),
        ({"rle": [3]}, "line 1: 'rle' must be an object"),
        ({"polygons": []}, "line 1: 'polygons' is empty"),
        ({"polygons": [[1, 2, 3, 4]]}, "line 1: 'polygons', part 0 must have at least 3 corners"),
        ({"polygons": [[1, 2, 3, 4, 5, None]]}, "line 1: 'polygons', part 0 must be a finite number"),
        ({"mask": "mask.png", "box": [1, 2]}, "line 1: 'box' must have 4 numbers"),
        ({"mask": "mask.png", "box": [5, 5, 1, 1]}, "line 1: 'box' must be x0, y0, x1, y1, not"),
        ({"mask": "mask.png", "box": [0, 0, 1e300, 1]}, "line 1: 'box' has the coordinate 1e[+]300"),
    ],
)
def test_malformed_lines_name_file_and_line(folder: Path, line: Any, message: str) -> None:
    Image.new("L", (4, 5)).save(folder / "small.png")
    with pytest.raises(DatasetError, match=rf"val\.jsonl, {message}"):
        read(folder, line)


def test_only_polygons_and_run_lengths_need_pycocotools(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    assert np.array_equal(read(folder, {"mask": "mask.png"})[0].mask(), RECTANGLE)
    with pytest.raises(MissingExtraError, match=r"sspsam\[eval\]"):
        read(folder, {"polygons": [POLYGON]})
