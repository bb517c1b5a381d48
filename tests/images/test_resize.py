"""`resize_bilinear` compared with the installed Pillow, and with numbers that earlier releases of Pillow gave."""

import numpy as np
import PIL
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from sspsam.images.loading import Pixels
from sspsam.images.preprocessing import Geometry
from sspsam.images.resize import resize_bilinear

sides = st.one_of(st.integers(1, 12), st.integers(1, 400))


def noise(height: int, width: int, values: tuple[int, int] = (0, 256)) -> Pixels:
    return np.random.default_rng(height * 20000 + width).integers(*values, (height, width, 3), dtype=np.uint8)


def resized(pixels: Pixels, height: int, width: int) -> Pixels:
    return resize_bilinear(torch.tensor(pixels), height, width).numpy()


def resized_by_pillow(pixels: Pixels, height: int, width: int) -> Pixels:
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


@settings(max_examples=400, deadline=None)
@given(sides, sides, sides, sides)
@example(1, 1, 1, 1)
@example(37, 61, 37, 20)  # one pass
@example(9, 4, 3, 3)  # Pillow 13: vertically first
@example(9, 4, 3, 1)  # Pillow 13: exactly twice the columns are lost
def test_every_pair_of_sizes_gives_the_numbers_of_the_installed_pillow(
    height: int, width: int, to_height: int, to_width: int
) -> None:
    pixels = noise(height, width)
    assert np.array_equal(resized(pixels, to_height, to_width), resized_by_pillow(pixels, to_height, to_width))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700))
def test_the_sizes_of_the_models_inputs_give_the_numbers_of_the_installed_pillow(height: int, width: int) -> None:
    pixels, geometry = noise(height, width), Geometry.of(height, width, 224, 512)
    for size in ((geometry.clip_height, geometry.clip_width), (geometry.sam_height, geometry.sam_width)):
        assert np.array_equal(resized(pixels, *size), resized_by_pillow(pixels, *size))


@pytest.mark.parametrize(
    "sizes",
    [
        (3000, 4000, 768, 1024),
        (12000, 3, 1024, 1),
        (3, 12000, 1, 1024),
        (100_000, 2, 224, 1),  # windows of 900 pixels, gathered in one piece
        (2, 100_000, 1, 224),
        (70_000, 3, 1, 3),
        (200, 30_000, 200, 3),  # windows of 20,000 pixels, gathered in three pieces
        (1, 1, 300, 500),
    ],
)
def test_large_and_extreme_images_give_the_numbers_of_the_installed_pillow(sizes: tuple[int, int, int, int]) -> None:
    pixels = noise(*sizes[:2])
    assert np.array_equal(resized(pixels, *sizes[2:]), resized_by_pillow(pixels, *sizes[2:]))


def test_black_and_white_do_not_overflow() -> None:
    for values in ((255, 256), (0, 1)):
        pixels = noise(60_000, 3, values)
        assert np.array_equal(resized(pixels, 1, 7), np.full((1, 7, 3), values[0], dtype=np.uint8))


def test_white_stays_white_where_every_weight_was_rounded_up() -> None:
    white = np.full((1, 5_600_000, 3), 255, dtype=np.uint8)
    assert resized(white, 1, 1).tolist() == resized_by_pillow(white, 1, 1).tolist() == [[[255, 255, 255]]]


FIRST_OF_9X4 = [139, 81, 129, 151, 111, 197, 114, 138, 127, 102, 151, 125, 117, 162, 164, 129, 210, 120]
HORIZONTAL_9X4 = [*FIRST_OF_9X4, 174, 147, 121, 165, 137, 123, 107, 146, 122]
VERTICAL_9X4 = [*FIRST_OF_9X4[:7], 137, 127, 101, *FIRST_OF_9X4[10:], 174, 147, 121, 165, 137, 123, 108, 146, 122]
HORIZONTAL_205X2 = [137, 130, 138, 135, 135, 135, 131, 139, 132, 138, 132, 138, 135, 136, 135, 130, 139, 132]
VERTICAL_205X2 = [137, 130, 138, 134, 135, 135, 131, 139, 132, 138, 132, 138, 134, 136, 135, 130, 139, 132]


@pytest.mark.parametrize(
    ("version", "of_9x4", "of_205x2"),
    [
        ("11.0.0", HORIZONTAL_9X4, HORIZONTAL_205X2),
        ("12.1.1", HORIZONTAL_9X4, HORIZONTAL_205X2),
        ("12.2.0", HORIZONTAL_9X4, VERTICAL_205X2),
        ("13.0.0", VERTICAL_9X4, VERTICAL_205X2),
        ("13.1.0.dev0", VERTICAL_9X4, VERTICAL_205X2),
    ],
)
def test_each_release_of_pillow_is_followed(
    version: str, of_9x4: list[int], of_205x2: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lists were printed by the release of that number."""
    monkeypatch.setattr(PIL, "__version__", version)
    for (height, width), size, expected in (((9, 4), (3, 3), of_9x4), ((205, 2), (2, 3), of_205x2)):
        counter = np.arange(height * width * 3).reshape(height, width, 3)
        assert resized((counter**2 * 7 % 256).astype(np.uint8), *size).flatten().tolist() == expected


def test_pixels_of_any_layout_are_resized_and_stay_as_they_are() -> None:
    pixels = noise(30, 50)
    planes = torch.tensor(pixels).permute(2, 0, 1).contiguous()
    before = planes.clone()
    turned = resize_bilinear(planes.permute(1, 2, 0), 17, 90)
    assert np.array_equal(turned.numpy(), resized_by_pillow(pixels, 17, 90))
    assert torch.equal(planes, before)


class IntegersOnly(TorchDispatchMode):
    """Fail where an operation makes a tensor of floating-point numbers."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        assert not (isinstance(result, torch.Tensor) and result.is_floating_point()), func
        return result


def test_no_floating_point_tensor_is_made() -> None:
    with IntegersOnly():
        resize_bilinear(torch.zeros(71, 53, 3, dtype=torch.uint8), 22, 97)
        resize_bilinear(torch.zeros(700, 3, 3, dtype=torch.uint8), 2, 5)
