"""Polygons and components, compared with pycocotools, with Pillow, with areas, and with a search pixel by pixel."""

from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools import mask as coco

from sspsam import Segmentation
from sspsam.errors import OutOfMemoryError
from sspsam.segmentation import mask_to_polygons, polygons_to_mask
from sspsam.segmentation.polygons import Polygon
from tests.support.masks import Mask, drawn_masks, odd_masks

# pycocotools 2.0 speaks NumPy 1
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

ODD = odd_masks()
random_masks = st.builds(
    lambda height, width, density, seed: np.random.default_rng(seed).random((height, width)) < density,
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([0.05, 0.3, 0.5, 0.7, 0.95]),
    st.integers(0, 2**31),
)


def answer(mask: Mask) -> Segmentation:
    rows, columns = np.nonzero(mask)
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if len(rows) else None
    return Segmentation("it", mask, not mask.any(), int(mask.sum()), 0.5, (0.0, 0.0, 1.0, 1.0), box)


def decoded_by_pycocotools(polygons: list[Polygon], shape: tuple[int, int]) -> Mask:
    if not polygons:
        return np.zeros(shape, bool)
    return coco.decode(coco.merge(coco.frPyObjects(polygons, *shape))).astype(bool)


def filled_by_pillow(polygons: list[Polygon], shape: tuple[int, int]) -> Mask:
    """Fill at 8 times the size, and look at the centres of the pixels."""
    filled = np.zeros(shape, bool)
    for polygon in polygons:
        image = Image.new("1", (shape[1] * 8, shape[0] * 8))
        ImageDraw.Draw(image).polygon([8 * side for side in polygon], fill=1)
        filled |= np.asarray(image)[4::8, 4::8]
    return filled


def iou(one: Mask, other: Mask) -> float:
    union = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / union if union else 1.0


def area(polygon: Polygon) -> float:
    x, y = np.array(polygon).reshape(-1, 2).T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def components_by_search(mask: Mask) -> list[set[tuple[int, int]]]:
    left = set(zip(*(index.tolist() for index in np.nonzero(mask)), strict=True))
    components = []
    while left:
        component, queue = set(), deque([left.pop()])
        while queue:
            row, column = queue.popleft()
            component.add((row, column))
            near = {(row + down, column + across) for down in (-1, 0, 1) for across in (-1, 0, 1)} & left
            left -= near
            queue.extend(near)
        components.append(component)
    return components


def test_polygons_of_200_drawn_masks_decode_to_the_masks() -> None:
    masks = drawn_masks()
    assert len(masks) == 200
    assert sum(mask.any() for mask in masks) > 120
    for mask in masks:
        polygons = mask_to_polygons(mask)
        assert iou(decoded_by_pycocotools(polygons, mask.shape), mask) >= 0.99
        assert iou(polygons_to_mask(polygons, *mask.shape), mask) >= 0.99


def test_there_are_at_least_50_odd_masks() -> None:
    assert len(ODD) >= 50


@pytest.mark.parametrize("mask", ODD.values(), ids=ODD)
def test_polygons_of_an_odd_mask_decode_to_the_mask(mask: Mask) -> None:
    polygons = mask_to_polygons(mask)
    assert iou(decoded_by_pycocotools(polygons, mask.shape), mask) >= 0.99
    assert iou(filled_by_pillow(polygons, mask.shape), mask) >= 0.99
    assert iou(polygons_to_mask(polygons, *mask.shape), mask) >= 0.99


@pytest.mark.parametrize("mask", ODD.values(), ids=ODD)
def test_exact_polygons_of_an_odd_mask_decode_to_the_mask_itself(mask: Mask) -> None:
    polygons = mask_to_polygons(mask, tolerance=0)
    assert np.array_equal(decoded_by_pycocotools(polygons, mask.shape), mask)
    assert np.array_equal(polygons_to_mask(polygons, *mask.shape), mask)


@settings(max_examples=150, deadline=None)
@given(random_masks)
def test_exact_polygons_have_the_components_areas_and_decode_to_the_mask(mask: Mask) -> None:
    polygons = mask_to_polygons(mask, tolerance=0)
    assert np.array_equal(decoded_by_pycocotools(polygons, mask.shape), mask)
    assert np.array_equal(polygons_to_mask(polygons, *mask.shape), mask)
    assert [area(polygon) for polygon in polygons] == sorted(map(len, components_by_search(mask)), reverse=True)


