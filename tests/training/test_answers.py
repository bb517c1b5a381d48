"""The questions whose answers are stored for `sspsam check`, and the command that stores them."""

import shutil
import sys
from pathlib import Path

import pytest

from sspsam import SSPSAMPredictor
from sspsam.checkpoints.format import read_config
from sspsam.evaluation.stored_answers import ANSWERS_NAME, load_answers
from sspsam.shapes import draw_scene
from training import answers


def test_the_questions_are_of_many_kinds_and_every_scene_has_one_without_target() -> None:
    questions = list(answers.chosen_questions())
    assert len(questions) == 10
    assert all(len(set(texts)) == 4 for _, texts in questions)
    assert len({text for _, texts in questions for text in texts}) > 30


def test_the_command_stores_the_answers_of_a_model_beside_it(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    scenes = [answers.ImageQuestions(draw_scene(seed, (60, 90)).pixels, ["a star"]) for seed in (1, 2)]
    monkeypatch.setattr(answers, "chosen_questions", lambda: iter(scenes))
    monkeypatch.setattr(sys, "argv", ["training.answers", str(model)])
    answers.main()
    assert str(model / ANSWERS_NAME) in capsys.readouterr().out
    stored = load_answers(model / ANSWERS_NAME, read_config(model))
    assert set(stored.made_with) >= {"sspsam", "torch", "numpy", "Pillow"}
    expected = SSPSAMPredictor.from_pretrained(model, device="cpu").predict("a star", image=scenes[1].pixels)
    assert stored.scenes[1].answers[0].score == expected.score
    assert (stored.scenes[1].answers[0].mask == expected.mask).all()
