"""Pairs of questions that differ in one attribute, and the calibration of a model from start to end."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import sspsam
from sspsam import SSPSAMPredictor
from sspsam.shapes import draw_scene
from training import calibrate
from training.hard_negatives import scenes_and_pairs

SHAPES = Path(sspsam.__file__).parent / "bundled" / "shapes"


def test_pairs_are_half_with_a_target_and_half_without_one() -> None:
    total = 0
    for pixels, questions in scenes_and_pairs(5, 12, 4):
        absent = [question for question in questions if question.no_target]
        assert 2 * len(absent) == len(questions) <= 8
        assert all(question.mask.shape == pixels.shape[:2] for question in questions)
        assert {question.kind for question in questions if not question.no_target} <= {"one attribute right"}
        assert all(question.kind.endswith(" changed") for question in absent)
        total += len(questions)
    assert total > 48


def test_a_scene_of_pairs_does_not_depend_on_the_number_of_scenes() -> None:
    [*_, (pixels, questions)] = scenes_and_pairs(5, 3, 4)
    again, same = list(scenes_and_pairs(5, 6, 4))[2]
    assert np.array_equal(pixels, again)
    assert [question.text for question in questions] == [question.text for question in same]


def test_the_fit_sees_other_scenes_than_training_and_evaluations() -> None:
    pixels, _ = calibrate.own_scene(0)
    assert np.array_equal(pixels, draw_scene(np.random.default_rng(800_000_000)).pixels)


@pytest.mark.slow
def test_the_command_fits_writes_measures_and_continues(tmp_path: Path) -> None:
    model = Path(shutil.copytree(SHAPES, tmp_path / "model"))
    table = calibrate.calibrate(model, 22, 3, 3, tmp_path / "records")
    stored = json.loads((model / "calibration.json").read_text())
    predictor = SSPSAMPredictor.from_pretrained(model, device="cpu")
    assert stored["fingerprint"] == predictor.fingerprint
    assert "| AUROC |" in table
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "records").rglob("*.jsonl")}
    assert len(times) == 3
    assert calibrate.calibrate(model, 22, 3, 3, tmp_path / "records") == table
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "records").rglob("*.jsonl")}
