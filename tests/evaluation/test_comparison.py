"""Differences between answers and references, and the tolerances."""

import dataclasses

import numpy as np
import pytest
import torch

from sspsam.evaluation.comparison import Differences, ReferenceAnswer
from sspsam.segmentation.result import Segmentation


def answer(logit: float = 0.0, pixels: int = 3, score: float = 0.5, x0: float = 1.0) -> Segmentation:
    mask = np.zeros((4, 5), dtype=np.bool_)
    mask.flat[:pixels] = True
    logits = np.full((2, 2), logit, dtype=np.float32)
    return Segmentation("a text", mask, pixels == 0, pixels, score, (x0, 2.0, 3.0, 4.0), None, low_res_logits=logits)


def differences(result: Segmentation, reference: Segmentation) -> Differences:
    return Differences.between([result], [ReferenceAnswer.of(reference)])


def test_equal_answers_have_no_differences() -> None:
    assert differences(answer(), answer()) == Differences(mask_pixels=20, questions=1)


def test_every_kind_of_difference_is_measured() -> None:
    found = differences(answer(-0.25, 0, 0.5, 1.5), answer(0.5, 3, 0.25, 1.0))
    assert found == Differences(
        0.75, 0.25, 0.5, mask_pixels_changed=3, mask_pixels=20, no_target_changed=1, questions=1
    )


def test_differences_of_two_images_are_joined_by_maximum_and_sum() -> None:
    joined = differences(answer(1.0), answer()) + differences(answer(0.5, pixels=5), answer())
    assert joined == Differences(1.0, mask_pixels_changed=2, mask_pixels=40, questions=2)


@pytest.mark.parametrize("wrong", [{"logit": np.nan}, {"score": np.nan}, {"x0": np.nan}])
@pytest.mark.parametrize("place", [0, 1])
def test_one_value_that_is_nan_is_beyond_tolerance_wherever_it_stands(wrong: dict[str, float], place: int) -> None:
    results = [answer(), answer()]
    results[place] = answer(**wrong)
    found = Differences.between(results, [ReferenceAnswer.of(answer())] * 2)
    for total in (found, found + differences(answer(), answer()), differences(answer(), answer()) + found):
        assert len(total.beyond_tolerance(torch.float32)) == 1


@pytest.mark.parametrize(
    ("changed", "dtype", "beyond"),
    [
        ({"max_logit_difference": 9e-4, "max_score_difference": 9e-4, "max_box_difference": 0.09}, "float32", []),
        ({"max_logit_difference": 2e-3}, "float32", ["logits"]),
        ({"max_logit_difference": float("nan")}, "float32", ["logits"]),
        ({"max_score_difference": 2e-3, "max_box_difference": 0.2}, "float32", ["scores", "boxes"]),
        ({"mask_pixels_changed": 2}, "float32", []),  # logits that differ by 1e-5 may lie on both sides of a threshold
        ({"max_logit_difference": 2.0, "max_box_difference": 2.0, "mask_pixels_changed": 1}, "float16", []),
        ({"mask_pixels_changed": 2}, "bfloat16", ["0.20% of the mask pixels"]),
        ({"no_target_changed": 1}, "float32", ["1 of 8 no-target answers"]),
        ({"no_target_changed": 1}, "float16", ["1 of 8 no-target answers"]),
    ],
)
def test_tolerances_depend_on_the_precision(changed: dict[str, float], dtype: str, beyond: list[str]) -> None:
    found = dataclasses.replace(Differences(mask_pixels=1000, questions=8), **changed)
    problems = found.beyond_tolerance(getattr(torch, dtype))
    assert len(problems) == len(beyond)
    assert all(problem.startswith(start) for problem, start in zip(problems, beyond, strict=True))


def test_a_result_without_logits_is_refused() -> None:
    with pytest.raises(ValueError, match='return_logits="low_res"'):
        ReferenceAnswer.of(dataclasses.replace(answer(), low_res_logits=None))
