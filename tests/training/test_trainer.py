"""The stages of training: what they start from, resuming, processes, a given time, and the exported model."""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sspsam import SSPSAMPredictor
from sspsam.checkpoints.format import load_checkpoint
from sspsam.evaluation.stored_answers import ANSWERS_NAME, load_answers
from sspsam.shapes import draw_scene
from tests.support.training import SMOKE, weights
from training import positions, train
from training.recipe import RECIPES
from training.trainer import Trainer
from training.vocabulary import Vocabulary

STAGES = list(SMOKE.stages)


def test_every_stage_logs_finite_losses(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == [stage for stage in STAGES for _ in range(2)]
    for line in lines:
        assert all(math.isfinite(value) for key, value in line.items() if key != "stage")
    assert {
        "dice",
        "focal",
        "l1",
        "giou",
        "similarity",
        "marks",
        "parse",
        "exists",
        "count",
        "no_target",
        "landmark",
    } <= set(lines[-1])


def test_a_later_stage_starts_from_the_weights_of_earlier_stages(
    tmp_path: Path, run: Path, vocabulary: Vocabulary
) -> None:
    for stage in ("text", "clip", "sam"):
        (tmp_path / f"{stage}.pt").write_bytes((run / f"{stage}.pt").read_bytes())
    vocabulary.save(tmp_path / "vocabulary.json")
    options = train.parse_options(["--recipe", "smoke", "--output", str(tmp_path)])
    initial = Trainer("joint", options, 0).objective.state_dict()
    (tmp_path / "joint.pt").write_bytes((run / "joint.pt").read_bytes())
    initial_refine = Trainer("refine", options, 0).objective.state_dict()
    assert all(torch.equal(initial_refine[key], trained) for key, trained in weights(run, "joint").items())
    for stage, prefix in (
        ("text", "model.clip.text."),
        ("text", "model.ssp.linguistic_attention_adapter."),
        ("text", "heads.parse."),
        ("clip", "model.clip.visual."),
        ("clip", "heads.attributes."),
        ("sam", "model.sam."),
    ):
        keys = [key for key in initial if key.startswith(prefix)]
        assert keys
        trained = weights(run, stage)
        assert all(torch.equal(initial[key], trained[key]) for key in keys)


def test_frozen_parameters_stay_and_the_others_change(run: Path) -> None:
    before, after = (weights(run, stage) for stage in ("clip", "joint"))
    visual = [key for key in before if key.startswith("model.clip.visual.")]
    assert all(torch.equal(before[key], after[key]) for key in visual)
    for prefix in ("model.clip.text.", "model.ssp.", "model.sam."):
        earlier = weights(run, "sam") if prefix == "model.sam." else before
        assert any(not torch.equal(earlier[key], after[key]) for key in after if key.startswith(prefix))


@pytest.mark.parametrize(
    ("stage", "earlier"), [("joint", "text"), ("refine", "joint"), ("fine", "refine"), ("polish", "fine")]
)
def test_a_stage_without_its_earlier_stage_names_the_missing_checkpoint(
    tmp_path: Path, stage: str, earlier: str
) -> None:
    with pytest.raises(FileNotFoundError, match=rf"stage {stage}.*stage {earlier},.*{earlier}\.pt .*: run") as error:
        train.main(["--recipe", "smoke", "--output", str(tmp_path), "--stages", stage])
    assert ("--start" in str(error.value)) == (
        stage not in ("refine", "polish")
    )  # these cannot start from a finished model


def test_an_interrupted_run_ends_with_the_weights_of_one_that_was_not(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0
    train_step = Trainer._train_step

    def interrupted_step(self: Trainer, *arguments: object) -> dict[str, float]:
        nonlocal steps
        steps += 1
        if steps == 3:
            raise KeyboardInterrupt
        return train_step(self, *arguments)

    monkeypatch.setattr(Trainer, "_train_step", interrupted_step)
    command = ["--recipe", "smoke", "--output", str(tmp_path), "--stages", "clip", "--save-seconds", "0"]
    with pytest.raises(KeyboardInterrupt):
        train.main(command)
    assert torch.load(tmp_path / "clip.pt", weights_only=True)["step"] == 2
    train.main(command)
    assert steps == 5  # two, the interrupted one, and the two that remained
    uninterrupted, resumed = weights(run, "clip"), weights(tmp_path, "clip")
    assert all(torch.equal(uninterrupted[key], resumed[key]) for key in uninterrupted)


@pytest.mark.slow
def test_two_processes_train_the_same_weights_as_one(tmp_path: Path) -> None:
    for count in ("1", "2"):
        words = ["--recipe", "smoke", "--stages", "clip", "--precision", "float32", "--processes", count]
        train.main([*words, "--output", str(tmp_path / count)])
    one, two = weights(tmp_path / "1", "clip"), weights(tmp_path / "2", "clip")
    assert all(torch.allclose(one[key], two[key], atol=2e-4) for key in one)


@pytest.mark.slow
def test_processes_train_together_when_only_one_of_them_uses_point_prompts(tmp_path: Path) -> None:
    words = ["--recipe", "smoke", "--stages", "sam", "--images", "24", "--log-steps", "1", "--output", str(tmp_path)]
    train.main([*words, "--processes", "2"])  # one scene each: in three of ten steps only one of them uses points
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 12
    assert all(weight.isfinite().all() for weight in weights(tmp_path, "sam").values())


@pytest.mark.slow
def test_the_processes_of_a_killed_training_end_even_if_interrupts_are_ignored(tmp_path: Path) -> None:
    words = ["--recipe", "smoke", "--stages", "clip", "--images", "1000000", "--log-steps", "1", "--processes", "2"]
    command = [sys.executable, "-m", "training.train", *words, "--output", str(tmp_path)]
    running = subprocess.Popen(
        command,
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # as shells start background jobs
    )
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "log.jsonl").exists():
            assert running.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        running.kill()
        running.communicate(timeout=60)  # the pipe closes when the last process has ended
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)


