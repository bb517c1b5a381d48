"""A run that is killed, and runs that meet in one folder."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sspsam.errors import EvaluationError
from sspsam.evaluation.job import EvaluationJob
from sspsam.evaluation.records_file import lock_records
from sspsam.evaluation.run import run_evaluation
from tests.support.evaluated import write_scenes

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"), scenes=14, questions=3)


def started(data: Path, output: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "sspsam", "eval", "--dataset", "jsonl", "--split", "val", "--data-root", str(data)]
    options = ["--model", "shapes", "--device", "cpu", "-q", "--worst", "2", "-o", str(output)]
    return subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bytes(data: Path, tmp_path: Path) -> None:
    assert started(data, tmp_path / "whole").wait() == 0
    output, chance, kills = tmp_path / "killed", random.Random(0), 0
    while kills < 2:
        process, limit = started(data, output), chance.randrange(1, 5_000)
        records = output / "records.jsonl"
        before = records.stat().st_size if records.exists() else 0
        while process.poll() is None and (not records.exists() or records.stat().st_size < before + limit):
            time.sleep(0.002)
        if process.poll() is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    assert kills
    assert started(data, output).wait() == 0
    assert contents(output) == contents(tmp_path / "whole")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_second_run_in_the_folder_removes_and_changes_nothing(data: Path, tmp_path: Path, overwrite: bool) -> None:
    lines = (data / "val.jsonl").read_text().splitlines()
    (tmp_path / "p.jsonl").write_text('{"mask": null}\n' * len(lines))
    output = tmp_path / "out"
    job = EvaluationJob("jsonl", "val", data)
    run_evaluation(job, predictions=tmp_path / "p.jsonl", output=output)
    before = contents(output)
    with lock_records(output / "records.jsonl"):
        with pytest.raises(EvaluationError, match="another run is writing"):
            run_evaluation(job, predictions=tmp_path / "p.jsonl", output=output, overwrite=overwrite)
        assert contents(output) == before
    run_evaluation(job, predictions=tmp_path / "p.jsonl", output=output, overwrite=True)
    assert contents(output) == before
