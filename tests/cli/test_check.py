"""`sspsam check`: output, exit status and wrong usage."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sspsam.evaluation import self_test
from sspsam.evaluation.comparison import Differences
from sspsam.evaluation.self_test import CheckReport, ModelCheck
from tests.support.command import run_command as run
from tests.support.self_test import shorten_self_test


def report(problems: list[str], error: str | None = None) -> CheckReport:
    times = {"new_image": 40.25, "further_expression": 10.5}
    differences = Differences(0.00123, 0.0, 0.0, 5, 1_234_567, 0, 40)
    checked = ModelCheck("shapes", "f" * 64, "stored answers", differences, times, 2_500_000_000, problems)
    return CheckReport("cuda:0", "A GPU", "float16", checked, None, ["a note"], error, {"sspsam": "1.0", "ROCm": None})


def use(report: CheckReport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_test, "run_self_test", lambda *_: report)


def test_check_compares_the_bundled_model_and_prints_versions_and_ok_last(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_self_test(monkeypatch)
    done = run("check", "--device", "cpu")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].startswith("device cpu (")
    assert lines[-1] == "ok"
    assert "0 of 4" in done.stdout
    assert "torch" in done.stdout


def test_the_table_is_aligned_and_notes_go_to_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    use(report([]), monkeypatch)
    done = run("check")
    assert done.stderr == "sspsam: a note\n"
    lines = done.stdout.splitlines()
    assert lines[0] == "device cuda:0 (A GPU), precision float16"
    rows = lines[2 : lines.index("", 2)]
    assert all(row[28:30] == "  " and row[30] != " " for row in rows)
    assert "mask pixels changed           5 of 1,234,567" in rows
    assert "memory on the device          2,500 MB" in rows
    assert "ROCm" not in done.stdout


def test_a_difference_beyond_tolerance_has_exit_status_one_and_is_the_last_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(report(["logits differ by 0.01, more than 0.001"]), monkeypatch)
    done = run("check")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[-1] == "not ok: shapes: logits differ by 0.01, more than 0.001"
    use(report([], error="device 'cuda:0' failed"), monkeypatch)
    done = run("check", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["problems"] == ["device 'cuda:0' failed"]


def test_json_has_all_keys_and_the_numbers_of_a_checkpoint(
    tiny_model: Path, tmp_path: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_self_test(monkeypatch)
    Image.fromarray(image).save(tmp_path / "photo.png")
    done = run(
        *("check", "--json", "--device", "cpu", "--dtype", "float32", "--model", tiny_model),
        *("--image", tmp_path / "photo.png", "-t", "the mug", "-t", "a cat"),
    )
    assert done.exit_code == 0, done.output
    assert len(done.stdout.splitlines()) == 1
    found = json.loads(done.stdout)
    numbers = "max_logit_difference mask_pixels_changed mask_pixels no_target_changed questions milliseconds"
    for key in [*numbers.split(), "versions", "device", "dtype", "ok"]:
        assert found[key] is not None
    assert (found["device"], found["dtype"], found["ok"], found["questions"]) == ("cpu", "float32", True, 4)
    assert found["milliseconds"].keys() == {"new_image", "further_expression"}
    assert found["checkpoint"]["questions"] == 2
    assert set(numbers.split()) < set(found["checkpoint"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image", "photo.png", "--model", "shapes"], "-t"),
        (["-t", "the mug", "--model", "shapes"], "--image"),
        (["--image", "photo.png", "-t", "the mug"], "--model"),
        (["--image", "photo.png", "-t", " ", "--model", "shapes"], "empty"),
        (["--dtype", "float64"], "float64"),
        (["--model", " "], "--model"),
    ],
)
def test_wrong_usage_has_exit_status_two_and_names_the_option(arguments: list[str], message: str) -> None:
    done = run("check", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "toaster"], "toaster"),
        (["--model", "nonsense"], "nonsense"),
        (["--model", "shapes", "--image", "none.png", "-t", "the mug"], "none.png"),
    ],
)
def test_an_unusable_device_checkpoint_or_image_is_one_line(arguments: list[str], message: str) -> None:
    done = run("check", *arguments)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr
