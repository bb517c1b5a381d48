"""YOLO files give the masks again to programs that fill outlines by other rules."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sspsam.segmentation import to_yolo
from sspsam.segmentation.exports.yolo import joined_ring
from tests.support.answers import answer, iou
from tests.support.filling import filled_by_labelme
from tests.support.masks import Mask, two_mugs


def filled_with_outline(ring: NDArray[np.float64], height: int, width: int) -> Mask:
    """Fill an outline of whole numbers with the pixels on it, slowly: a second implementation of OpenCV's way."""
    mask = np.zeros((height, width), dtype=bool)
    y, x = np.mgrid[0:height, 0:width].astype(float)
    for first, second in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        line = np.linspace(first, second, int(np.abs(second - first).max()) + 1)
        columns, rows = np.rint(line).astype(int).T
        mask[rows, columns] = True
    inside = np.zeros_like(mask)
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        if y0 != y1:
            inside ^= (y >= min(y0, y1)) & (y < max(y0, y1)) & (x > x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return mask | inside


def yolo_polygons(text: str, height: int, width: int) -> list[list[float]]:
    rows = [[float(value) for value in line.split()[1:]] for line in text.splitlines()]
    return [[value * (height if place % 2 else width) for place, value in enumerate(row)] for row in rows]


@pytest.mark.parametrize("whole_numbers", [np.round, np.trunc])  # supervision's way, and that of Ultralytics
def test_yolo_files_give_the_masks_again_to_programs_that_fill_the_outline_too(masks, images, whole_numbers) -> None:
    files = to_yolo(images)
    assert len(files) == len(masks) + 1
    for name, mask in masks.items():
        height, width = mask.shape
        polygons = yolo_polygons(files[f"labels/{Path(name).with_suffix('.txt')}"], height, width)
        assert len(polygons) == len(answer(mask).components())
        if name.startswith("drawn/") and not name.endswith("7.jpg"):  # the second implementation is slow
            continue
        read = np.zeros_like(mask)
        for polygon in polygons:
            assert len(polygon) >= 6
            read |= filled_with_outline(whole_numbers(np.reshape(polygon, (-1, 2))), height, width)
        assert iou(read, mask) >= 0.99, name


def test_corners_of_yolo_files_stay_in_their_pixels_in_wide_images_read_as_float32() -> None:
    size = 10_007
    mask = np.zeros((3, size), dtype=bool)
    mask[1, ::33] = True
    text = to_yolo({"a.jpg": answer(mask)}, instances=True)["labels/a.txt"]
    values = np.array([line.split()[1:] for line in text.splitlines()], dtype=np.float32)
    columns = values[:, ::2] * np.float32(size)
    for whole_numbers in (np.round, np.trunc):
        assert sorted(whole_numbers(columns).max(axis=1)) == list(range(0, size, 33))


def test_a_yolo_row_of_a_whole_mask_has_all_parts_and_lines_between_them(masks, images) -> None:
    files = to_yolo(images, instances=False)
    several = 0
    for name, mask in masks.items():
        rows = yolo_polygons(files[f"labels/{Path(name).with_suffix('.txt')}"], *mask.shape)
        assert len(rows) == mask.any()
        parts = len(answer(mask).components())
        if rows and parts < 20:
            read = filled_with_outline(np.trunc(np.reshape(rows[0], (-1, 2))), *mask.shape)
            assert np.count_nonzero(mask & ~read) <= 0.01 * mask.sum(), name
            several += parts > 1
            # at most as many pixels more as a line for each further part may have
            allowed = 0.01 * mask.sum() + (parts - 1) * max(mask.shape)
            assert np.count_nonzero(read & ~mask) <= allowed, name
    assert several >= 5


def test_data_file_of_yolo_is_yaml_whatever_the_categories_are() -> None:
    yaml = pytest.importorskip("yaml")
    names = ["the mug", 'a "b"', "c: d # e", "back\\slash", "naïve 🦊", "line\nbreak\x85\u2028\x7f", "null", ""]
    names[-1] = "7"
    images = {f"{number}.jpg": answer(two_mugs(), name) for number, name in enumerate(names)}
    data = yaml.safe_load(to_yolo(images)["data.yaml"])
    assert data == {"train": "images", "val": "images", "nc": len(names), "names": dict(enumerate(names))}
    assert yaml.safe_load(to_yolo({})["data.yaml"])["names"] == {}


def test_an_image_without_a_target_is_a_background_image_of_yolo() -> None:
    files = to_yolo({"a.jpg": answer(two_mugs() & False), "sub/b.jpg": answer(two_mugs())})
    assert files["labels/a.txt"] == ""
    assert len(files["labels/sub/b.txt"].splitlines()) == 2


def test_two_images_that_would_share_a_yolo_file_are_named() -> None:
    with pytest.raises(ValueError, match=r"a.jpg and a.png would share the YOLO file labels/a.txt"):
        to_yolo({"a.jpg": answer(two_mugs()), "a.png": answer(two_mugs())})
    for name in ("/abs/a.jpg", "../a.jpg", ""):
        with pytest.raises(ValueError, match="relative to the folder"):
            to_yolo({name: answer(two_mugs())})


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_hundred_thousand_parts_are_joined_in_time_that_is_not_quadratic() -> None:
    y, x = np.random.default_rng(0).permutation(np.argwhere(np.ones((316, 316), bool)))[:, :, None].swapaxes(0, 1) * 10
    rings = np.concatenate([x, y, x + 3, y, x + 3, y + 3, x, y + 3], axis=1).reshape(-1, 4, 2).astype(float)
    joined = joined_ring(list(rings))
    assert len(joined) == len(rings) * 6 - 2


def test_a_mask_of_thousands_of_parts_is_one_yolo_row_with_short_bridges() -> None:
    mask = np.zeros((600, 600), dtype=bool)
    for row in range(3):
        for column in range(3):
            mask[row::10, column::10] = True  # 3,600 squares
    ring = np.reshape(
        yolo_polygons(to_yolo({"a.jpg": answer(mask)}, instances=False)["labels/a.txt"], 600, 600), (-1, 2)
    )
    assert not (mask & ~filled_by_labelme([ring.ravel().tolist()], 600, 600)).any()
    lengths = np.hypot(*(np.roll(ring, -1, axis=0) - ring).T)
    assert lengths.sum() / 3600 < 12 + 2 * 40  # the outline of each square, and both ways of its bridge
