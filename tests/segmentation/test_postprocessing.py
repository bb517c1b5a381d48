"""Masks, boxes and run-length encoding, compared with pycocotools, Pillow and stock segment_anything."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco
from segment_anything.modeling import Sam
from torch import nn
from torch.nn import functional as F

from sspsam.images.preprocessing import Geometry
from sspsam.segmentation.postprocessing import (
    box_of_mask,
    box_on_image,
    foreground_pixels,
    logits_in_frame,
    logits_on_image,
    threshold_logit,
)
from sspsam.segmentation.rle import rle_decode, rle_encode

# pycocotools 2.0 speaks NumPy 1
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Mask = NDArray[np.bool_]


def random_mask(height: int, width: int, density: float, seed: int) -> Mask:
    return np.random.default_rng(seed).random((height, width)) < density


def drawn_mask(height: int, width: int, draw: Callable[[NDArray[np.intp], NDArray[np.intp]], Mask]) -> Mask:
    return draw(*np.mgrid[0:height, 0:width])


MASKS = {
    "empty": np.zeros((7, 5), bool),
    "full": np.ones((7, 5), bool),
    "one pixel off": np.zeros((1, 1), bool),
    "one pixel on": np.ones((1, 1), bool),
    "one column": np.arange(9)[:, None] % 3 == 1,
    "one row": np.arange(9)[None] % 2 == 0,
    "first pixel only": np.arange(12).reshape(3, 4) == 0,
    "last pixel only": np.arange(12).reshape(3, 4) == 11,
    "chequered": np.indices((6, 7)).sum(axis=0) % 2 == 0,
    "a large disc": drawn_mask(1500, 2000, lambda y, x: (y - 700) ** 2 + (x - 900) ** 2 < 600**2),
    "long runs": drawn_mask(3000, 2000, lambda y, x: (x > 30) & (x < 1900)),
    "shrinking runs": drawn_mask(400, 400, lambda y, x: y > x),
}
random_masks = st.builds(
    random_mask, st.integers(1, 70), st.integers(1, 70), st.sampled_from([0.02, 0.5, 0.98]), st.integers(0, 2**31)
)


def check_rle(mask: Mask) -> None:
    encoded = rle_encode(mask)
    expected = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert encoded == {"size": expected["size"], "counts": expected["counts"].decode()}
    assert np.array_equal(coco.decode(encoded), mask)
    decoded = rle_decode(encoded)
    assert decoded.dtype == np.bool_
    assert np.array_equal(decoded, mask)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_rle_of_an_edge_case_equals_that_of_pycocotools(mask: Mask) -> None:
    check_rle(mask)


@settings(max_examples=200, deadline=None)
@given(random_masks)
def test_rle_of_any_mask_equals_that_of_pycocotools(mask: Mask) -> None:
    check_rle(mask)


def test_rle_does_not_depend_on_the_memory_layout() -> None:
    mask = random_mask(30, 40, 0.5, 1)
    for equal_mask in (np.asfortranarray(mask), mask.astype(np.uint8).view(bool), np.pad(mask, 3)[3:-3, 3:-3]):
        assert rle_encode(equal_mask) == rle_encode(mask)
    assert rle_encode(mask.T) != rle_encode(mask)


@settings(max_examples=200, deadline=None)
@given(random_masks)
@example(np.zeros((4, 4), bool))
def test_box_of_mask_equals_pillows_bounding_box(mask: Mask) -> None:
    assert box_of_mask(mask) == Image.fromarray(mask.astype(np.uint8)).getbbox()


def test_box_of_mask_ends_just_outside_the_mask() -> None:
    mask = np.zeros((10, 20), bool)
    mask[2:5, 7:19] = True
    box = box_of_mask(mask)
    assert box == (7, 2, 19, 5)
    assert all(type(side) is int for side in box)


class ImageEncoderStub(nn.Module):
    """The attribute of an image encoder that SAM's postprocessing reads."""

    img_size = 128


@pytest.mark.parametrize("shape", [(100, 75), (60, 300), (128, 128), (7, 3), (1, 1), (1, 900), (3, 2000)])
def test_logits_on_the_image_equal_those_of_segment_anything(shape: tuple[int, int]) -> None:
    low_res = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0)) * 5
    geometry = Geometry.of(*shape, 48, 128)
    stock = Sam(ImageEncoderStub(), nn.Identity(), nn.Identity())
    inside = (geometry.sam_height, geometry.sam_width)
    expected = stock.postprocess_masks(low_res[:, None], inside, shape)[:, 0]
    logits = logits_on_image(low_res, geometry, 128)
    assert logits.shape == (3, *shape)
    assert torch.equal(logits, expected)


