"""The figure of an explanation: maps on the right place of the image, and a bar for each word."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sspsam import Explanation, SSPSAMPredictor
from sspsam.errors import ImageError
from sspsam.images.preprocessing import Geometry
from sspsam.shapes import draw_scene

WIDE = np.full((100, 200, 3), 128, np.uint8)
WIDE_AREA = (0.0, 0.25, 1.0, 0.75)


def explanation(similarity: np.ndarray, words: tuple[tuple[str, float], ...] = (("mug", 0.25),)) -> Explanation:
    return Explanation(
        similarity.astype(np.float32),
        np.full(77, 1 / 77, np.float32),
        words,
        np.zeros_like(similarity, np.float32),
        WIDE_AREA,
        WIDE,
    )


def panel(figure: Image.Image) -> np.ndarray:
    """The map on the left: 444 x 222 pixels, since the image is twice as wide as high."""
    return np.asarray(figure.crop((24, 53, 24 + 444, 53 + 222))).astype(int)


def yellowness(pixels: np.ndarray) -> np.ndarray:
    """Large at the largest value of a map (yellow), small at the smallest (violet)."""
    return pixels[..., 0] + pixels[..., 1] - pixels[..., 2]


def test_maps_are_aligned_with_the_image_and_without_padding() -> None:
    for row, column in ((4, 1), (9, 14), (11, 0)):
        similarity = np.zeros((16, 16))
        similarity[row, column] = 1  # rows 4 to 11 are the image
        values = yellowness(panel(explanation(similarity).figure()))
        peak = np.argwhere(values == values.max()).mean(axis=0)
        expected = ((row - 4 + 0.5) / 8 * 222, (column + 0.5) / 16 * 444)
        assert peak == pytest.approx(expected, abs=16)
    padding = np.zeros((16, 16))
    padding[0] = padding[15] = 1
    assert np.ptp(panel(explanation(padding).figure())) < 130  # violet everywhere: the padding is cut off


def test_the_area_of_an_image_is_its_place_in_clips_square() -> None:
    for height, width in ((100, 200), (200, 100), (60, 90), (7, 5000), (33, 33)):
        geometry = Geometry.of(height, width, 224, 1024)
        x0, y0, x1, y1 = geometry.clip_area
        assert x1 - x0 == pytest.approx(width / max(height, width), abs=1 / 224)
        assert y1 - y0 == pytest.approx(height / max(height, width), abs=1 / 224)
        assert (x0 + x1) / 2 == pytest.approx(0.5, abs=1 / 224)
        assert (y0 + y1) / 2 == pytest.approx(0.5, abs=1 / 224)
        assert 0 <= x0 < x1 <= 1
        assert 0 <= y0 < y1 <= 1


def bar_lengths(figure: Image.Image, words: int) -> list[int]:
    """Number of pixels in the colour of words (blue) and of punctuation (grey) in the middle of each row."""
    values = np.asarray(figure)
    top = 48 + 17 + 12 + 222 + 12 + 10 + 13 + 18 + 17 + 16
    rows = [values[top + 26 * number + 3] for number in range(words)]
    return [int(((row == (0, 114, 178)) | (row == (178, 178, 184))).all(axis=-1).sum()) for row in rows]


def test_bars_are_as_long_as_the_weights_and_the_markers_have_the_rest() -> None:
    words = (("the", 0.05), ("mug", 0.4), (".", 0.3))
    figure = explanation(np.eye(16), words).figure()
    the, mug, stop, markers = bar_lengths(figure, 4)
    assert mug / stop == pytest.approx(4 / 3, abs=0.02)
    assert mug / the == pytest.approx(8, abs=0.4)
    assert markers / mug == pytest.approx(0.25 / 0.4, abs=0.02)


def test_bars_of_punctuation_and_of_markers_are_grey() -> None:
    values = np.asarray(explanation(np.eye(16), (("mug", 0.4), (".", 0.3))).figure())
    top = 48 + 17 + 12 + 222 + 12 + 10 + 13 + 18 + 17 + 16
    grey = [(values[top + 26 * number + 3] == (178, 178, 184)).all(axis=-1).sum() > 5 for number in range(3)]
    assert grey == [False, True, True]


def test_a_figure_of_many_words_has_two_columns_and_no_figure_is_cut_off() -> None:
    words = tuple((f"word{number}", 1 / 80) for number in range(75))
    long, short = explanation(np.eye(16), words).figure(), explanation(np.eye(16)).figure()
    assert long.width == short.width == 960
    assert long.height - short.height == (38 - 2) * 26  # 76 rows in two columns, against two rows in one
    for figure, background in ((long, 255), (explanation(np.eye(16)).figure(dark=True), 24)):
        edges = np.concatenate([np.asarray(figure)[-10:].reshape(-1, 3), np.asarray(figure)[:, -10:].reshape(-1, 3)])
        assert (np.abs(edges.astype(int) - background) <= 3).all()


def test_constant_maps_can_be_drawn() -> None:
    assert explanation(np.full((16, 16), 0.5)).figure().mode == "RGB"


def test_an_image_must_be_known_and_have_the_shape_of_the_explained_one() -> None:
    without = dataclasses.replace(explanation(np.eye(16)), pixels=None)
    with pytest.raises(ImageError, match=r"figure\(image\)"):
        without.figure()
    with pytest.raises(ImageError, match="another shape than 100 x 100"):
        without.figure(WIDE[:, :100])
    assert np.array_equal(without.figure(WIDE), explanation(np.eye(16)).figure())


def test_the_explanation_of_an_answer_has_what_its_figure_needs(tiny_model: Path) -> None:
    scene = draw_scene(3, (60, 90))
    predictor = SSPSAMPredictor.from_pretrained(tiny_model, device="cpu")
    result = predictor.predict("a cat", image=scene.pixels, explain=True)
    assert result.explanation is not None
    figure = result.explanation.figure()
    assert figure.width == 960
    assert np.array_equal(figure, result.explanation.figure(scene.pixels))
    assert "'cat'" in repr(result.explanation)
    loaded = predictor.predict("a cat", image=scene.pixels[:50], explain=True).explanation
    assert loaded is not None
    assert loaded.area != result.explanation.area