@settings(max_examples=150, deadline=None)
@given(random_masks)
def test_simplified_polygons_of_noise_decode_to_the_mask(mask: Mask) -> None:
    assert iou(decoded_by_pycocotools(mask_to_polygons(mask), mask.shape), mask) >= 0.99


def test_a_rectangle_has_four_points_on_the_edges_of_its_pixels() -> None:
    mask = np.zeros((10, 20), bool)
    mask[2:5, 7:19] = True
    assert mask_to_polygons(mask) == [[7, 2, 19, 2, 19, 5, 7, 5]]


def test_a_hole_is_joined_by_a_bridge_to_one_polygon() -> None:
    mask = np.ones((10, 10), bool)
    mask[4:6, 3:8] = False
    [polygon] = mask_to_polygons(mask)
    points = list(zip(polygon[::2], polygon[1::2], strict=True))
    assert area(polygon) == 90
    assert [point for point in points if points.count(point) == 2] == [(0, 4), (3, 4), (3, 4), (0, 4)]


def test_bridges_to_several_holes_leave_the_same_edge_one_after_the_other() -> None:
    mask = np.ones((20, 20), bool)
    mask[3:16:6, 5] = False
    [polygon] = mask_to_polygons(mask, tolerance=0)
    points = np.array(polygon).reshape(-1, 2)
    length = np.abs(points - np.roll(points, -1, axis=0)).sum()
    assert length == 4 * 20 + 3 * 4 + 2 * 3 * 5  # the ring, the holes, and the bridges in both directions