def test_a_mask_lies_where_the_logits_are_positive() -> None:
    low_res = torch.full((1, 32, 32), -1.0)
    low_res[0, 4:8, 16:24] = 1.0  # in SAM's square of 128: rows 16 to 32, columns 64 to 96
    geometry = Geometry.of(200, 400, 48, 128)  # 64 x 128 inside the square
    box = box_of_mask((logits_on_image(low_res, geometry, 128) > 0)[0].numpy())
    assert box == pytest.approx((200, 50, 300, 100), abs=3)


def test_logits_and_counts_of_an_expression_do_not_depend_on_the_batch() -> None:
    low_res = torch.randn(5, 32, 32, generator=torch.Generator().manual_seed(1))
    geometry = Geometry.of(90, 50, 48, 128)
    together = logits_on_image(low_res, geometry, 128)
    counts = foreground_pixels(low_res, 128, 64)
    for row in range(5):
        assert torch.equal(logits_on_image(low_res[row : row + 1], geometry, 128)[0], together[row])
        assert torch.equal(foreground_pixels(low_res[row : row + 1], 128, 64)[0], counts[row])


def test_foreground_pixels_counts_logits_of_zero_or_more_in_the_authors_frame() -> None:
    low_res = torch.randn(4, 32, 32, generator=torch.Generator().manual_seed(2))
    low_res[1], low_res[2], low_res[3] = 0.0, -1.0, 1.0
    square = F.interpolate(low_res[:, None], (128, 128), mode="bilinear", align_corners=False)
    frame = F.interpolate(square, (64, 64), mode="bilinear", align_corners=False)[:, 0]
    assert torch.allclose(logits_in_frame(low_res, 128, 64), frame, atol=1e-6)  # the single step equals the two steps
    for sam_size, side in ((128, 48), (160, 80), (96, 64)):  # sizes for which a single step would give other logits
        square = F.interpolate(low_res[:1, None], (sam_size, sam_size), mode="bilinear", align_corners=False)
        expected = F.interpolate(square, (side, side), mode="bilinear", align_corners=False)[:, 0]
        assert torch.equal(logits_in_frame(low_res[:1], sam_size, side), expected)
    counts = foreground_pixels(low_res, 128, 64)
    assert counts.tolist() == [int(torch.count_nonzero(torch.sigmoid(frame[0]) >= 0.5)), 64 * 64, 0, 64 * 64]


def test_the_threshold_of_probability_one_half_is_a_logit_of_exactly_zero() -> None:
    assert threshold_logit(0.5) == 0.0


@given(st.floats(1e-6, 1 - 1e-6))
def test_threshold_logit_is_the_inverse_of_the_sigmoid(probability: float) -> None:
    assert 1 / (1 + math.exp(-threshold_logit(probability))) == pytest.approx(probability, rel=1e-9)


def on_clip_square(corner: float, side: int, resized_side: int, offset: int, clip_size: int) -> float:
    """Map a coordinate of the image to a fraction of CLIP's square."""
    return (corner * resized_side / side + offset) / clip_size


@settings(max_examples=200)
@given(st.integers(1, 5000), st.integers(1, 5000), st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_box_on_image_inverts_the_map_to_clips_square(height: int, width: int, corners: list[float]) -> None:
    geometry = Geometry.of(height, width, 224, 1024)
    (x0, x1), (y0, y1) = sorted(corners[:2]), sorted(corners[2:])
    expected = np.array([x0 * width, y0 * height, x1 * width, y1 * height])
    left, right = (on_clip_square(x, width, geometry.clip_width, geometry.clip_left, 224) for x in expected[::2])
    top, bottom = (on_clip_square(y, height, geometry.clip_height, geometry.clip_top, 224) for y in expected[1::2])
    box = np.array([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top])
    assert np.allclose(box_on_image(box, geometry, 224), expected, atol=1e-6 * max(height, width))


@settings(max_examples=200)
@given(st.integers(1, 5000), st.integers(1, 5000), st.lists(st.floats(0, 1), min_size=4, max_size=4))
@example(12000, 3, [0.5, 0.5, 1.0, 1.0])
def test_box_on_image_lies_inside_the_image(height: int, width: int, box: list[float]) -> None:
    x0, y0, x1, y1 = box_on_image(np.array(box), Geometry.of(height, width, 336, 1024), 336)
    assert 0 <= x0 <= x1 <= width
    assert 0 <= y0 <= y1 <= height


def test_the_whole_of_clips_square_maps_to_the_whole_image() -> None:
    geometry = Geometry.of(300, 1000, 224, 1024)
    assert box_on_image(np.array([0.5, 0.5, 1.0, 1.0]), geometry, 224) == (0.0, 0.0, 1000.0, 300.0)
    assert all(type(side) is float for side in box_on_image(np.array([0.5, 0.5, 0.1, 0.1]), geometry, 224))
