"""Results: what they say of themselves, as JSON, as files and as pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from pycocotools import mask as coco

from sspsam import Explanation, Segmentation
from sspsam.errors import ImageError, StorageError


@pytest.fixture
def result(picture: np.ndarray) -> Segmentation:
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
        pixels=picture,
    )


def test_to_dict_survives_json_and_pycocotools_reads_its_mask(result: Segmentation) -> None:
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert plain["version"] == 1
    assert plain["text"] == "the mug ☕"
    assert (plain["height"], plain["width"]) == (60, 90)
    assert plain["box"] == [20.5, 10.25, 50.0, 30.0]
    assert plain["mask_box"] == [20, 10, 50, 30]
    assert plain["explanation"]["words"] == [["the", 0.25], ["mug", 0.5]]
    assert np.array_equal(coco.decode(plain["mask"]).astype(bool), result.mask)
    assert coco.area(plain["mask"]) == result.mask.sum()


def test_the_mask_is_saved_as_it_is(result: Segmentation, tmp_path: Path) -> None:
    result.save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as image:
        assert image.mode == "L"
        assert np.array_equal(np.asarray(image), result.mask * np.uint8(255))


def test_a_mask_is_never_saved_with_loss(result: Segmentation, tmp_path: Path) -> None:
    for name in ("mask.jpg", "mask"):
        with pytest.raises(StorageError, match=r"\.png"):
            result.save(tmp_path / name)
    with pytest.raises(StorageError, match="nowhere"):
        result.save(tmp_path / "nowhere" / "mask.png")
    assert list(tmp_path.iterdir()) == []


def test_an_overlay_tints_inside_outlines_and_leaves_the_rest(result: Segmentation, picture: np.ndarray) -> None:
    drawn = np.asarray(result.overlay(color=(255, 0, 0), opacity=0.5))
    inside, outline, outside = (20, 35), (9, 35), (50, 80)
    mixed = (picture[inside].astype(int) + np.array([255, 0, 0])) // 2
    assert np.abs(drawn[inside].astype(int) - mixed).max() <= 2
    assert tuple(drawn[outline]) == (255, 0, 0)
    assert np.array_equal(drawn[outside], picture[outside])
    assert np.array_equal(result.pixels, picture)


def test_an_overlay_on_a_given_picture_must_fit(result: Segmentation, picture: np.ndarray) -> None:
    assert result.overlay(picture[::-1].copy()).size == (90, 60)
    with pytest.raises(ImageError, match="90 x 60"):
        result.overlay(picture[:30])
    with pytest.raises(ValueError, match="opacity"):
        result.overlay(opacity=2)


@pytest.mark.parametrize("reach", [1, 2, 3, 4, 7, 10, 25])
def test_the_outline_is_as_wide_as_a_square_brush(reach: int) -> None:
    from sspsam.segmentation.result import _grown

    mask = np.random.default_rng(reach).random((40, 57)) < 0.01
    brushed = Image.fromarray(mask.astype(np.uint8)).filter(ImageFilter.MaxFilter(2 * reach + 1))
    assert np.array_equal(_grown(mask, reach), np.asarray(brushed).astype(bool))


def test_the_box_is_drawn_with_all_its_sides() -> None:
    pixels = np.zeros((60, 90, 3), np.uint8)
    whole = Segmentation("x", np.zeros((60, 90), bool), True, 0, 0.0, (0.0, 0.0, 90.0, 60.0), None, pixels=pixels)
    drawn = np.asarray(whole.overlay(draw_box=True, color=(9, 8, 7)))
    for side in (drawn[0], drawn[-1], drawn[:, 0], drawn[:, -1]):
        assert (side == (9, 8, 7)).all()


@pytest.mark.parametrize("color", [(300, 0, 0), (-1, 0, 0), (0.5, 0, 0), (1, 2), (1, 2, 3, 4)])
def test_a_color_that_is_none_is_refused(result: Segmentation, color) -> None:
    with pytest.raises(ValueError, match=r"color|unpack"):
        result.overlay(color=color)


def test_an_overlay_can_show_the_box(result: Segmentation) -> None:
    assert np.asarray(result.overlay(draw_box=True)).tobytes() != np.asarray(result.overlay()).tobytes()


def test_results_are_frozen_and_say_what_they_are(result: Segmentation) -> None:
    with pytest.raises(AttributeError):
        result.score = 1.0
    assert repr(result) == "Segmentation('the mug ☕': 600 of 90 x 60 pixels, score 0.750)"