def test_a_disc_needs_few_points_and_fewer_with_a_larger_tolerance() -> None:
    y, x = np.mgrid[:500, :500]
    disc = (x - 250) ** 2 + (y - 250) ** 2 < 200**2
    counts = [sum(map(len, mask_to_polygons(disc, tolerance))) // 2 for tolerance in (0, 0.5, 2, 10)]
    assert counts[0] > 800
    assert counts[1] < 120
    assert counts[1] > counts[2] > counts[3]
    for tolerance in (0.5, 2):
        polygons = mask_to_polygons(disc, tolerance)
        assert iou(decoded_by_pycocotools(polygons, disc.shape), disc) >= 1 - 0.02 * tolerance


def test_a_slanted_edge_becomes_one_line() -> None:
    y, x = np.mgrid[:200, :300]
    mask = 3 * y > x + 50
    [polygon] = mask_to_polygons(mask)
    assert len(polygon) // 2 <= 7


@pytest.mark.parametrize("tolerance", [0, 0.5])
def test_min_area_drops_small_components_and_fills_small_holes(tolerance: float) -> None:
    mask = np.zeros((40, 60), bool)
    mask[5:30, 5:50] = True
    mask[10:13, 10:13] = False  # 9 pixels
    mask[10:13, 20:23] = False
    mask[20:26, 30:40] = False  # 60 pixels, to the right of both
    mask[35:37, 5:8] = True  # 6 pixels
    expected = mask.copy()
    expected[10:13, 10:23] = True
    expected[35:37] = False
    assert len(mask_to_polygons(mask, tolerance)) == 2
    [polygon] = mask_to_polygons(mask, tolerance, min_area=10)
    assert np.array_equal(decoded_by_pycocotools([polygon], mask.shape), expected)
    assert mask_to_polygons(mask, tolerance, min_area=2000) == []


def test_polygons_to_mask_cuts_off_what_lies_outside() -> None:
    expected = np.zeros((4, 6), bool)
    expected[:3, :2] = True
    assert np.array_equal(polygons_to_mask([[-5, -7, 2, -7, 2, 3, -5, 3]], 4, 6), expected)
    assert polygons_to_mask([[-1e12, -1e12, 1e12, -1e12, 1e12, 1e12, -1e12, 1e12]], 4, 6).all()
    assert not polygons_to_mask([], 4, 6).any()


def test_overlapping_polygons_are_joined() -> None:
    square, other = [0, 0, 3, 0, 3, 3, 0, 3], [1, 1, 4, 1, 4, 4, 1, 4]
    expected = np.zeros((5, 5), bool)
    expected[:3, :3] = expected[1:4, 1:4] = True
    assert np.array_equal(polygons_to_mask([square, other], 5, 5), expected)


def test_a_mask_may_have_any_type_and_layout_but_not_three_dimensions() -> None:
    mask = ODD["a hole of radius 5"]
    for same in (mask.astype(np.uint8) * 255, np.asfortranarray(mask), np.pad(mask, 3)[3:-3, 3:-3], mask.tolist()):
        assert mask_to_polygons(same) == mask_to_polygons(mask)
    with pytest.raises(ValueError, match=r"\(1, 15, 15\)"):
        mask_to_polygons(mask[None])


@pytest.mark.parametrize("polygon", [[1, 2, 3], [1, 2, float("nan"), 4], "text", [[1, 2], [3]], None])
def test_a_polygon_that_is_no_flat_list_of_pairs_is_refused(polygon) -> None:
    with pytest.raises(ValueError, match=r"polygons\[1\] must be"):
        polygons_to_mask([[0, 0, 1, 0, 1, 1], polygon], 5, 5)


@pytest.mark.parametrize("polygon", [[], [1, 2], [1, 2, 3, 4]])
def test_a_polygon_of_fewer_than_three_points_is_refused_and_hides_no_other(polygon) -> None:
    with pytest.raises(ValueError, match=r"polygons\[1\] must have at least three points"):
        polygons_to_mask([[0, 0, 3, 0, 3, 3], polygon, [3, 3, 5, 3, 5, 5]], 5, 5)


def test_polygons_that_are_no_list_and_sizes_that_are_no_numbers_are_named() -> None:
    with pytest.raises(TypeError, match=r"polygons must be a list .* not NoneType"):
        polygons_to_mask(None, 5, 5)  # type: ignore[arg-type]
    for height in (-1, 5.0):
        with pytest.raises(ValueError, match="height must be a whole number"):
            polygons_to_mask([[0, 0, 1, 0, 1, 1]], height, 5)  # type: ignore[arg-type]
    with pytest.raises(OutOfMemoryError, match="polygons"):
        polygons_to_mask([[0, 0, 1, 0, 1, 1]], 2**29, 2**29)


@pytest.mark.parametrize("tolerance", [20, 49, 100, 1e9, 1e308])
def test_a_component_is_never_simplified_away(tolerance: float) -> None:
    mask = np.zeros((300, 300), bool)
    y, x = np.mgrid[0:300, 0:300]
    mask[(x - 150) ** 2 + (y - 150) ** 2 < 100**2] = True
    mask[280:290, 3:8] = True
    polygons = mask_to_polygons(mask, tolerance)
    assert len(polygons) == 2
    assert all(6 <= len(polygon) < 100 for polygon in polygons)
    assert iou(polygons_to_mask(polygons, 300, 300), mask) >= 0.5


@settings(max_examples=100, deadline=None)
@given(random_masks)
def test_components_equal_those_of_a_search_pixel_by_pixel(mask: Mask) -> None:
    found = answer(mask).components()
    expected = components_by_search(mask)
    as_sets = [set(zip(*(index.tolist() for index in np.nonzero(part.mask)), strict=True)) for part in found]
    assert sorted(map(sorted, as_sets)) == sorted(map(sorted, expected))
    sizes = [int(part.mask.sum()) for part in found]
    assert sizes == sorted(sizes, reverse=True)
    for part in found:
        assert part.mask_box == Image.fromarray(part.mask.astype(np.uint8)).getbbox()


def test_components_keep_the_answer_and_leave_out_small_parts(image: NDArray[np.uint8]) -> None:
    mask = np.zeros((60, 90), bool)
    mask[5:10, 5:10] = mask[20:40, 20:40] = True
    mask[50, 50] = mask[51, 51] = True  # diagonal neighbours are one component
    whole = answer(mask)
    parts = whole.components()
    assert [part.mask.sum() for part in parts] == [400, 25, 2]
    assert [part.text for part in parts] == ["it"] * 3
    assert [part.mask_box for part in parts] == [(20, 20, 40, 40), (5, 5, 10, 10), (50, 50, 52, 52)]
    assert np.array_equal(np.logical_or.reduce([part.mask for part in parts]), mask)
    assert len(whole.components(min_area=3)) == 2
    assert answer(np.zeros((5, 5), bool)).components() == []
    assert answer(np.zeros((5, 5), bool)).polygons() == []


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), 10**400, "1", None, True])
def test_a_tolerance_or_area_that_is_no_number_from_0_is_refused(value) -> None:
    result = answer(ODD["a disc of radius 5"])
    with pytest.raises(ValueError, match="tolerance must be a number 0 or more"):
        result.polygons(tolerance=value)
    with pytest.raises(ValueError, match="tolerance must be a number 0 or more"):
        mask_to_polygons(result.mask, value)
    with pytest.raises(ValueError, match="min_area"):
        result.polygons(min_area=value)
    with pytest.raises(ValueError, match="min_area"):
        result.components(min_area=value)
