"""`sspsam finetune` as a user types it."""

import dataclasses
import json
from pathlib import Path

import pytest

from sspsam.cli.finetune import finetune
from sspsam.finetuning.options import FinetuneOptions
from tests.support.command import run_command
from tests.support.finetuning import write_lines

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools


def test_every_number_is_an_option_with_the_same_default() -> None:
    options = {option.name: option for option in finetune.params}
    for field in dataclasses.fields(FinetuneOptions):
        assert field.name in options, field.name
        assert options[field.name].to_info_dict()["default"] in (field.default, None, ()), field.name


def test_the_command_writes_a_checkpoint_and_prints_its_folder(tiny_model: Path, tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "lines")
    options = (
        "--steps",
        1,
        "--batch-size",
        2,
        "--train",
        "ssp,decoder",
        "--cache",
        tmp_path / "cache",
        "--device",
        "cpu",
    )
    result = run_command("finetune", lines, "--model", tiny_model, "-o", tmp_path / "new", *options)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{tmp_path / 'new'}\n"
    assert "before: held out mIoU" in result.stderr
    assert json.loads((tmp_path / "new" / "finetune.json").read_text())["options"]["batch_size"] == 2


def test_problems_end_the_command_with_every_line_and_the_flag(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = write_lines(tmp_path / "lines")
    with lines.open("a") as file:
        file.write("{\n" + json.dumps({"image": "gone.png", "text": "a", "mask": None}) + "\n")
    result = run_command(
        "finetune", lines, "--model", tiny_model, "-o", tmp_path / "new", "--cache", tmp_path / "cache"
    )
    assert result.exit_code == 1
    assert "2 lines have problems" in result.stderr
    assert "line 13" in result.stderr
    assert "gone.png" in result.stderr
    assert "with --skip-problems\n" in result.stderr
    assert len(result.stderr.splitlines()) == 3
    assert not (tmp_path / "new").exists()
    monkeypatch.setenv("RANK", "1")  # of two processes that `torchrun` has started
    again = run_command("finetune", lines, "--model", tiny_model, "-o", tmp_path / "new", "--cache", tmp_path / "cache")
    assert (again.exit_code, again.stderr) == (1, "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--train", "ssp,hands"), ["--train", "hands", "tokens"]),
        (("--train", ""), ["--train", "one or more of ssp"]),
        (("--warmup", "2"), ["--warmup", "below 1"]),
        (("--batch-size", "0"), ["--batch-size", "positive"]),
        (("--mixed-precision", "int8"), ["--mixed-precision"]),
        (("--learning-rate", "nan"), ["--learning-rate"]),
        (("--token-rate", "1e38"), ["--token-rate", "at most 1"]),
        (("--dataset", "refcoco"), ["--dataset refcoco", "root folder"]),
    ],
)
def test_wrong_usage_names_the_flag(arguments: tuple[str, ...], words: list[str], tmp_path: Path) -> None:
    result = run_command("finetune", tmp_path / "lines.jsonl", "--model", "shapes", "-o", tmp_path / "new", *arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    result = run_command("finetune", tmp_path / "gone.jsonl", "--model", "shapes", "-o", tmp_path / "new")
    assert result.exit_code == 1
    assert "gone.jsonl" in result.stderr
