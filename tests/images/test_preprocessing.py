"""Model inputs and geometry of images of every shape, compared with torchvision and stock segment_anything."""

import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide
from torch import nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from benchmarks.authors_checkpoint import small_architecture, tiny_architecture
from sspsam.config import ModelConfig, Preprocessing
from sspsam.images.loading import DEFAULT_MAX_PIXELS, Pixels
from sspsam.images.preprocessing import (
    Geometry,
    clip_input,
    device_inputs,
    geometry_of,
    preprocess_image,
    sam_input,
    staged_pixels,
)

TINY = ModelConfig(tiny_architecture())  # CLIP 48, SAM 128
SMALL = ModelConfig(small_architecture("336"))  # CLIP 336, SAM 1024
EXTREME = [(1, 1), (1, 4000), (4000, 1), (12000, 3), (3, 12000), (2, 3), (333, 337), (1023, 1025)]
sides = st.integers(1, 300)


def noise(height: int, width: int) -> Pixels:
    return np.random.default_rng(height * 20000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


class ImageEncoderStub(nn.Module):
    """The attribute of an image encoder that SAM's preprocessing reads."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.img_size = size


def stock_sam_input(pixels: Pixels, config: ModelConfig) -> torch.Tensor:
    size, constants = config.architecture.sam.image_size, config.preprocessing
    sam = Sam(ImageEncoderStub(size), nn.Identity(), nn.Identity(), list(constants.sam_mean), list(constants.sam_std))
    resized = ResizeLongestSide(size).apply_image(pixels)
    return sam.preprocess(torch.as_tensor(resized).permute(2, 0, 1).contiguous()[None])[0]


def stock_clip_input(pixels: Pixels, config: ModelConfig) -> torch.Tensor:
    """The CLIP input of docs/method.md, section 1, computed with torchvision."""
    size, constants = config.architecture.clip.image_size, config.preprocessing
    target = [max(1, round(Fraction(side * size, max(pixels.shape[:2])))) for side in pixels.shape[:2]]
    resized = TF.resize(TF.to_pil_image(pixels), target, InterpolationMode.BILINEAR)
    normalised = TF.normalize(TF.to_tensor(resized), list(constants.clip_mean), list(constants.clip_std))
    top, left = (round((size - side) / 2 - 0.1) for side in target)
    return TF.pad(normalised, [left, top, size - target[1] - left, size - target[0] - top])


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 20000), st.integers(1, 20000), st.sampled_from([48, 224, 336]), st.sampled_from([128, 1024]))
@example(1, 1, 224, 1024)
@example(12000, 3, 336, 1024)
@example(448, 3, 224, 1024)  # a side of exactly 1.5 pixels
def test_geometry_equals_segment_anythings_and_the_exact_fractions(
    height: int, width: int, clip: int, sam: int
) -> None:
    geometry = Geometry.of(height, width, clip, sam)
    stock = ResizeLongestSide.get_preprocess_shape(height, width, sam)
    assert (geometry.sam_height, geometry.sam_width) == tuple(max(1, side) for side in stock)
    exact = [round(Fraction(side * clip, max(height, width))) for side in (height, width)]
    assert (geometry.clip_height, geometry.clip_width) == tuple(max(1, side) for side in exact)
    # rounding half of the free pixels less 0.1 leaves the odd pixel to the bottom and right
    assert geometry.clip_top == (clip - geometry.clip_height) // 2
    assert geometry.clip_left == (clip - geometry.clip_width) // 2
    assert (geometry.height, geometry.width) == (height, width)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 200_000), st.integers(1, 200_000), st.integers(1, 1024), st.integers(1, 1024))
def test_an_image_lies_inside_its_squares_and_no_side_is_zero(height: int, width: int, clip: int, sam: int) -> None:
    geometry = Geometry.of(height, width, clip, sam)
    assert max(geometry.clip_height, geometry.clip_width) == clip
    assert max(geometry.sam_height, geometry.sam_width) == sam
    assert min(geometry.clip_height, geometry.clip_width, geometry.sam_height, geometry.sam_width) >= 1
    assert 0 <= geometry.clip_top <= clip - geometry.clip_height
    assert 0 <= geometry.clip_left <= clip - geometry.clip_width


@settings(max_examples=100, deadline=None)
@given(sides, sides)
@example(128, 48)
@example(1, 1)
def test_inputs_equal_those_of_torchvision_and_segment_anything(height: int, width: int) -> None:
    pixels = noise(height, width)
    geometry = geometry_of(pixels, TINY)
    assert torch.equal(clip_input(pixels, geometry, TINY), stock_clip_input(pixels, TINY))
    if min(ResizeLongestSide.get_preprocess_shape(height, width, 128)) > 0:  # segment_anything fails for a side of zero
        assert torch.equal(sam_input(pixels, geometry, TINY), stock_sam_input(pixels, TINY))


@pytest.mark.parametrize("shape", [(480, 640), (1365, 2048), (336, 336), (37, 1024), *EXTREME[5:]])
def test_inputs_of_the_published_sizes_equal_those_of_torchvision_and_segment_anything(shape: tuple[int, int]) -> None:
    pixels = noise(*shape)
    geometry = geometry_of(pixels, SMALL)
    assert torch.equal(clip_input(pixels, geometry, SMALL), stock_clip_input(pixels, SMALL))
    assert torch.equal(sam_input(pixels, geometry, SMALL), stock_sam_input(pixels, SMALL))


@pytest.mark.parametrize("shape", EXTREME)
def test_images_of_extreme_shape_give_finite_inputs(shape: tuple[int, int]) -> None:
    pixels = noise(*shape)
    geometry = geometry_of(pixels, SMALL)
    clip, sam = clip_input(pixels, geometry, SMALL), sam_input(pixels, geometry, SMALL)
    assert torch.equal(clip, stock_clip_input(pixels, SMALL))
    assert sam.shape == (3, 1024, 1024)
    assert clip.dtype == sam.dtype == torch.float32
    assert bool(clip.isfinite().all() and sam.isfinite().all())
    assert bool(sam[:, : geometry.sam_height, : geometry.sam_width].any())


def test_padding_is_zero_after_normalisation() -> None:
    pixels = np.full((30, 90, 3), 255, dtype=np.uint8)
    geometry = geometry_of(pixels, TINY)
    clip, sam = clip_input(pixels, geometry, TINY), sam_input(pixels, geometry, TINY)
    rows = torch.arange(48)
    inside = (rows >= geometry.clip_top) & (rows < geometry.clip_top + geometry.clip_height)
    assert not clip[:, ~inside].any()
    assert bool((clip[:, inside] > 0).all())
    assert not sam[:, geometry.sam_height :].any()
    assert bool((sam[:, : geometry.sam_height] > 0).all())


def test_channels_are_in_rgb_order_with_a_constant_each() -> None:
    constants = Preprocessing(
        clip_mean=(0.1, 0.2, 0.3), clip_std=(0.5, 0.25, 0.125), sam_mean=(1.0, 2.0, 3.0), sam_std=(4.0, 5.0, 6.0)
    )
    config = ModelConfig(tiny_architecture(), constants)
    pixels = np.full((8, 8, 3), (51, 102, 204), dtype=np.uint8)
    geometry = geometry_of(pixels, config)
    assert clip_input(pixels, geometry, config)[:, 24, 24].tolist() == pytest.approx([0.2, 0.8, 4.0], abs=1e-6)
    assert sam_input(pixels, geometry, config)[:, 0, 0].tolist() == pytest.approx([50 / 4, 100 / 5, 201 / 6])


def test_read_only_pixels_and_torchs_defaults_do_not_change_the_inputs() -> None:
    pixels = noise(20, 30)
    pixels.flags.writeable = False
    geometry = geometry_of(pixels, TINY)
    expected = clip_input(pixels, geometry, TINY), sam_input(pixels, geometry, TINY)
    try:
        torch.set_default_dtype(torch.float64)
        with torch.device("meta"):
            inputs = clip_input(pixels, geometry, TINY), sam_input(pixels, geometry, TINY)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(*pair) for pair in zip(inputs, expected, strict=True))


@settings(max_examples=100, deadline=None)
@given(sides, sides, st.sampled_from([TINY, SMALL]))
@example(300, 7, SMALL)
@example(1, 1, TINY)
def test_inputs_made_on_a_device_have_the_bits_of_those_made_by_pillow(
    height: int, width: int, config: ModelConfig
) -> None:
    pixels = noise(height, width)
    geometry = geometry_of(pixels, config)
    clip, sam = device_inputs(torch.tensor(pixels), geometry, config)
    assert torch.equal(clip, clip_input(pixels, geometry, config))
    assert torch.equal(sam, sam_input(pixels, geometry, config))
    assert clip.is_contiguous()
    assert sam.is_contiguous()


@pytest.mark.parametrize("shape", EXTREME)
def test_images_of_extreme_shape_have_the_same_bits_on_a_device(shape: tuple[int, int]) -> None:
    pixels = noise(*shape)
    geometry = geometry_of(pixels, SMALL)
    clip, sam = device_inputs(torch.tensor(pixels), geometry, SMALL)
    assert torch.equal(clip, clip_input(pixels, geometry, SMALL))
    assert torch.equal(sam, sam_input(pixels, geometry, SMALL))


def test_an_image_can_be_loaded_without_its_inputs() -> None:
    pixels = noise(20, 30)
    image = preprocess_image(pixels, TINY, DEFAULT_MAX_PIXELS, device=torch.device("cpu"))
    assert image.clip_input is None
    assert image.sam_input is None
    full = preprocess_image(pixels, TINY, DEFAULT_MAX_PIXELS)
    assert full.clip_input is not None
    assert full.sam_input is not None
    clip, sam = device_inputs(staged_pixels(image.pixels, torch.device("cpu")), image.geometry, TINY)
    assert torch.equal(clip, full.clip_input)
    assert torch.equal(sam, full.sam_input)


def test_read_only_pixels_go_to_a_device_as_a_copy_and_without_a_warning() -> None:
    pixels = noise(20, 30)
    pixels.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copied = staged_pixels(pixels, torch.device("cpu"))
    copied.zero_()
    assert pixels.any()