def test_the_result_is_a_checkpoint_of_the_library(run: Path, vocabulary: Vocabulary) -> None:
    predictor = SSPSAMPredictor.from_pretrained(run / "model", device="cpu")
    assert predictor.config.architecture == SMOKE.architecture
    assert load_answers(run / "model" / ANSWERS_NAME, predictor.config).scenes
    results = predictor.predict(["the red circle", "a dog"], image=draw_scene(3).pixels)
    assert results[0].mask.shape == draw_scene(3).pixels.shape[:2]
    # CLIP's token ids select the rows that the small vocabulary selected during training
    trained = weights(run, "polish")["model.clip.text.token_embedding.weight"]
    exported = load_checkpoint(run / "model")[0].clip.text.token_embedding.weight
    for text in ("the red circle", "an aardvark's left foot!"):
        expected = trained[vocabulary.encode(text)]
        actual = exported[torch.from_numpy(vocabulary.tokenizer(text))]
        assert torch.allclose(actual, expected, atol=1e-3, rtol=1e-3)  # stored as float16


@pytest.mark.parametrize("stage", ["joint", "fine"])
def test_training_starts_from_a_finished_model(tmp_path: Path, run: Path, vocabulary: Vocabulary, stage: str) -> None:
    vocabulary.save(tmp_path / "vocabulary.json")
    words = ["--recipe", "smoke", "--output", str(tmp_path), "--start", str(run / "model"), "--stages", stage]
    initial = Trainer(stage, train.parse_options(words), 0).objective.model.state_dict()
    resized = {key for key in initial if "pos_embed" in key or (".rel_pos_" in key and "blocks.1." in key)}
    assert len(resized) == 3
    for key, trained in weights(run, "polish").items():
        name = key.removeprefix("model.")
        if name in resized and stage == "joint":  # SAM's input has half of the size
            assert initial[name].numel() < trained.numel()
        elif key.startswith("model.") and "token_embedding" not in key:
            assert torch.allclose(initial[name], trained, atol=1e-3, rtol=1e-3)
    embedding = "clip.text.token_embedding.weight"
    rows = [0, 1, *range(2, 2 + len(vocabulary.known)), vocabulary.size - 2, vocabulary.size - 1]
    assert torch.allclose(initial[embedding][rows], weights(run, "polish")[f"model.{embedding}"][rows], atol=1e-3)


def test_the_heads_learn_alone_at_the_beginning_of_the_last_stage(tmp_path: Path, run: Path) -> None:
    for file in ("refine.pt", "vocabulary.json"):
        (tmp_path / file).write_bytes((run / file).read_bytes())
    words = ["--recipe", "smoke", "--output", str(tmp_path), "--stages", "fine", "--images", "2"]
    train.main(words)  # one step: its progress is 0
    trained, before = weights(tmp_path, "fine"), positions.fit_positions(weights(run, "refine"), weights(run, "fine"))
    for key, weight in trained.items():
        assert torch.equal(weight, before[key]) != key.startswith("heads."), key


def test_training_for_a_given_time_ends_after_it(tmp_path: Path, run: Path) -> None:
    (tmp_path / "vocabulary.json").write_bytes((run / "vocabulary.json").read_bytes())
    words = ["--recipe", "smoke", "--output", str(tmp_path), "--stages", "text", "--time", "1.5", "--log-steps", "1"]
    train.main(words)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-2]["seconds"] <= 1.5 <= lines[-1]["seconds"] < 10
    assert lines[-1]["images"] > RECIPES["smoke"].stages["text"].images  # their number does not count
    assert lines[-1]["rate"] < 0.2 * max(line["rate"] for line in lines)  # the schedule came to its end
