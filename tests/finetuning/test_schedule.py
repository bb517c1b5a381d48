"""Learning rates by step."""

import pytest

from sspsam.finetuning.schedule import learning_rate


def rates(steps: int, peak: float = 1e-4) -> list[float]:
    return [learning_rate(step, steps, peak, first=1e-6, last=1e-6, warmup=0.1) for step in range(steps)]


def test_the_rate_begins_at_the_warm_up_rate_and_rises_to_the_peak() -> None:
    values = rates(100)
    assert values[0] == 1e-6
    assert values[:11] == sorted(values[:11])
    assert values[10] == max(values) == pytest.approx(1e-4)


def test_the_rate_falls_as_a_cosine_to_its_end() -> None:
    values = rates(100)
    assert values[10:] == sorted(values[10:], reverse=True)
    assert values[55] == pytest.approx((1e-4 + 1e-6) / 2)
    assert values[-1] < 2e-6


def test_a_training_of_one_step_has_a_rate() -> None:
    assert rates(1) == [1e-6]
