"""Options of `python -m training.train` that are refused."""

from pathlib import Path

import pytest

from training import train


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
