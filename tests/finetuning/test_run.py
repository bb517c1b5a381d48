"""Fine-tunings on the tiny model, from lines to a checkpoint."""

import dataclasses
import hashlib
import json
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from sspsam import SSPSAMPredictor
from sspsam.checkpoints.format import load_checkpoint
from sspsam.errors import FinetuningError, NumericalError, SSPSAMWarning
from sspsam.evaluation.job import EvaluationJob
from sspsam.evaluation.run import run_evaluation
from sspsam.finetuning import training
from sspsam.finetuning.job import FinetuneJob
from sspsam.finetuning.lines import DataSource, SourceLine, read_lines
from sspsam.finetuning.options import FinetuneOptions
from sspsam.finetuning.run import finetune
from sspsam.finetuning.state import read_log
from sspsam.segmentation.rle import rle_encode
from tests.support.finetuning import OPTIONS, job, weights, write_lines

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lines(tmp_path_factory.mktemp("lines"))


@pytest.fixture(scope="module")
def finished(lines: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("finished") / "new"
    assert finetune(job(lines, tiny_model, output, worst=3), OPTIONS) is not None
    return output


def test_the_result_is_an_ordinary_checkpoint(finished: Path, lines: Path) -> None:
    predictor = SSPSAMPredictor.from_pretrained(finished, device="cpu")
    assert predictor.predict("the bright square", image=lines.parent / "0.png").mask.shape == (48, 64)
    assert predictor.config.source.startswith("fine-tuned with sspsam finetune from")
    assert {path.name for path in finished.iterdir()} == {
        *("README.md", "config.json", "curves.png", "finetune.json", "log.jsonl", "model.safetensors", "worst"),
    }
    assert Image.open(finished / "curves.png").size == (960, 760)


def test_the_image_encoders_and_the_text_encoder_stay_bit_for_bit_and_ssp_and_decoder_move(
    finished: Path, tiny_model: Path
) -> None:
    after, before = (load_checkpoint(path)[0].state_dict() for path in (finished, tiny_model))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {".".join(name.split(".")[:2]) for name in moved} == {
        "sam.mask_decoder",
        *(f"ssp.{part}" for part in ("box_head", "fusion", "linguistic_attention_adapter", "prompt_generator")),
        "ssp.visual_attention_adapter",
    }
    assert not [name for name in moved if "iou_prediction_head" in name]


def test_the_numbers_of_the_report_are_those_of_sspsam_eval(finished: Path, lines: Path, tmp_path: Path) -> None:
    report = json.loads((finished / "finetune.json").read_text())
    everything = [json.loads(line) for line in lines.read_text().splitlines()]
    assert report["lines"] == {
        "train": 8,
        "train_images": 4,
        "held_out": 4,
        "held_out_images": 2,
        "without_target": 6,
        "left_out": 0,
        "rehearsal": 0,
        "negative_phrases": 0,
    }
    held_out = [
        line
        for line in everything
        if hashlib.sha256((lines.parent / line["image"]).read_bytes()).hexdigest() in report["held_out_digests"]
    ]
    assert len(held_out) == 4
    (tmp_path / "held.jsonl").write_text("".join(json.dumps(line) + "\n" for line in held_out))
    evaluation = run_evaluation(
        EvaluationJob("jsonl", "held", tmp_path, image_root=lines.parent),
        predictor=SSPSAMPredictor.from_pretrained(finished, device="cpu"),
    )
    assert evaluation.metrics is not None
    for name, value in report["after"]["held_out"].items():
        assert evaluation.metrics[name] == pytest.approx(value, abs=1e-6), name
    card = (finished / "README.md").read_text()
    assert f"{report['after']['held_out']['gIoU']:.3f}" in card
    assert "0.png" not in card


@pytest.mark.slow
def test_two_runs_with_one_seed_agree_and_another_seed_does_not(
    finished: Path, lines: Path, tiny_model: Path, tmp_path: Path
) -> None:
    finetune(job(lines, tiny_model, tmp_path / "again"), OPTIONS)
    assert weights(tmp_path / "again") == weights(finished)
    finetune(job(lines, tiny_model, tmp_path / "other"), dataclasses.replace(OPTIONS, seed=1))
    assert weights(tmp_path / "other") != weights(finished)


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_a_training_that_was_interrupted_continues_to_the_same_bytes(
    step: int, finished: Path, lines: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = dataclasses.replace(OPTIONS, save_seconds=1e-6)
    original = training.collate
    calls = 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == step + 1:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(training, "collate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        finetune(job(lines, tiny_model, tmp_path / "new"), options)
    said: list[str] = []
    finetune(job(lines, tiny_model, tmp_path / "new"), options, message=said.append)
    assert f"continuing after step {step}" in said
    assert weights(tmp_path / "new") == weights(finished)
    logs = [
        [{**line, "seconds": 0} for line in read_log(folder / "log.jsonl")] for folder in (tmp_path / "new", finished)
    ]
    assert logs[0] == logs[1]


@pytest.mark.slow
def test_where_memory_runs_out_the_batch_is_halved_and_the_weights_agree(
    finished: Path, lines: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = training.collate

    def limited(examples: Any, side: int) -> Any:
        if len(examples) > 2:
            raise MemoryError
        return original(examples, side)

    monkeypatch.setattr(training, "collate", limited)
    with pytest.warns(SSPSAMWarning, match="accumulated over 2 examples"):
        finetune(job(lines, tiny_model, tmp_path / "new"), OPTIONS)
    start, expected, actual = (
        torch.cat([tensor.flatten() for tensor in load_checkpoint(path)[0].state_dict().values()])
        for path in (tiny_model, finished, tmp_path / "new")
    )
    # as a whole: where a gradient is nothing but rounding, Adam makes a full step of it
    assert (actual - expected).norm() < 0.05 * (expected - start).norm()


def test_the_decoder_alone_learns_from_the_first_step(lines: Path, tiny_model: Path, tmp_path: Path) -> None:
    options = dataclasses.replace(OPTIONS, steps=2, eval_steps=None, train=("decoder", "tokens"), decoder_frozen=0.9)
    assert finetune(job(lines, tiny_model, tmp_path / "new"), options) is not None


def test_no_held_out_image_trains_even_if_it_is_among_the_lines(lines: Path, tiny_model: Path, tmp_path: Path) -> None:
    held_out = lines.parent / "held-out.jsonl"
    held_out.write_text("\n".join(lines.read_text().splitlines()[:2]) + "\n")
    said: list[str] = []
    given = dataclasses.replace(job(lines, tiny_model, tmp_path / "new"), held_out=DataSource((held_out,)))
    finetune(given, dataclasses.replace(OPTIONS, steps=1), message=said.append)
    assert any("2 lines about held-out images are left out" in line for line in said)
    assert any(line.startswith("10 lines about 5 images to learn from; 2 about 1 other") for line in said)


def test_a_phrase_without_a_target_that_has_one_in_a_line_is_named(
    lines: Path, tiny_model: Path, tmp_path: Path
) -> None:
    given = job(lines, tiny_model, tmp_path / "new", negatives=("a giraffe", "The bright  square"))
    with pytest.raises(FinetuningError, match=r"'The bright  square' is among .* has a target in .*lines\.jsonl, line"):
        finetune(given, OPTIONS)


def test_the_output_folder_is_protected(finished: Path, lines: Path, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(FinetuningError, match=r"holds a checkpoint already.*--overwrite"):
        finetune(job(lines, tiny_model, finished), OPTIONS)
    (finished / "unfinished").mkdir()  # a folder of a training that has no state, as after a kill at its very end
    with pytest.raises(FinetuningError, match=r"holds a checkpoint already.*--overwrite"):
        finetune(job(lines, tiny_model, finished), OPTIONS)
    (finished / "unfinished").rmdir()
    own = tmp_path / "own"
    shutil.copytree(tiny_model, own)
    with pytest.raises(FinetuningError, match="starts from"):
        finetune(job(lines, own, own, overwrite=True), OPTIONS)


@pytest.mark.parametrize("name", ["README.md", "log.jsonl", "finetune.json", "worst/notes.txt"])
def test_files_of_the_user_in_the_output_folder_are_not_replaced(
    lines: Path, tiny_model: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("of the user")
    with pytest.raises(FinetuningError, match=rf"holds {name.split('/')[0]}, which the result would replace.*--over"):
        finetune(job(lines, tiny_model, tmp_path), OPTIONS)
    assert (tmp_path / name).read_text() == "of the user"


def test_corrected_files_in_the_output_folder_are_not_replaced(
    finished: Path, lines: Path, tiny_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "new")
    again = job(lines, tiny_model, tmp_path / "new", overwrite=True, worst=3)
    data = DataSource((lines, tmp_path / "new" / "worst" / "labelme"))
    with pytest.raises(FinetuningError, match=r"labelme is in the output folder and would be replaced"):
        finetune(dataclasses.replace(again, data=data), OPTIONS)
    assert list((tmp_path / "new" / "worst" / "labelme").glob("*.json"))


def test_an_old_folder_of_worst_lines_is_removed_unless_its_images_are_learned(
    finished: Path, lines: Path, tiny_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "new")
    worst, again = tmp_path / "new" / "worst", job(lines, tiny_model, tmp_path / "new", overwrite=True)
    tasks = json.loads((worst / "label-studio.json").read_text())
    for task in tasks:
        task["data"]["folder"] = str(worst)
        task["annotations"] = [{"result": task["predictions"][0]["result"]}]
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    data = DataSource((lines, tmp_path / "export.json"))
    with pytest.raises(FinetuningError, match=r"worst/labelme/.* is in the output folder and would be replaced"):
        finetune(dataclasses.replace(again, data=data), OPTIONS)
    assert list((worst / "labelme").glob("*.png"))
    finetune(again, dataclasses.replace(OPTIONS, steps=1))
    assert not worst.exists()


def test_weights_that_are_not_finite_are_an_error_and_no_answer_without_a_target(
    lines: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(optimizer: torch.optim.AdamW) -> None:
        optimizer.param_groups[0]["params"][0].data.fill_(torch.nan)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    options = FinetuneOptions(steps=1, batch_size=4)
    with pytest.raises(NumericalError, match="weights are not finite after step 1: use a lower learning rate"):
        finetune(job(lines, tiny_model, tmp_path / "new"), options)


@pytest.mark.slow
def test_an_unfinished_training_with_other_options_is_not_continued(
    lines: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("sspsam.finetuning.results.save_checkpoint", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            finetune(job(lines, tiny_model, tmp_path / "new"), OPTIONS)
    with pytest.raises(FinetuningError, match=r"a training with another clip \(0.1, not 1.0\): repeat"):
        finetune(job(lines, tiny_model, tmp_path / "new"), dataclasses.replace(OPTIONS, clip=1.0))
    assert finetune(job(lines, tiny_model, tmp_path / "new"), OPTIONS) is not None


@pytest.mark.slow
def test_the_worst_lines_go_back_in_as_they_are(finished: Path, lines: Path, tiny_model: Path, tmp_path: Path) -> None:
    worst = finished / "worst"
    listed = [json.loads(line) for line in (worst / "worst.jsonl").read_text().splitlines()]
    goodness = [min(line["iou"], line["certainty"]) for line in listed]
    assert goodness == sorted(goodness)
    assert len(list(worst.glob("*.png"))) == 3
    assert Image.open(worst / "001.png").size == (2 * 64 + 4, 48 + 22)
    tasks = json.loads((worst / "label-studio.json").read_text())
    for task in tasks:
        task["annotations"] = [{"result": task["predictions"][0]["result"]}]
    (worst / "export.json").write_text(json.dumps(tasks))
    for corrected in (worst / "labelme", worst / "export.json"):
        data = DataSource((lines, corrected))
        again: FinetuneJob = dataclasses.replace(job(lines, tiny_model, tmp_path / corrected.name), data=data)
        said: list[str] = []
        finetune(again, dataclasses.replace(OPTIONS, steps=1), message=said.append)
        assert any(line.startswith("8 lines about 4 images to learn from; 4") for line in said), said


@pytest.mark.slow
def test_images_inside_parquet_files_are_learned_and_shown(tiny_model: Path, tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "images", 5)
    rows = []
    for number in range(5):
        mask = np.zeros((48, 64), np.bool_)
        mask[5:20, 5:20] = True
        image = (lines.parent / f"{number}.png").read_bytes()
        rows.append({"image": {"bytes": image}, "expression": "the square", "masks": [rle_encode(mask)], "id": number})
    (tmp_path / "pbench" / "data").mkdir(parents=True)
    path = tmp_path / "pbench" / "data" / "level_0-00000-of-00001.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    data = DataSource((tmp_path,), "pbench", "level_0")
    parquet = dataclasses.replace(
        job(lines, tiny_model, tmp_path / "new", worst=5), data=data, negatives=("a giraffe",)
    )
    result = finetune(parquet, dataclasses.replace(OPTIONS, steps=1, flips=True))
    assert result is not None
    assert result.after["held_out"]["n"] == 2
    copies = {image.read_bytes() for image in (tmp_path / "new" / "worst" / "labelme").glob("*-level_0-?")}
    assert copies == {row["image"]["bytes"] for row in rows}


@pytest.mark.slow
def test_images_with_names_that_are_no_unicode_too_long_to_number_or_those_of_json_files_are_learned_and_shown(
    tiny_model: Path, tmp_path: Path
) -> None:
    lines = write_lines(tmp_path / "images", 5)
    names = {"0.png": "\udcff.png", "1.png": "x" * 251 + ".png", "2.png": "2.json"}
    parsed = [json.loads(line) for line in lines.read_text().splitlines()]
    for old, new in names.items():
        (lines.parent / old).rename(lines.parent / new)
    changed = [{**line, "image": names.get(line["image"], line["image"])} for line in parsed]
    changed[0]["text"] = "the \ud800 square"
    lines.write_text("".join(json.dumps(line) + "\n" for line in changed))
    given = job(lines, tiny_model, tmp_path / "new", worst=10)
    assert finetune(given, dataclasses.replace(OPTIONS, steps=1)) is not None
    data = DataSource((tmp_path / "new" / "worst" / "labelme",))
    again = [line.line.entry for line in read_lines(data) if isinstance(line, SourceLine)]
    assert sorted(entry.text for entry in again) == sorted(line["text"] for line in changed)


@pytest.mark.nightly
def test_views_of_images_are_learned_too(lines: Path, tiny_model: Path, tmp_path: Path) -> None:
    options = dataclasses.replace(OPTIONS, steps=2, flips=True, crops=2)
    assert finetune(job(lines, tiny_model, tmp_path / "new"), options) is not None


@pytest.mark.nightly
def test_a_time_budget_decides_about_the_number_of_steps(lines: Path, tiny_model: Path, tmp_path: Path) -> None:
    options = dataclasses.replace(OPTIONS, steps=100_000, eval_steps=None, time=1.0)
    result = finetune(job(lines, tiny_model, tmp_path / "new"), options)
    assert result is not None
    assert 13 <= result.steps < 1000


@pytest.mark.nightly
def test_embeddings_are_read_from_disk_where_they_do_not_fit_into_memory(
    lines: Path, tiny_model: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sspsam.finetuning.run.MEMORY_BYTES", 1)
    monkeypatch.setattr("sspsam.models.SSPSAM.encode_image", lambda *_: pytest.fail("the encoders ran again"))
    finetune(job(lines, tiny_model, tmp_path / "new"), OPTIONS)
    assert weights(tmp_path / "new") == weights(finished)
    assert np.isfinite(read_log(tmp_path / "new" / "log.jsonl")[-1]["score"])


def test_the_log_goes_to_tensorboard_where_it_is_installed(
    lines: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[str, float, int]] = []

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path / "new" / "tensorboard")

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def close(self) -> None:
            pass

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    finetune(job(lines, tiny_model, tmp_path / "new"), dataclasses.replace(OPTIONS, steps=1))
    assert ("score", written[0][1], 1) in written
    assert any(name == "held_out/N-acc" for name, _, _ in written)


@pytest.mark.slow
def test_lines_for_rehearsal_and_phrases_of_the_user_are_learned_and_measured(
    lines: Path, tiny_model: Path, tmp_path: Path
) -> None:
    rehearsal = write_lines(tmp_path / "known", images=9)
    known = [json.loads(line) for line in rehearsal.read_text().splitlines()]
    rehearsal.write_text("".join(json.dumps(line) + "\n" for line in known[12:]))  # other images than those of `lines`
    given = dataclasses.replace(
        job(lines, tiny_model, tmp_path / "new"), rehearsal=DataSource((rehearsal,)), negatives=["a zebra"]
    )
    result = finetune(given, dataclasses.replace(OPTIONS, steps=2))
    assert result is not None
    assert set(result.after) == {"held_out", "known", "foreign"}
    report = json.loads((tmp_path / "new" / "finetune.json").read_text())
    assert report["lines"]["rehearsal"] == 4
    assert report["lines"]["negative_phrases"] == 1
    assert result.after["foreign"]["n"] == 2
