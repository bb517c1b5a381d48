"""`sspsam calibrate` as a user types it, and the flags that use its file."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

import sspsam
from sspsam.checkpoints.directory import read_config
from sspsam.evaluation.records import write_records
from sspsam.segmentation.calibration import read_calibration, write_calibration
from sspsam.shapes import draw_scene
from tests.support.calibrations import calibration_with, synthetic_records
from tests.support.command import run_command

SHAPES = read_config(Path(sspsam.__file__).parent / "bundled" / "shapes").fingerprint


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The records of two shards."""
    folder, records = tmp_path_factory.mktemp("records"), synthetic_records(400, SHAPES)
    paths = [folder / f"records.{number}-of-2.jsonl" for number in (1, 2)]
    for path, part in zip(paths, (records[:200], records[200:]), strict=True):
        write_records(part, path)
    return paths


def test_a_calibration_is_fitted_on_the_records_of_all_shards(files: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "c.json"
    result = run_command("calibrate", *files, "--model", "shapes", "-o", output)
    assert result.exit_code == 0, result.stderr
    calibration = read_calibration(output)
    assert calibration.present + calibration.absent == 400
    rows = dict(line.split("\t") for line in result.stdout.splitlines())
    assert rows["present"] == str(calibration.present)
    assert rows["AUROC"] == f"{calibration.cross_validation.auroc:.4f}"
    again = run_command("calibrate", *reversed(files), "--model", "shapes", "-o", output)
    assert (again.exit_code, again.stdout) == (1, "")
    assert "--overwrite" in again.stderr
    before = output.read_bytes()
    assert run_command("calibrate", *reversed(files), "--model", "shapes", "-o", output, "--overwrite").exit_code == 0
    assert output.read_bytes() == before


def test_a_folder_as_output_is_that_of_the_checkpoint(files: list[Path], tmp_path: Path) -> None:
    assert run_command("calibrate", *files, "--model", "shapes", "-o", tmp_path).exit_code == 0
    assert read_calibration(tmp_path / "calibration.json").fingerprint == SHAPES


def test_the_folder_of_another_checkpoint_is_refused_since_it_could_not_be_loaded_any_more(
    files: list[Path], tmp_path: Path, tiny_model: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "other")
    for output in (tmp_path / "other", tmp_path / "other" / "calibration.json"):
        result = run_command("calibrate", *files, "--model", "shapes", "-o", output)
        assert (result.exit_code, result.stdout) == (1, "")
        assert "other holds another model" in result.stderr
    assert not (tmp_path / "other" / "calibration.json").exists()
    assert run_command("calibrate", *files, "--model", "shapes", "-o", tmp_path / "other" / "c.json").exit_code == 0


def test_what_cannot_be_fitted_ends_in_one_line(files: list[Path], tmp_path: Path, tiny_model: Path) -> None:
    few = tmp_path / "few.jsonl"
    write_records(synthetic_records(60, SHAPES), few)
    output = tmp_path / "c.json"
    for arguments, words in (
        ((few, "--model", "shapes"), "at least 50 of each kind"),
        ((files[0], "--model", tiny_model), "another model"),
        ((files[0], files[0], "--model", "shapes"), "occurs twice"),
        ((tmp_path / "gone.jsonl", "--model", "shapes"), "gone.jsonl cannot be read: No such file"),
    ):
        result = run_command("calibrate", *arguments, "-o", output)
        assert (result.exit_code, result.stdout) == (1, "")
        assert words in result.stderr
        assert len(result.stderr.splitlines()) == 1
        assert not output.exists()


def test_a_missing_output_or_model_is_wrong_usage(files: list[Path]) -> None:
    for arguments, flag in (((files[0], "--model", "shapes"), "-o"), ((files[0], "-o", "c.json"), "--model")):
        result = run_command("calibrate", *arguments)
        assert result.exit_code == 2
        assert flag in result.stderr


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    Image.fromarray(draw_scene(1, (60, 80)).pixels).save(path)
    return path


def test_segment_decides_by_the_probability(picture: Path, tmp_path: Path, tiny_model: Path) -> None:
    file = write_calibration(calibration_with(read_config(tiny_model).fingerprint, -1.0), tmp_path / "c.json")
    arguments = ("segment", picture, "-t", "a star", "--model", tiny_model, "--device", "cpu", "--format", "json")
    answers = {}
    for threshold in ("0.2", "0.3"):
        result = run_command(*arguments, "--calibration", file, "--presence-threshold", threshold)
        assert result.exit_code == 0, result.stderr
        answers[threshold] = json.loads(result.stdout)
        assert answers[threshold]["presence"] == pytest.approx(0.2689414)
    assert answers["0.3"]["no_target"]
    plain = run_command(*arguments)
    assert json.loads(plain.stdout)["presence"] is None


def test_a_threshold_without_a_calibration_names_the_flags(picture: Path, tiny_model: Path) -> None:
    result = run_command(
        *("segment", picture, "-t", "a star", "--model", tiny_model, "--device", "cpu", "--presence-threshold", "0.5")
    )
    assert result.exit_code == 1
    assert "--presence-threshold needs a calibration" in result.stderr
    assert "--calibration FILE" in result.stderr
    assert "calibration=" not in result.stderr


def test_two_choices_of_a_calibration_are_wrong_usage(picture: Path, tmp_path: Path) -> None:
    file = write_calibration(calibration_with("a" * 64), tmp_path / "c.json")
    result = run_command(
        *("segment", picture, "-t", "a star", "--model", "shapes", "--calibration", file, "--no-calibration")
    )
    assert result.exit_code == 2
    assert "--no-calibration" in result.stderr


def test_a_batch_carries_the_probability_and_decides_by_it(picture: Path, tmp_path: Path, tiny_model: Path) -> None:
    file = write_calibration(calibration_with(read_config(tiny_model).fingerprint, 2.0), tmp_path / "c.json")
    arguments = ("batch", picture, tmp_path / "out", "-t", "a star", "--model", tiny_model, "--device", "cpu")
    result = run_command(*arguments, "--calibration", file, "--presence-threshold", "0.9")
    assert result.exit_code == 0, result.stderr
    line = json.loads((tmp_path / "out" / "results.jsonl").read_text())
    assert line["presence"] == pytest.approx(0.880797)
    assert line["no_target"]
    other = run_command(*arguments, "--calibration", file)
    assert other.exit_code == 1
    assert "--presence-threshold was 0.9" in other.stderr
    without = run_command(*arguments)
    assert without.exit_code == 1
    assert "--calibration was" in without.stderr
