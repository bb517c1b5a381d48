"""Training of the bundled model: stages, resuming, several processes, data, losses, export and evaluation."""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sspsam import SSPSAMPredictor
from sspsam.checkpoints.format import load_checkpoint
from sspsam.evaluation.stored_answers import ANSWERS_NAME, load_answers
from sspsam.shapes import ask, draw_scene
from training import attention, losses, train, trainer
from training.datasets import ATTRIBUTES, PARSE_SIZES, TARGET_SIDE, SceneDataset
from training.evaluate import Answer, answers, summary, table
from training.recipe import RECIPES
from training.trainer import Trainer
from training.vocabulary import Vocabulary, load_or_create_vocabulary

SMOKE = RECIPES["smoke"]
STAGES = list(SMOKE.stages)


def weights(folder: Path, stage: str) -> dict[str, torch.Tensor]:
    return torch.load(folder / f"{stage}.pt", weights_only=True)["objective"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of all stages of the smoke recipe."""
    folder = tmp_path_factory.mktemp("run")
    train.main(["--recipe", "smoke", "--output", str(folder), "--log-steps", "2"])
    return folder


@pytest.fixture(scope="module")
def vocabulary(run: Path) -> Vocabulary:
    return load_or_create_vocabulary(SMOKE, run)


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


def test_processes_that_do_not_divide_the_batch_size_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train.main(["--recipe", "smoke", "--output", str(tmp_path), "--processes", "3"])
    assert "--processes 3 does not divide" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--images", "--processes", "--threads", "--log-steps"])
def test_numbers_below_one_are_refused(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.main(["--recipe", "smoke", "--output", str(tmp_path), option, "0"])
    assert f"{option} is 1 or more, not 0" in capsys.readouterr().err


@pytest.mark.parametrize(("stage", "earlier"), [("joint", "text"), ("refine", "joint")])
def test_a_stage_without_its_earlier_stage_names_the_missing_checkpoint(
    tmp_path: Path, stage: str, earlier: str
) -> None:
    with pytest.raises(FileNotFoundError, match=rf"stage {stage}.*stage {earlier},.*{earlier}\.pt .*: run") as error:
        train.main(["--recipe", "smoke", "--output", str(tmp_path), "--stages", stage])
    assert ("--start" in str(error.value)) == (stage == "joint")  # no other stage can start from a finished model


def test_an_interrupted_run_ends_with_the_weights_of_one_that_was_not(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "SAVE_SECONDS", 0.0)
    steps = 0
    train_step = Trainer._train_step

    def interrupted_step(self: Trainer, *arguments: object) -> dict[str, float]:
        nonlocal steps
        steps += 1
        if steps == 3:
            raise KeyboardInterrupt
        return train_step(self, *arguments)

    monkeypatch.setattr(Trainer, "_train_step", interrupted_step)
    command = ["--recipe", "smoke", "--output", str(tmp_path), "--stages", "clip"]
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
    trained = weights(run, "refine")["model.clip.text.token_embedding.weight"]
    exported = load_checkpoint(run / "model")[0].clip.text.token_embedding.weight
    for text in ("the red circle", "an aardvark's left foot!"):
        expected = trained[vocabulary.encode(text)]
        actual = exported[torch.from_numpy(vocabulary.tokenizer(text))]
        assert torch.allclose(actual, expected, atol=1e-3, rtol=1e-3)  # stored as float16


def test_training_starts_from_a_finished_model(tmp_path: Path, run: Path, vocabulary: Vocabulary) -> None:
    vocabulary.save(tmp_path / "vocabulary.json")
    words = ["--recipe", "smoke", "--output", str(tmp_path), "--start", str(run / "model")]
    initial = Trainer("joint", train.parse_options(words), 0).objective.model.state_dict()
    for key, trained in weights(run, "refine").items():
        if key.startswith("model.") and "token_embedding" not in key:
            assert torch.allclose(initial[key.removeprefix("model.")], trained, atol=1e-3, rtol=1e-3)
    embedding = "clip.text.token_embedding.weight"
    rows = [0, 1, *range(2, 2 + len(vocabulary.known)), vocabulary.size - 2, vocabulary.size - 1]
    assert torch.allclose(initial[embedding][rows], weights(run, "refine")[f"model.{embedding}"][rows], atol=1e-3)


def test_the_vocabulary_knows_every_word_but_foreign_nouns(vocabulary: Vocabulary) -> None:
    def unknown_tokens(text: str) -> int:
        return int((vocabulary.encode(text) == 1).sum())

    questions = [question for seed in range(40) for question in ask(draw_scene(seed, (96, 96)), seed, 30)]
    foreign = [question.text for question in questions if "foreign" in question.kind]
    assert all(unknown_tokens(question.text) == 0 for question in questions if "foreign" not in question.kind)
    assert len(foreign) > 20
    assert all(unknown_tokens(text) for text in foreign)
    assert unknown_tokens("a dog") == 1
    assert unknown_tokens("the hovercraft left of the dog") >= 2


def test_the_tensors_of_an_example_agree_with_one_another(vocabulary: Vocabulary) -> None:
    dataset = SceneDataset(SMOKE.config, 5, 4, vocabulary, 10)
    for index in range(10):
        example = dataset[index]
        shapes = len(example.masks)
        assert example.masks.shape == (shapes, TARGET_SIDE, TARGET_SIDE)
        assert example.masks.sum(dim=0).max() <= 1.001  # masks are disjoint
        assert example.patch_coverage.shape == (shapes, SMOKE.architecture.clip.grid**2)
        assert example.attributes[:, : ATTRIBUTES.index("small")].sum(dim=1).eq(2).all()  # one colour, one kind
        assert example.targets.shape == (len(example.token_ids), shapes) == example.candidates.shape
        assert (example.candidates >= example.targets).all()  # every target is a candidate
        assert example.parse.shape == (len(example.token_ids), len(PARSE_SIZES))
        assert (example.parse < torch.tensor(PARSE_SIZES)).all()
        for mask, box in zip(example.masks, example.boxes * TARGET_SIDE, strict=True):
            rows, columns = (torch.nonzero(mask.sum(dim=axis) > 0) for axis in (1, 0))
            tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert torch.allclose(torch.stack(tight).float(), box, atol=1.01)
    same = SceneDataset(SMOKE.config, 5, 4, vocabulary, 10)[3]
    assert torch.equal(same.sam_input, dataset[3].sam_input)
    assert torch.equal(same.token_ids, dataset[3].token_ids)


@pytest.mark.parametrize("mask", ["none", "bool", "float", "broadcast", "causal"])
def test_plain_attention_and_its_gradients_equal_the_fused_ones(mask: str) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, tokens, 4, dtype=torch.float64, requires_grad=True) for tokens in (5, 6, 6)]
    options: dict[str, object] = {}
    if mask == "bool":
        options["attn_mask"] = torch.arange(6).view(1, 1, 1, 6) < 4
    elif mask in ("float", "broadcast"):
        shape = (2, 3, 5, 6) if mask == "float" else (3, 1, 6)
        options["attn_mask"] = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        inputs.append(options["attn_mask"])
    elif mask == "causal":
        inputs[0] = torch.randn(2, 3, 6, 4, dtype=torch.float64, requires_grad=True)
        options["is_causal"] = True
    fused = F.scaled_dot_product_attention(*inputs[:3], **options)
    with attention.PlainAttention():
        plain = F.scaled_dot_product_attention(*inputs[:3], **options)
    assert "_Attention" in plain.grad_fn.name()
    assert "_Attention" not in fused.grad_fn.name()
    assert torch.allclose(plain, fused)
    direction = torch.randn_like(fused)
    gradients = (torch.autograd.grad(output, inputs, direction) for output in (plain, fused))
    for plain_gradient, fused_gradient in zip(*gradients, strict=True):
        assert torch.allclose(plain_gradient, fused_gradient)


def test_plain_attention_computes_in_the_dtype_of_autocast_with_gradients_in_the_dtype_of_its_inputs() -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 40, 16, requires_grad=True) for _ in range(3)]
    fused = F.scaled_dot_product_attention(*inputs)
    with torch.autocast("cpu", torch.bfloat16), attention.PlainAttention():
        plain = F.scaled_dot_product_attention(*inputs)
    assert plain.dtype is torch.bfloat16
    assert torch.allclose(plain.float(), fused, atol=0.03)
    gradients = (torch.autograd.grad(output.float().sum(), inputs) for output in (plain, fused))
    for plain_gradient, fused_gradient in zip(*gradients, strict=True):
        assert plain_gradient.dtype is torch.float32
        assert torch.allclose(plain_gradient, fused_gradient, atol=0.03)


def test_losses_are_near_zero_for_the_right_answer_and_large_for_its_opposite() -> None:
    target = torch.zeros(2, TARGET_SIDE, TARGET_SIDE)
    target[0, 16:64, 32:96] = 1
    low_res = F.avg_pool2d(target, 8) * 40 - 20  # (2, 16, 16): the second mask is empty
    right = losses.mask_losses(low_res, torch.ones(2), target)
    wrong = losses.mask_losses(-low_res, torch.ones(2), target)
    assert right["dice"] < 0.2 < 3 < wrong["dice"]
    assert right["focal"] < 0.3 < 10 < wrong["focal"]
    assert right["iou"] < 1e-3
    assert right["#iou"] > 0.99
    corners = torch.tensor([[0.2, 0.3, 0.6, 0.5]])
    center = torch.tensor([[0.4, 0.4, 0.4, 0.2]])
    assert all(float(loss) == pytest.approx(0, abs=1e-5) for loss in losses.box_losses(center, corners).values())


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
