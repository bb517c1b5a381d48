"""Outlines through the outermost pixels of a mask, compared with what Pillow and supervision fill."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sspsam.segmentation import mask_to_polygons
from sspsam.segmentation.pixel_outlines import pixel_outlines
from tests.support.answers import answer, iou
from tests.support.masks import Mask, odd_masks, supervision_that_fills

ODD = odd_masks()
random_masks = st.builds(
    lambda height, width, density, seed: np.random.default_rng(seed).random((height, width)) < density,
    st.integers(1, 30),
    st.integers(1, 30),
    st.sampled_from([0.05, 0.3, 0.5, 0.7, 0.95]),
    st.integers(0, 2**31),
)
READINGS = {"rounded": np.round, "cut off": np.trunc}


def filled_by_supervision(polygons: list[np.ndarray], shape: tuple[int, int], reading: str) -> Mask:
    tools = supervision_that_fills()
    mask = np.zeros(shape, bool)
    for polygon in polygons:
        mask |= tools.polygon_to_mask(READINGS[reading](polygon).astype(np.int32), shape[::-1]) == 1
    return mask


def disc(radius: int) -> Mask:
    y, x = np.mgrid[-radius - 2 : radius + 3, -radius - 2 : radius + 3]
    return x**2 + y**2 <= radius**2


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("mask", ODD.values(), ids=ODD)
def test_outlines_of_an_odd_mask_are_filled_to_the_mask(mask: Mask, reading: str) -> None:
    assert iou(filled_by_supervision(pixel_outlines(mask), mask.shape, reading), mask) >= 0.99
    exact = pixel_outlines(mask, simplify=False)
    assert np.array_equal(filled_by_supervision(exact, mask.shape, reading), mask)


@settings(max_examples=100, deadline=None)
@given(random_masks)
def test_outlines_of_noise_are_filled_to_the_mask(mask: Mask) -> None:
    exact, simple = pixel_outlines(mask, simplify=False), pixel_outlines(mask)
    assert len(exact) == len(simple) == len(answer(mask).components())
    assert all(len(polygon) >= 3 for polygon in exact + simple)
    assert np.array_equal(filled_by_supervision(exact, mask.shape, "rounded"), mask)
    assert iou(filled_by_supervision(simple, mask.shape, "rounded"), mask) >= 0.99


def test_corners_lie_in_the_left_upper_part_of_pixels_of_the_mask() -> None:
    for mask in ODD.values():
        for polygon in pixel_outlines(mask):
            column, row = np.floor(polygon).astype(int).T
            assert mask[row, column].all()
            assert ((polygon % 1 > 0.05) & (polygon % 1 < 0.4995)).all()


def test_a_rectangle_has_four_corners_in_its_outermost_pixels() -> None:
    mask = np.zeros((10, 20), bool)
    mask[2:5, 7:19] = True
    [polygon] = pixel_outlines(mask)
    assert np.floor(polygon).tolist() == [[7, 2], [18, 2], [18, 4], [7, 4]]


def test_an_outline_of_one_or_two_pixels_encloses_an_area() -> None:
    for mask in (np.ones((1, 1), bool), np.ones((1, 5), bool), np.ones((5, 1), bool), np.eye(2) == 1, np.eye(2) == 0):
        [polygon] = pixel_outlines(mask)
        x, y = polygon.T
        assert abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) > 0.1


def test_a_bridge_passes_pixels_of_the_mask_only() -> None:
    mask = np.ones((9, 12), bool)
    mask[:4, :3] = False  # the bridge of the hole returns beside these background pixels
    mask[4:6, 6:9] = False
    [polygon] = pixel_outlines(mask, simplify=False)
    assert np.array_equal(filled_by_supervision([polygon], mask.shape, "cut off"), mask)


def test_a_disc_needs_as_few_corners_as_its_polygon_on_pixel_edges() -> None:
    mask = disc(200)
    [simple], [exact], [on_edges] = pixel_outlines(mask), pixel_outlines(mask, simplify=False), mask_to_polygons(mask)
    assert len(exact) > 400
    assert len(simple) <= len(on_edges) / 2 < 100


def test_the_largest_component_is_first_and_an_empty_mask_has_none() -> None:
    mask = np.zeros((30, 30), bool)
    mask[0, 0] = mask[3:6, 3:6] = mask[10:20, 10:20] = True
    assert [int(polygon[0, 0]) for polygon in pixel_outlines(mask)] == [10, 3, 0]
    assert pixel_outlines(np.zeros((5, 5), bool)) == []


@pytest.mark.slow
@pytest.mark.timeout(120)  # seconds; an outline in quadratic time would take hours
def test_a_mask_of_12_megapixels_is_traced() -> None:
    y, x = np.mgrid[:3000, :4000]
    mask = (x - 2000) ** 2 + (y - 1500) ** 2 < (1200 + 150 * np.sin(40 * np.arctan2(y - 1500, x - 2000))) ** 2
    mask &= np.random.default_rng(0).random(mask.shape) < 0.999  # thousands of holes
    assert len(pixel_outlines(mask)) >= 1
