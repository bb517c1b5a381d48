"""`sspsam eval` as a user types it."""

import json
from pathlib import Path

import pytest

from sspsam.cli.evaluate import PROTOCOLS
from sspsam.evaluation import protocols
from sspsam.evaluation.datasets.entries import DATASETS
from tests.support.command import run_command
from tests.support.evaluated import write_scenes

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"), scenes=2, questions=3)


def test_the_command_prints_a_table_and_writes_the_numbers(data: Path, tmp_path: Path) -> None:
    arguments = ("eval", "--dataset", "jsonl", "--split", "val", "--data-root", data, "--model", "shapes")
    result = run_command(*arguments, "--device", "cpu", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["n"] == 6
    assert (tmp_path / "out" / "worst" / "README.md").read_text().startswith("# Worst cases: jsonl val")
    assert f"| mIoU | {metrics['mIoU']:.4f} |" in result.stdout.splitlines()
    assert (tmp_path / "out" / "metrics.md").read_text() == result.stdout
    assert result.stdout.startswith("| jsonl val, protocol standard | |\n|---|---|\n")
    again = run_command(*arguments, "--device", "cpu", "-o", tmp_path / "out")
    assert again.stdout == result.stdout


def test_a_shard_says_which_shards_are_missing(data: Path, tmp_path: Path) -> None:
    lines = (json.loads(line) for line in (data / "val.jsonl").read_text().splitlines())
    source = tmp_path / "predictions.jsonl"
    source.write_text("".join(json.dumps({"rle": line["rle"]}) + "\n" for line in lines))
    arguments = ("eval", "--dataset", "jsonl", "--split", "val", "--data-root", data, "--from-predictions", source)
    result = run_command(*arguments, "-o", tmp_path / "out", "--shard", "1/2")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no records.2-of-2.jsonl" in result.stderr
    result = run_command(*arguments, "-o", tmp_path / "out", "--shard", "2/2")
    assert "| mIoU | 1.0000 |" in result.stdout


def test_missing_files_end_the_command_with_their_source(tmp_path: Path) -> None:
    arguments = ("--dataset", "refcoco", "--split", "val", "--data-root", tmp_path, "--from-predictions", "p.jsonl")
    result = run_command("eval", *arguments)
    assert result.exit_code == 1
    assert "refcoco.zip" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ["--model"]),
        (("--model", "shapes", "--from-predictions", "p.jsonl"), ["--model", "--from-predictions"]),
        (("--model", "shapes", "--shard", "1/2"), ["--shard", "-o DIR"]),
        (("--model", "shapes", "--torchvision-017"), ["--torchvision-017", "--protocol official"]),
        (("--model", "shapes", "--protocol", "coco"), ["--protocol", "rela"]),
    ],
)
def test_wrong_usage_names_the_flags(arguments: tuple[str, ...], words: list[str]) -> None:
    result = run_command("eval", "--dataset", "jsonl", "--split", "val", "--data-root", ".", *arguments)
    assert result.exit_code == 2
    assert all(word in result.stderr for word in words)


def test_the_help_names_every_data_set() -> None:
    words = run_command("eval", "--help").stdout.replace(",", " ").replace(".", " ").split()
    assert set(DATASETS) <= set(words)


def test_the_protocols_of_the_option_are_those_of_the_library() -> None:
    assert PROTOCOLS == protocols.PROTOCOLS


def test_subsets_that_need_the_lists_of_words_are_named_where_there_are_none(reference: Path) -> None:
    arguments = ("eval", "--dataset", "phrasecut", "--split", "miniv", "--protocol", "phrasecut")
    folder = reference / "evaluation"
    result = run_command(*arguments, "--data-root", folder, "--from-predictions", folder / "phrasecut" / "predictions")
    assert result.exit_code == 0, result.stderr
    assert "they need --phrasecut-words FILE" in result.stderr
