"""The no-target rules: foreground pixels, or the probability of presence."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sspsam import SSPSAMPredictor
from sspsam.errors import ConfigError
from sspsam.segmentation.target_rule import is_no_target
from sspsam.shapes import ask, draw_scene

SCENE = draw_scene(3, (120, 200), 6)
TEXTS = [question.text for question in ask(SCENE, 3, 8)]

WithCalibration = Callable[..., SSPSAMPredictor]


def test_as_many_pixels_as_the_limit_are_a_target_and_one_fewer_are_none(plain: SSPSAMPredictor) -> None:
    embedding = plain.encode(SCENE.pixels)
    counts = [answer.foreground_pixels for answer in plain.predict(TEXTS, embedding=embedding)]
    limit = sorted(counts)[len(counts) // 2]
    for no_target_pixels in (limit, limit + 1):
        answers = plain.predict(TEXTS, embedding=embedding, no_target_pixels=no_target_pixels)
        assert [answer.no_target for answer in answers] == [count < no_target_pixels for count in counts]
        assert all(is_no_target(count, no_target_pixels) == (count < no_target_pixels) for count in counts)


def test_masks_scores_and_the_default_rule_do_not_depend_on_a_calibration(
    plain: SSPSAMPredictor, with_calibration: WithCalibration
) -> None:
    calibrated = with_calibration(max_logit=1.0)
    results = [
        predictor.predict(TEXTS, image=SCENE.pixels, return_logits="low_res") for predictor in (plain, calibrated)
    ]
    for one, other in zip(*results, strict=True):
        assert np.array_equal(one.mask, other.mask)
        assert np.array_equal(one.low_res_logits, other.low_res_logits)  # type: ignore[arg-type]
        assert (one.score, one.box, one.no_target) == (other.score, other.box, other.no_target)


def test_with_a_threshold_the_probability_and_an_empty_mask_decide(with_calibration: WithCalibration) -> None:
    predictor = with_calibration(max_logit=0.3)
    embedding = predictor.encode(SCENE.pixels)
    whole = predictor.predict(TEXTS, embedding=embedding, no_target_pixels=0)
    threshold = sorted(answer.presence or 0 for answer in whole)[len(TEXTS) // 2]
    for limit in (0.0, threshold, 1.0):
        answers = predictor.predict(TEXTS, embedding=embedding, presence_threshold=limit)
        for answer, other in zip(answers, whole, strict=True):
            assert answer.presence == other.presence
            assert answer.presence is not None
            has_target = answer.presence >= limit and other.mask.any()
            assert answer.no_target == (not has_target)
            assert np.array_equal(answer.mask, other.mask if has_target else np.zeros_like(other.mask))
            assert (answer.mask_box is None) == answer.no_target


def test_a_probable_target_keeps_a_mask_that_the_rule_about_pixels_would_empty(
    with_calibration: WithCalibration,
) -> None:
    predictor = with_calibration(intercept=5.0)
    answers = predictor.predict(TEXTS, image=SCENE.pixels, presence_threshold=0.5, mask_threshold=1e-6)
    small = [answer for answer in answers if answer.foreground_pixels < 50 and answer.mask.any()]
    assert small
    assert not any(answer.no_target for answer in small)


def test_a_threshold_without_a_calibration_names_the_way_out(plain: SSPSAMPredictor) -> None:
    with pytest.raises(ConfigError, match=r"sspsam calibrate.*calibration=FILE"):
        plain.predict("a star", image=SCENE.pixels, presence_threshold=0.5)
    with pytest.raises(ConfigError, match="calibration"):
        plain.predict_batch([SCENE.pixels], ["a star"], presence_threshold=0.5)


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), "half", True])
def test_a_threshold_that_is_no_probability_is_refused(value: Any, with_calibration: WithCalibration) -> None:
    with pytest.raises(ConfigError, match="presence_threshold"):
        with_calibration().predict("a star", image=SCENE.pixels, presence_threshold=value)


def test_two_rules_at_once_are_refused(with_calibration: WithCalibration) -> None:
    with pytest.raises(ConfigError, match="no_target_pixels and presence_threshold"):
        with_calibration().predict("a star", image=SCENE.pixels, presence_threshold=0.5, no_target_pixels=10)
