"""Metrics of presence against brute force, and the reliability diagram."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sspsam import SSPSAMPredictor
from sspsam.errors import EvaluationError
from sspsam.evaluation.job import EvaluationJob
from sspsam.evaluation.metrics import compute_metrics
from sspsam.evaluation.presence import calibration_bins
from sspsam.evaluation.records import Record, read_records
from sspsam.evaluation.reliability import reliability_diagram, wilson_interval, write_reliability_diagram
from sspsam.evaluation.run import run_evaluation
from tests.support.calibrations import calibration_with
from tests.support.evaluated import write_scenes

RNG = np.random.default_rng(7)
PRESENT = RNG.random(300) < 0.6
PROBABILITY = np.clip(0.7 * PRESENT + RNG.normal(0.15, 0.2, 300), 0, 1)
COUNTS = (RNG.integers(0, 120, 300) * (PRESENT | (RNG.random(300) < 0.4))).tolist()


def records(with_probability: bool = True) -> list[Record]:
    return [
        Record(
            *(index, not present, COUNTS[index] < 50, 0, COUNTS[index], int(present)),
            foreground_pixels=COUNTS[index],
            presence=float(PROBABILITY[index]) if with_probability else None,
        )
        for index, present in enumerate(PRESENT.tolist())
    ]


def pair_auroc(score: np.ndarray) -> float:
    pairs = [(a > b) + 0.5 * (a == b) for a in score[PRESENT] for b in score[~PRESENT]]
    return float(np.mean(pairs))


def correlation(decided: np.ndarray) -> float:
    hit, false = int((decided & PRESENT).sum()), int((decided & ~PRESENT).sum())
    missed, right = int((~decided & PRESENT).sum()), int((~decided & ~PRESENT).sum())
    root = np.sqrt(float((hit + false) * (hit + missed) * (right + false) * (right + missed)))
    return float((hit * right - false * missed) / root)


def binned_error() -> float:
    total = 0.0
    for place in range(15):
        inside = [
            index
            for index, value in enumerate(PROBABILITY)
            if place / 15 < value <= (place + 1) / 15 or (place == 0 and value == 0)
        ]
        if inside:
            total += len(inside) / 300 * abs(PRESENT[inside].mean() - PROBABILITY[inside].mean())
    return total


def test_the_numbers_are_those_of_brute_force() -> None:
    metrics = compute_metrics(records())
    assert metrics["presence/AUROC"] == pytest.approx(pair_auroc(PROBABILITY), abs=1e-12)
    assert metrics["presence/MCC"] == pytest.approx(correlation(PROBABILITY >= 0.5), abs=1e-12)
    assert metrics["presence/ECE"] == pytest.approx(binned_error(), abs=1e-12)
    assert metrics["presence/count/AUROC"] == pytest.approx(pair_auroc(np.array(COUNTS)), abs=1e-12)
    assert metrics["presence/count/MCC"] == pytest.approx(correlation(np.array(COUNTS) >= 50), abs=1e-12)
    assert metrics["presence/count/ECE"] is None


def test_without_probabilities_the_numbers_are_those_of_the_count() -> None:
    metrics = compute_metrics(records(with_probability=False))
    for name in ("AUROC", "MCC", "ECE"):
        assert metrics[f"presence/{name}"] == metrics[f"presence/count/{name}"]
    assert metrics["presence/ECE"] is None
    assert metrics["presence/AUROC"] == pytest.approx(pair_auroc(np.array(COUNTS)), abs=1e-12)


def test_the_bins_hold_all_expressions() -> None:
    counts, predicted, observed = calibration_bins(PRESENT, PROBABILITY)
    assert counts.sum() == 300
    assert (counts * predicted).sum() == pytest.approx(PROBABILITY.sum())
    assert (counts * observed).sum() == pytest.approx(PRESENT.sum())


def test_a_wilson_interval_is_that_of_the_textbook() -> None:
    low, high = wilson_interval(0.5, 100)  # Agresti and Coull 1998: 0.4038 to 0.5962
    assert (round(low, 4), round(high, 4)) == (0.4038, 0.5962)
    assert wilson_interval(0.0, 10)[0] == 0.0
    assert wilson_interval(1.0, 10)[1] == 1.0


@pytest.mark.parametrize("dark", [False, True])
def test_the_point_of_a_bin_lies_at_its_probability_and_its_share(dark: bool) -> None:
    present = np.array([True] * 3 + [False] * 7)
    pixels = np.asarray(reliability_diagram(present, np.full(10, 0.3), dark=dark))
    assert pixels.shape == (860, 720, 3)
    assert pixels[5, 5].mean() < 60 if dark else pixels[5, 5].mean() > 240
    x, y = 92 + round(0.3 * 592), 92 + round(0.7 * 592)
    beside = pixels[y, x + 3].astype(int)
    assert np.abs(beside - ((110, 196, 245) if dark else (0, 94, 150))).max() < 40


def test_the_diagram_is_written_only_where_every_record_has_a_probability(tmp_path: Path) -> None:
    path = tmp_path / "reliability.png"
    assert not write_reliability_diagram(records(with_probability=False), path)
    assert not write_reliability_diagram([], path)
    assert not path.exists()
    assert write_reliability_diagram(records(), path)
    assert Image.open(path).size == (720, 860)


def test_an_evaluation_records_features_and_probabilities_and_draws_the_diagram(tmp_path: Path) -> None:
    data = write_scenes(tmp_path, scenes=2, questions=3)
    job = EvaluationJob("jsonl", "val", data)
    plain = SSPSAMPredictor.from_pretrained("shapes", device="cpu", calibration=False)
    calibration = calibration_with(plain.fingerprint, 0.5, max_logit=0.2)
    predictor = SSPSAMPredictor.from_pretrained("shapes", device="cpu", calibration=calibration)
    result = run_evaluation(job, predictor=predictor, output=tmp_path / "out")
    assert Image.open(tmp_path / "out" / "reliability.png").size == (720, 860)
    stored = read_records(tmp_path / "out" / "records.jsonl")
    assert stored == result.records
    for record in stored:
        assert record.fingerprint == predictor.fingerprint
        assert record.features is not None
        assert record.features["foreground_pixels"] == record.foreground_pixels
        logit = 0.5 + 0.2 * record.features["max_logit"]
        assert record.presence == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)
    assert result.metrics is not None
    assert result.metrics["presence/ECE"] is not None
    assert result.metrics["calibration"] == calibration.digest
    with pytest.raises(EvaluationError, match="calibration was"):
        run_evaluation(job, predictor=plain, output=tmp_path / "out")
    result = run_evaluation(job, predictor=plain, output=tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "reliability.png").exists()
    assert result.records[0].presence is None
    assert result.records[0].features == stored[0].features
