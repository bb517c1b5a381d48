"""Fine-tunings in processes of their own: killed at any moment, and two at once."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sspsam.checkpoints.format import load_checkpoint
from tests.support.finetuning import write_lines

pytestmark = pytest.mark.slow
OPTIONS = (
    *("--steps", "8", "--batch-size", "5", "--eval-steps", "3", "--learning-rate", "3e-3", "--decoder-rate", "3e-3"),
    *("--held-out-share", "0.3", "--save-seconds", "0.001", "--device", "cpu", "-q"),
)
ONE_PROCESS = ("-m", "sspsam")
TWO_PROCESSES = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "sspsam")
TOLERANCE = 2e-4  # of weights that moved by up to 9e-3: the gradients are added up in another order


def arguments(launcher: tuple[str, ...], lines: Path, model: Path, output: Path) -> list[str]:
    cache = str(lines.parent / "embeddings")
    return [
        sys.executable,
        *launcher,
        "finetune",
        str(lines),
        "--model",
        str(model),
        "-o",
        str(output),
        "--cache",
        cache,
        *OPTIONS,
    ]


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False, env=environment())
    assert done.returncode == 0, done.stderr


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def test_a_training_that_is_killed_again_and_again_ends_with_the_same_bytes(tiny_model: Path, tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "lines")
    run(arguments(ONE_PROCESS, lines, tiny_model, tmp_path / "whole"))
    command, kills = arguments(ONE_PROCESS, lines, tiny_model, tmp_path / "killed"), 0
    rng = random.Random(0)
    for _ in range(3):
        with subprocess.Popen(
            command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment()
        ) as process:
            state = tmp_path / "killed" / "unfinished" / "state.pt"
            before = state.stat().st_mtime_ns if state.exists() else 0
            while process.poll() is None and (not state.exists() or state.stat().st_mtime_ns == before):
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.3))
            kills += process.poll() is None
            process.kill()
    assert kills
    if not (tmp_path / "killed" / "finetune.json").exists():
        run(command)
    whole, killed = (tmp_path / name / "model.safetensors" for name in ("whole", "killed"))
    assert killed.read_bytes() == whole.read_bytes()


def test_two_processes_agree_with_one(tiny_model: Path, tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "lines")
    for launcher, name in ((ONE_PROCESS, "one"), (TWO_PROCESSES, "two")):
        run(arguments(launcher, lines, tiny_model, tmp_path / name))
    start, one, two = (
        load_checkpoint(path)[0].state_dict() for path in (tiny_model, tmp_path / "one", tmp_path / "two")
    )
    assert max(float((one[name] - start[name]).abs().max()) for name in one) > 10 * TOLERANCE
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=TOLERANCE, rtol=0)


def test_mixed_precision_ends_near_single_precision(tiny_model: Path, tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "lines")
    run(arguments(ONE_PROCESS, lines, tiny_model, tmp_path / "float32"))
    run([*arguments(ONE_PROCESS, lines, tiny_model, tmp_path / "bf16"), "--mixed-precision", "bf16"])
    start, one, other = (
        load_checkpoint(path)[0].state_dict() for path in (tiny_model, tmp_path / "float32", tmp_path / "bf16")
    )
    moved = torch.cat([(one[name] - start[name]).flatten() for name in one])
    difference = torch.cat([(other[name] - one[name]).flatten() for name in one])
    assert 0 < float(difference.norm()) < 0.5 * float(moved.norm())
