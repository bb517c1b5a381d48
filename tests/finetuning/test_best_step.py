"""The best step, of which the start is one, and the end of a training."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sspsam.checkpoints.format import load_checkpoint
from sspsam.errors import FinetuningError
from sspsam.finetuning import training
from sspsam.finetuning.run import finetune
from tests.support.finetuning import OPTIONS, job, weights, write_lines
from tests.support.sharing import EncodedImages

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lines(tmp_path_factory.mktemp("lines"))


@pytest.fixture(scope="module")
def finished(lines: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("finished") / "new"
    assert finetune(job(lines, tiny_model, output), OPTIONS) is not None
    return output


def test_where_no_step_is_better_the_weights_are_those_of_the_start_and_the_card_says_so(
    finished: Path, lines: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    destroying = dataclasses.replace(OPTIONS, steps=2, learning_rate=0.5, decoder_rate=0.5, eval_steps=1)
    result = finetune(job(lines, finished, tmp_path / "new"), destroying, message=said.append)
    assert result is not None
    assert (result.best_step, result.steps) == (0, 2)
    assert result.after == result.before
    assert weights(tmp_path / "new") == weights(finished)
    assert any("no step made the model better" in line and "--learning-rate" in line for line in said)
    assert "none was better on the held-out parts than the starting point, **whose" in (
        (tmp_path / "new" / "README.md").read_text()
    )


@pytest.mark.parametrize("interrupted_before", [None, pytest.param(5, marks=pytest.mark.slow)])
def test_patience_counts_from_the_best_step_though_the_start_was_better(
    interrupted_before: int | None, lines: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.9, 0.1, 0.2, 0.4, 0.3, 0.2, 0.9])

    def scripted(metrics: Any) -> float:
        return next(scores)

    monkeypatch.setattr("sspsam.finetuning.training_data.score_of", scripted)
    monkeypatch.setattr("sspsam.finetuning.run.score_of", lambda _: 0.9)
    options = dataclasses.replace(OPTIONS, steps=10, eval_steps=1, patience=2)
    if interrupted_before is not None:
        with monkeypatch.context() as patch:
            original = training.collate
            calls = iter(range(1, 100))

            def interrupted(*arguments: Any) -> Any:
                if next(calls) == interrupted_before:
                    raise KeyboardInterrupt
                return original(*arguments)

            patch.setattr(training, "collate", interrupted)
            with pytest.raises(KeyboardInterrupt):
                finetune(job(lines, tiny_model, tmp_path / "new"), options)
    result = finetune(job(lines, tiny_model, tmp_path / "new"), options)
    assert result is not None
    assert (result.best_step, result.steps) == (0, 5)
    before, after = (load_checkpoint(path)[0].state_dict() for path in (tiny_model, tmp_path / "new"))
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.slow
def test_the_images_are_encoded_once_in_another_precision_which_continues_as_it_began(
    lines: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = job(lines, tiny_model, tmp_path / "new")
    start = dataclasses.replace(given.start, dtype="bfloat16", embeddings=tmp_path / "embeddings")
    encoded = EncodedImages(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr("sspsam.finetuning.run.write_result", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            finetune(dataclasses.replace(given, start=start), OPTIONS)
    with pytest.raises(FinetuningError, match=r"image encoders \(dtype\) \(bfloat16, not float32\)"):
        finetune(given, OPTIONS)
    encoded.count = 0
    shutil.rmtree(tmp_path / "embeddings")
    finetune(dataclasses.replace(given, start=start), OPTIONS)
    assert encoded.count == 6
