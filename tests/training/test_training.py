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
from sspsam.models import SSPSAM
from sspsam.shapes import ask, draw_scene
from training import attention, losses, optimizer, positions, train
from training.batches import SceneBatch, collate_scenes
from training.datasets import ATTRIBUTES, PARSE_SIZES, SceneDataset
from training.evaluate import Answer, answers, summary, table
from training.objectives import Objective
from training.recipe import RECIPES
from training.trainer import Trainer
from training.vocabulary import Vocabulary, load_or_create_vocabulary

SMOKE = RECIPES["smoke"]
STAGES = list(SMOKE.stages)


TARGET_SIDE = 128  # of the masks in a loss


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


@pytest.mark.parametrize("option", ["--images", "--batch-size", "--time", "--processes", "--prefetch", "--log-steps"])
def test_numbers_below_one_are_refused(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.main(["--recipe", "smoke", "--output", str(tmp_path), option, "0"])
    assert f"{option} is 1 or more, not 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stages", "clip", "--start", "model"], "--start: stage clip cannot start from a model"),
        (["--start", "model"], "--start: stage text cannot start from a model"),
        (["--time", "9", "--processes", "2"], "--time needs --processes 1"),
    ],
)
def test_options_that_exclude_each_other_are_refused(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train.main(["--recipe", "smoke", "--output", str(tmp_path), *words])
    assert message in capsys.readouterr().err


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


def test_interpolated_positions_keep_a_ramp_and_everything_else() -> None:
    small, large = torch.arange(8.0), torch.linspace(-0.25, 7.25, 16)  # the same ramp, at pixel centres
    ramp = small.view(1, 1, 8, 1) + 10 * small.view(1, 8, 1, 1)
    weights = {
        "sam.image_encoder.pos_embed": ramp,
        "sam.image_encoder.blocks.1.attn.rel_pos_h": torch.arange(7.0).view(7, 1),
        "sam.image_encoder.blocks.0.attn.rel_pos_h": torch.arange(3.0).view(3, 1),
        "other": torch.ones(2),
    }
    model = {
        "sam.image_encoder.pos_embed": torch.zeros(1, 16, 16, 1),
        "sam.image_encoder.blocks.1.attn.rel_pos_h": torch.zeros(15, 1),
        "sam.image_encoder.blocks.0.attn.rel_pos_h": torch.zeros(3, 1),
    }
    fitted = positions.fit_positions(weights, model)
    inner = slice(4, 12)  # at the border the values are extrapolated
    expected = large.view(1, 1, 16, 1) + 10 * large.view(1, 16, 1, 1)
    error = (fitted["sam.image_encoder.pos_embed"] - expected)[:, inner, inner].abs().max()
    assert error < 0.6  # PyTorch's bicubic weights follow a ramp within 0.05 of a step
    distances = fitted["sam.image_encoder.blocks.1.attn.rel_pos_h"][:, 0]
    assert torch.allclose(distances[1:-1], torch.linspace(-0.2667, 6.2667, 15)[1:-1], atol=1e-3)
    assert distances[7] == 3  # distance 0 stays
    for name in ("sam.image_encoder.blocks.0.attn.rel_pos_h", "other"):
        assert fitted[name] is weights[name]


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


def scenes(vocabulary: Vocabulary, count: int) -> list[SceneBatch]:
    """Batches of one scene each, and at last all of them as one batch."""
    config = SMOKE.stage_config(SMOKE.stages["fine"])
    dataset = SceneDataset(config, 7, 4, vocabulary, count)
    examples = [dataset[index] for index in range(count)]
    assert len({len(example.masks) for example in examples}) > 1
    return [*(collate_scenes([example]) for example in examples), collate_scenes(examples)]


def test_the_output_for_a_scene_does_not_depend_on_the_other_scenes_of_the_batch(vocabulary: Vocabulary) -> None:
    torch.manual_seed(0)
    objective = Objective(SSPSAM(SMOKE.stage_config(SMOKE.stages["fine"]).architecture))
    *single, together = scenes(vocabulary, 3)
    with torch.no_grad():
        expected = [objective._segment(batch)[2] for batch in single]
        output = objective._segment(together)[2]
    for name in ("low_res", "ious", "box", "similarity"):
        assert torch.allclose(getattr(output, name), torch.cat([getattr(x, name) for x in expected]), atol=1e-4)
    for name in ("marks", "summary"):
        assert torch.allclose(getattr(output, name), torch.cat([getattr(x, name) for x in expected], dim=1), atol=1e-4)


def test_training_segments_as_the_library_does(vocabulary: Vocabulary) -> None:
    torch.manual_seed(0)
    model = SSPSAM(SMOKE.stage_config(SMOKE.stages["fine"]).architecture)
    *single, together = scenes(vocabulary, 3)
    with torch.no_grad():
        output = Objective(model)._segment(together)[2]
        images = model.encode_image(together.clip_input, together.sam_input)
        answers = [
            model.segment(model.prepare(image), model.encode_text(batch.token_ids))
            for image, batch in zip(images, single, strict=True)
        ]
    assert torch.allclose(output.low_res, torch.cat([answer.low_res for answer in answers]), atol=1e-4)
    assert torch.allclose(output.box, torch.cat([answer.box for answer in answers]), atol=1e-4)


def test_the_losses_of_patches_are_the_mean_over_the_scenes_of_a_batch(vocabulary: Vocabulary) -> None:
    torch.manual_seed(0)
    objective = Objective(SSPSAM(SMOKE.stage_config(SMOKE.stages["fine"]).architecture))
    *single, together = scenes(vocabulary, 3)
    with torch.no_grad():
        expected = [objective("clip", batch) for batch in single]
        actual = objective("clip", together)
    for name, loss in actual.items():
        assert float(loss) == pytest.approx(float(torch.stack([x[name] for x in expected]).mean()), rel=1e-4)


def test_batched_muon_equals_that_of_pytorch() -> None:
    torch.manual_seed(0)
    shapes = [(24, 24), (24, 24), (40, 20), (20, 40), (40, 20)]
    batched = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    stock = [torch.nn.Parameter(parameter.detach().clone()) for parameter in batched]
    ours = optimizer.Muon([{"params": batched}], 1e-2, 0.02)
    theirs = torch.optim.Muon(stock, lr=1e-2, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")
    for step in range(3):
        for index, (one, other) in enumerate(zip(batched, stock, strict=True)):
            one.grad = None if index == 1 and step == 1 else torch.randn(one.shape)
            other.grad = None if one.grad is None else one.grad.clone()
        ours.step()
        theirs.step()
    for one, other in zip(batched, stock, strict=True):
        assert torch.allclose(one, other, atol=2e-4)


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
        side = SMOKE.architecture.sam.image_size // 2
        assert example.masks.shape == (shapes, side, side)
        assert example.masks.sum(dim=0).max() <= 256  # masks are disjoint
        assert example.patch_coverage.shape == (shapes, SMOKE.architecture.clip.grid**2)
        assert example.attributes[:, : ATTRIBUTES.index("small")].sum(dim=1).eq(2).all()  # one colour, one kind
        assert example.targets.shape == (len(example.token_ids), shapes) == example.candidates.shape
        assert (example.candidates >= example.targets).all()  # every target is a candidate
        assert example.parse.shape == (len(example.token_ids), len(PARSE_SIZES))
        assert (example.parse < torch.tensor(PARSE_SIZES)).all()
        for mask, box in zip(example.masks, example.boxes * side, strict=True):
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


def test_the_edge_loss_sees_the_pixels_near_an_edge_alone() -> None:
    target = torch.zeros(2, TARGET_SIDE, TARGET_SIDE)
    target[0, 32:96, 32:96] = 1  # the second mask has no edge
    logits = 20 * target - 10

    def edge(low_res: torch.Tensor) -> float:
        return float(losses.mask_losses(low_res, torch.ones(2), target, edges=True)["edge"])

    right = edge(logits)
    far, near = logits.clone(), logits.clone()
    far[0, 48:80, 48:80] = -10
    near[0, 30:34, 32:96] = 0
    assert right < 1e-3
    assert edge(far) == right
    assert edge(near) > 0.1


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


def test_expressions_without_a_target_weigh_as_much_as_the_stage_says() -> None:
    low_res = torch.randn(3, 4, 4)
    present = torch.tensor([True, False, False])

    def loss(weight: float, rows: slice) -> float:
        return 3 * float(losses.no_target_loss(low_res[rows], present[rows], weight)["no_target"])

    single = [float(losses.no_target_loss(low_res[i : i + 1], present[i : i + 1])["no_target"]) for i in range(3)]
    assert loss(1.0, slice(None)) == pytest.approx(sum(single), rel=1e-5)
    assert loss(2.0, slice(None)) == pytest.approx(single[0] + 2 * single[1] + 2 * single[2], rel=1e-5)
    assert RECIPES["shapes"].stages["polish"].no_target_weight == 2.0
