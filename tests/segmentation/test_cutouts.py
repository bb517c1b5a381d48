"""Cut-outs and crops: what is inside the mask, and nothing else."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sspsam import Segmentation
from sspsam.errors import ImageError, NoTargetError

INSIDE = (slice(10, 30), slice(20, 50))


@pytest.fixture
def result(image: np.ndarray) -> Segmentation:
    mask = np.zeros((60, 90), dtype=bool)
    mask[INSIDE] = True
    return Segmentation("the mug", mask, False, 600, 0.9, (20.0, 10.0, 50.0, 30.0), (20, 10, 50, 30), pixels=image)


@pytest.fixture
def nothing(result: Segmentation) -> Segmentation:
    return dataclasses.replace(result, mask=np.zeros((60, 90), bool), no_target=True, mask_box=None)


def test_a_cutout_is_opaque_inside_the_mask_and_empty_outside(result: Segmentation, image: np.ndarray) -> None:
    cutout = result.cutout()
    assert (cutout.mode, cutout.size) == ("RGBA", (90, 60))
    values = np.asarray(cutout)
    assert np.array_equal(values[..., 3] == 255, result.mask)
    assert np.array_equal(values[INSIDE][..., :3], image[INSIDE])
    assert not values[~result.mask].any()  # the hidden part of the image is not in the file


@pytest.mark.parametrize("background", ["white", "#ffffff", "#FFF", (255, 255, 255), [255] * 3, np.full(3, 255)])
def test_a_cutout_on_a_colour_has_this_colour_outside_the_mask(
    result: Segmentation, image: np.ndarray, background
) -> None:
    cutout = result.cutout(background=background)
    assert cutout.mode == "RGB"
    assert np.array_equal(np.asarray(cutout), np.where(result.mask[..., None], image, 255))


def test_a_cutout_on_an_image_shows_it_outside_the_mask(
    result: Segmentation, image: np.ndarray, tmp_path: Path
) -> None:
    beach = image[::-1].copy()
    Image.fromarray(beach).save(tmp_path / "beach.png")
    expected = np.where(result.mask[..., None], image, beach)
    for background in (beach, Image.fromarray(beach), tmp_path / "beach.png", str(tmp_path / "beach.png")):
        assert np.array_equal(np.asarray(result.cutout(background=background)), expected)


def test_a_background_of_another_size_is_scaled_and_cropped_in_the_middle(result: Segmentation) -> None:
    tall = np.zeros((300, 90, 3), np.uint8)
    tall[120:180] = (9, 200, 30)  # the middle fifth
    values = np.asarray(result.cutout(background=tall))
    assert (values[~result.mask] == (9, 200, 30)).all()


def test_a_feather_softens_the_edge_and_keeps_the_middle(result: Segmentation, image: np.ndarray) -> None:
    alpha = np.asarray(result.cutout(feather=2))[..., 3].astype(int)
    assert alpha[20, 35] == 255
    assert alpha[50, 80] == 0
    across = alpha[20, 10:30]  # the edge is between columns 19 and 20
    assert (np.diff(across) >= 0).all()
    assert across[9] + across[10] == pytest.approx(255, abs=3)  # the edge stays where it was
    assert 20 < across[9] < 128
    mixed = np.asarray(result.cutout(feather=2, background="black"))[20, 19].astype(float)
    assert mixed == pytest.approx(image[20, 19] * alpha[20, 19] / 255, abs=1)


def test_a_feather_leaves_the_border_of_the_image_opaque(result: Segmentation) -> None:
    whole = dataclasses.replace(result, mask=np.ones((60, 90), bool), mask_box=(0, 0, 90, 60))
    assert (np.asarray(whole.cutout(feather=5))[..., 3] == 255).all()


def test_a_cutout_of_no_target_is_transparent_and_changes_no_background(
    nothing: Segmentation, image: np.ndarray
) -> None:
    assert not np.asarray(nothing.cutout(feather=3)).any()
    assert np.array_equal(nothing.cutout(background=image), image)


@pytest.mark.parametrize("background", ["reddish", "no-such-file.png", "#12"])
def test_a_background_that_is_neither_colour_nor_file_is_named(result: Segmentation, background: str) -> None:
    with pytest.raises(ImageError, match=f"'{background}' is no colour, and no file"):
        result.cutout(background=background)


@pytest.mark.parametrize("background", [(1, 2), (300, 0, 0), (0.5, 0.5, 0.5), []])
def test_a_background_that_is_a_wrong_colour_is_refused(result: Segmentation, background) -> None:
    with pytest.raises(ValueError, match="background must be RGB"):
        result.cutout(background=background)


def test_a_background_of_a_wrong_type_is_refused(result: Segmentation) -> None:
    with pytest.raises(TypeError, match="int"):
        result.cutout(background=7)  # type: ignore[arg-type]


@pytest.mark.parametrize("feather", [-1, float("nan"), "soft", None])
def test_a_feather_that_is_no_number_from_0_is_refused(result: Segmentation, feather) -> None:
    with pytest.raises(ValueError, match="feather must be a number 0 or more"):
        result.cutout(feather=feather)


def test_a_crop_is_the_box_of_the_mask(result: Segmentation, image: np.ndarray) -> None:
    assert np.array_equal(result.crop(), image[10:30, 20:50])


def test_a_margin_is_a_share_of_the_box_and_ends_at_the_border(result: Segmentation, image: np.ndarray) -> None:
    assert np.array_equal(result.crop(margin=0.1), image[8:32, 17:53])
    assert np.array_equal(result.crop(margin=1), image[0:50, 0:80])
    assert np.array_equal(result.crop(margin=1e300), image)


def test_a_crop_without_target_says_so(nothing: Segmentation) -> None:
    with pytest.raises(NoTargetError, match="'the mug' refers to nothing in the image"):
        nothing.crop()
    with pytest.raises(NoTargetError, match="empty mask"):
        dataclasses.replace(nothing, no_target=False).crop()


@pytest.mark.parametrize("margin", [-0.1, float("inf"), "wide"])
def test_a_margin_that_is_no_number_from_0_is_refused(result: Segmentation, margin) -> None:
    with pytest.raises(ValueError, match="margin must be a number 0 or more"):
        result.crop(margin=margin)


def test_without_its_image_a_result_takes_one(result: Segmentation, image: np.ndarray) -> None:
    bare = dataclasses.replace(result, pixels=None)
    for call in (bare.cutout, bare.crop, bare.overlay):
        with pytest.raises(ImageError, match="has no image"):
            call()
        with pytest.raises(ImageError, match="90 x 60"):
            call(image=image[1:])
    assert np.array_equal(bare.cutout(image=image), result.cutout())
    assert np.array_equal(bare.crop(image=image), result.crop())
