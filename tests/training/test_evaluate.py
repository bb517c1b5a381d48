"""The evaluation of a trained model on drawn scenes."""

from pathlib import Path

import numpy as np
import pytest

from sspsam import SSPSAMPredictor
from training.evaluate import Answer, answers, summary, table


def test_the_metrics_of_an_evaluation_match_a_count_by_hand() -> None:
    results = [
        Answer("shape", True, True, 0.95),
        Answer("shape", True, True, 0.6),
        Answer("place", True, False, 0.0),
        Answer("shape", False, False, 1.0),
        Answer("place", False, True, 0.0),
    ]
    numbers = summary(results)
    assert numbers["mIoU"] == pytest.approx(1.55 / 3)
    assert (numbers["Pr@0.5"], numbers["Pr@0.9"]) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert numbers["N-acc"] == 0.5
    assert numbers["T-acc"] == pytest.approx(2 / 3)
    assert numbers["kinds"]["place"] == {"expressions": 2, "mIoU": 0.0, "N-acc": 0.0}
    assert "| shape | 3 | 0.775 | 1.000 |" in table(numbers)


def test_an_evaluation_scores_the_expressions_of_both_renderers(run: Path) -> None:
    predictor = SSPSAMPredictor.from_pretrained(run / "model", device="cpu")
    for renderer in ("own", "second"):
        results = answers(predictor, renderer, 3, 4)
        assert len(results) >= 6
        assert {result.has_target for result in results} == {True, False} or len({r.kind for r in results}) > 1
        assert all(0 <= result.iou <= 1 for result in results)
        assert np.isfinite(summary(answers(predictor, renderer, 6, 8))["mIoU"])
