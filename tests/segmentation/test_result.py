"""`Segmentation` as JSON, as a mask file, as an overlay and as text."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from pycocotools import mask as coco

from sspsam import Explanation, Segmentation
from sspsam.errors import ImageError, StorageError


@pytest.fixture
def result(image: np.ndarray) -> Segmentation:
    mask = np.zeros((60, 90), dtype=bool)
    mask[10:30, 20:50] = True
    explanation = Explanation(
        similarity=np.eye(6, dtype=np.float32),
        word_attention=np.full(77, 1 / 77, dtype=np.float32),
        words=(("the", 0.25), ("mug", 0.5)),
        verification=np.ones((6, 6), dtype=np.float32),
    )
    return Segmentation(
        text="the mug ☕",
        mask=mask,
        no_target=False,
        foreground_pixels=1234,
        score=0.75,
        box=(20.5, 10.25, 50.0, 30.0),
        mask_box=(20, 10, 50, 30),
        explanation=explanation,
        pixels=image,
    )


def test_to_dict_survives_json_and_pycocotools_reads_its_mask(result: Segmentation) -> None:
    content = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert content["version"] == 2
    assert content["text"] == "the mug ☕"
    assert (content["height"], content["width"]) == (60, 90)
    assert content["box"] == [20.5, 10.25, 50.0, 30.0]
    assert content["mask_box"] == [20, 10, 50, 30]
    assert content["explanation"]["words"] == [["the", 0.25], ["mug", 0.5]]
    assert np.array_equal(coco.decode(content["mask"]).astype(bool), result.mask)
    assert coco.area(content["mask"]) == result.mask.sum()


def test_save_writes_the_mask_as_an_8_bit_grey_png(result: Segmentation, tmp_path: Path) -> None:
    result.save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as image:
        assert image.mode == "L"
        assert np.array_equal(np.asarray(image), result.mask * np.uint8(255))


def test_save_refuses_lossy_formats_and_missing_folders_and_writes_nothing(
    result: Segmentation, tmp_path: Path
) -> None:
    for name in ("mask.jpg", "mask"):
        with pytest.raises(StorageError, match=r"\.png"):
            result.save(tmp_path / name)
    with pytest.raises(StorageError, match="nowhere"):
        result.save(tmp_path / "nowhere" / "mask.png")
    assert list(tmp_path.iterdir()) == []


def test_an_overlay_tints_the_mask_draws_its_outline_and_changes_nothing_else(
    result: Segmentation, image: np.ndarray
) -> None:
    overlay = np.asarray(result.overlay(color=(255, 0, 0), opacity=0.5))
    inside, outline, outside = (20, 35), (9, 35), (50, 80)
    blended = (image[inside].astype(int) + np.array([255, 0, 0])) // 2
    assert np.abs(overlay[inside].astype(int) - blended).max() <= 2
    assert tuple(overlay[outline]) == (255, 0, 0)
    assert np.array_equal(overlay[outside], image[outside])
    assert np.array_equal(result.pixels, image)


def test_an_image_for_the_overlay_must_have_the_size_of_the_mask(result: Segmentation, image: np.ndarray) -> None:
    assert result.overlay(image[::-1].copy()).size == (90, 60)
    with pytest.raises(ImageError, match="90 x 60"):
        result.overlay(image[:30])
    with pytest.raises(ValueError, match="opacity"):
        result.overlay(opacity=2)


@pytest.mark.parametrize("radius", [1, 2, 3, 4, 7, 10, 25])
def test_dilation_equals_pillows_max_filter(radius: int) -> None:
    from sspsam.segmentation.rasters import dilated

    mask = np.random.default_rng(radius).random((40, 57)) < 0.01
    expected = Image.fromarray(mask.astype(np.uint8)).filter(ImageFilter.MaxFilter(2 * radius + 1))
    assert np.array_equal(dilated(mask, radius), np.asarray(expected).astype(bool))


def test_a_box_at_the_border_is_drawn_with_all_four_sides() -> None:
    pixels = np.zeros((60, 90, 3), np.uint8)
    result = Segmentation("x", np.zeros((60, 90), bool), True, 0, 0.0, (0.0, 0.0, 90.0, 60.0), None, pixels=pixels)
    overlay = np.asarray(result.overlay(draw_box=True, color=(9, 8, 7)))
    for side in (overlay[0], overlay[-1], overlay[:, 0], overlay[:, -1]):
        assert (side == (9, 8, 7)).all()


@pytest.mark.parametrize("color", [(300, 0, 0), (-1, 0, 0), (0.5, 0, 0), (1, 2), (1, 2, 3, 4), None, "reddish", 7])
def test_an_invalid_color_is_refused(result: Segmentation, color) -> None:
    with pytest.raises(ValueError, match="color must be RGB"):
        result.overlay(color=color)


def test_a_color_may_consist_of_numpy_numbers(result: Segmentation) -> None:
    expected = np.asarray(result.overlay(color=(255, 0, 7)))
    for color in (np.array([255, 0, 7], np.uint8), tuple(np.array([255, 0, 7]))):
        assert np.array_equal(result.overlay(color=color), expected)


def test_draw_box_changes_the_overlay(result: Segmentation) -> None:
    assert np.asarray(result.overlay(draw_box=True)).tobytes() != np.asarray(result.overlay()).tobytes()


def test_a_result_is_frozen_and_its_repr_names_text_size_and_score(result: Segmentation) -> None:
    with pytest.raises(AttributeError):
        result.score = 1.0
    assert repr(result) == "Segmentation('the mug ☕': 600 of 90 x 60 pixels, score 0.750)"
