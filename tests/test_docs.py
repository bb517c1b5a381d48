"""What the README and the examples say is what happens."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sspsam
from sspsam.checkpoints.names import AUTHORS_REPOSITORY
from tests.support.hub import FakeHub

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tiny_checkpoint: Path, tiny_model: Path, tmp_path: Path, picture: np.ndarray) -> Path:
    """A folder in which the README's commands find what they name."""
    shutil.copytree(tiny_model, tmp_path / "ssp-sam")
    shutil.copy(tiny_checkpoint, tmp_path / "checkpoint_best_miou.pth")
    Image.fromarray(picture).save(tmp_path / "photo.jpg")
    (tmp_path / "photos").mkdir()
    Image.fromarray(picture).save(tmp_path / "photos" / "a.jpg")
    (tmp_path / "prompts.csv").write_text("image,text\na.jpg,the mug\n")
    return tmp_path


def run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def test_the_python_of_the_readme_runs(folder: Path, hub: FakeHub, tiny_checkpoint: Path) -> None:
    hub.add(AUTHORS_REPOSITORY, {"output/unc/336/checkpoint_best_miou.pth": tiny_checkpoint.read_bytes()})
    found = blocks("python")
    assert len(found) == 3
    for block in found:
        run([sys.executable, "-c", block], folder)
    assert Image.open(folder / "mask.png").size == (90, 60)
    assert Image.open(folder / "overlay.png").mode == "RGB"


def test_the_commands_of_the_readme_run(folder: Path) -> None:
    commands = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("sspsam ")]
    assert len(commands) == 6
    for command in commands:
        assert run(shlex.split(command, comments=True), folder) or " batch " in command
    assert {"a.jpg-1.png", "a.jpg-2.png", "results.jsonl"} <= {path.name for path in (folder / "masks").iterdir()}
    assert (folder / "coco" / "coco.json").is_file()


def test_the_two_first_commands_are_the_ones_that_ci_and_these_tests_run(tmp_path: Path) -> None:
    setup, test = (block.strip() for block in blocks("bash")[:2])
    assert setup.endswith(".venv/bin/python examples/first_steps.py")
    assert test == ".venv/bin/pytest"
    assert '"$bin/pytest"' in (ROOT / ".ci" / "run").read_text()
    output = run([sys.executable, str(ROOT / "examples" / "first_steps.py")], tmp_path)
    assert "nothing" in output
    assert len(list(tmp_path.glob("first_steps_*.png"))) == 5
    assert (tmp_path / "first_steps.png").is_file()
    assert "examples/first_steps.png" in README


def test_the_other_examples_run(folder: Path) -> None:
    ask_many = [sys.executable, str(ROOT / "examples" / "ask_many.py"), "ssp-sam", "photo.jpg", "photo.embedding"]
    first = run([*ask_many, "the mug", "a cat"], folder)
    assert run([*ask_many, "the mug", "a cat"], folder) == first  # now from the stored embedding
    serve = [sys.executable, str(ROOT / "examples" / "serve_threads.py"), "ssp-sam", "the mug"]
    assert "no such image" in run([*serve, "photo.jpg", "none.jpg", "photo.jpg"], folder)


def test_every_example_is_short_and_is_run_here() -> None:
    names = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert names == set(re.findall(r'"([a-z_]+\.py)"', Path(__file__).read_text()))
    for name in names:
        assert len((ROOT / "examples" / name).read_text().splitlines()) <= 40


def test_every_public_name_is_in_the_readme_or_the_changelog() -> None:
    text = README + (ROOT / "CHANGELOG.md").read_text()
    for name in sspsam.__all__:
        assert name == "__version__" or name in text


def test_the_load_benchmark_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load", "--variant", "tiny", "--repeat", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "| baseline |" in done.stdout


def test_the_speed_benchmark_runs_and_both_ways_agree() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--size", "quick", "--repeat", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    difference = re.search(r"largest difference of logits (\S+)", done.stdout)
    assert difference, done.stdout
    assert float(difference[1]) < 1e-4
    for task in ("(i)", "(ii)", "(iii)", "(iv)", "memory"):
        assert f"| {task} " in done.stdout


def test_the_repository_names_no_private_place() -> None:
    private = re.compile(r"/(?:home|root|work)/\w|(?<!https:)//(?!127\.)(?:\d+\.){3}\d+")
    for path in [*ROOT.glob("*.*"), *ROOT.glob("*/*.py"), *ROOT.glob("*/*/*.py"), ROOT / ".ci" / "run"]:
        if path.suffix in {".py", ".md", ".cfg", ".toml"} or path.name == "run":
            found = private.search(path.read_text())
            assert not found or path == Path(__file__), f"{path}: {found}"


def test_the_batch_benchmark_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.batch", "--size", "quick", "--pictures", "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for task in ("the model alone", "a batch, cache empty", "the next question, cache full"):
        assert f"| {task} |" in done.stdout
