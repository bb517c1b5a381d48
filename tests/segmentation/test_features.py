"""Features of answers against their definitions."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from sspsam import SSPSAMPredictor
from sspsam.segmentation.features import FEATURES
from sspsam.shapes import ask, draw_scene

SCENE = draw_scene(3, (120, 200), 6)
TEXTS = [question.text for question in ask(SCENE, 3, 8)]


def flood_count(mask: NDArray[np.bool_]) -> int:
    """Number of 8-connected components, by flood fill."""
    left, count = set(zip(*np.nonzero(mask), strict=True)), 0
    while left:
        stack, count = [left.pop()], count + 1
        while stack:
            y, x = stack.pop()
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            stack += near
    return count


def test_features_are_what_their_names_say(plain: SSPSAMPredictor) -> None:
    answers = plain.predict(TEXTS, image=SCENE.pixels, return_features=True, return_logits="low_res", explain=True)
    assert {answer.no_target for answer in answers} == {False, True}
    for answer in answers:
        assert answer.features is not None
        assert answer.low_res_logits is not None
        assert answer.explanation is not None
        logits, maps = answer.low_res_logits.astype(np.float64), answer.explanation
        inside = logits >= 0
        mean = logits[inside].mean() if inside.any() else logits.max()
        expected = {
            "foreground_pixels": answer.foreground_pixels,
            "max_logit": logits.max(),
            "mean_logit": mean,
            "margin": mean - logits[~inside].mean(),
            "similarity_peak": maps.similarity.max(),
            "similarity_spread": maps.similarity.astype(np.float64).std(),
            "verification_peak": maps.verification.max(),
            "verification_spread": maps.verification.astype(np.float64).std(),
            "predicted_iou": answer.score,
            "components": flood_count(inside),
        }
        assert list(answer.features) == list(FEATURES)
        for name, value in expected.items():
            assert answer.features[name] == pytest.approx(value, rel=2e-5, abs=2e-6), name


def test_the_agreement_of_the_boxes_is_their_iou_on_the_image(plain: SSPSAMPredictor) -> None:
    answers = plain.predict(TEXTS, image=SCENE.pixels, return_features=True, no_target_pixels=0)
    for answer in answers:
        assert answer.features is not None
        if answer.mask_box is None:
            assert answer.features["box_agreement"] == 0
            continue
        (a, b, c, d), (e, f, g, h) = answer.box, answer.mask_box
        shared = max(0, min(c, g) - max(a, e)) * max(0, min(d, h) - max(b, f))
        iou = shared / ((c - a) * (d - b) + (g - e) * (h - f) - shared)
        # the box of the mask is taken at the low resolution: its edges may be off by half a pixel of 1.6
        assert answer.features["box_agreement"] == pytest.approx(iou, abs=0.12)


def test_features_are_not_returned_unless_they_are_wanted(plain: SSPSAMPredictor) -> None:
    answer = plain.predict(TEXTS[0], image=SCENE.pixels)
    assert (answer.features, answer.presence) == (None, None)


@pytest.mark.cuda
def test_features_of_a_recorded_gpu_graph_are_those_of_the_cpu(
    with_calibration: Callable[..., SSPSAMPredictor],
) -> None:
    predictor = with_calibration(-1.0, max_logit=0.3, components=0.2)
    expected = predictor.predict(TEXTS, image=SCENE.pixels, return_features=True)
    predictor.to("cuda")
    for _ in range(2):  # recorded, replayed
        results = predictor.predict(TEXTS, image=SCENE.pixels, return_features=True)
        for result, answer in zip(results, expected, strict=True):
            assert result.features == pytest.approx(answer.features, rel=1e-3, abs=1e-3)
            assert result.presence == pytest.approx(answer.presence, abs=1e-3)
