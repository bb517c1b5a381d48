"""What the README and the examples say is what happens."""

import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import sspsam
from sspsam.checkpoints.names import AUTHORS_REPOSITORY, RECOMMENDED
from sspsam.cli import main
from tests.support.hub import FakeHub

ROOT = Path(__file__).parents[1]
PACKAGE = Path(sspsam.__file__).parent  # not always in the checkout: `.ci/run` tests the installed package
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(
    tiny_checkpoint: Path, tiny_model: Path, tmp_path: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The current directory, in which the commands of the README find the files that they name."""
    shutil.copytree(tiny_model, tmp_path / RECOMMENDED)
    shutil.copy(tiny_checkpoint, tmp_path / "checkpoint_best_miou.pth")
    Image.fromarray(image).save(tmp_path / "photo.jpg")
    (tmp_path / "photos").mkdir()
    Image.fromarray(image).save(tmp_path / "photos" / "a.jpg")
    (tmp_path / "prompts.csv").write_text("image,text\na.jpg,the mug\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def example(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run an example with some arguments in this process and return what it prints."""

    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def test_the_python_of_the_readme_runs(folder: Path, hub: FakeHub, tiny_checkpoint: Path) -> None:
    shutil.rmtree(folder / RECOMMENDED)  # it is downloaded
    hub.add(AUTHORS_REPOSITORY, {"output/grefcoco/224/checkpoint_best_miou.pth": tiny_checkpoint.read_bytes()})
    snippets = blocks("python")
    assert len(snippets) == 4
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), {"__name__": "__main__"})
    assert Image.open(folder / "mask.png").size == (90, 60)
    assert Image.open(folder / "overlay.png").mode == "RGB"


def test_every_snippet_for_photographs_uses_the_name_that_is_known_to_be_published() -> None:
    text = "".join(blocks("python") + blocks("bash"))
    names = re.findall(r'from_pretrained\("(.+?)"|--model (\S+)|download (\S+)', text)
    assert len(names) >= 7
    assert {name for found in names for name in found if name} == {RECOMMENDED}


def test_the_commands_of_the_readme_run(folder: Path) -> None:
    commands = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("sspsam ")]
    assert len(commands) == 8
    for command in commands:
        command, _, source = command.partition(" < ")
        content = (folder / source).read_bytes() if source else None
        result = CliRunner().invoke(main, shlex.split(command, comments=True)[1:], input=content)
        assert result.exit_code == 0, f"{command}: {result.output}"
        assert result.stdout or " batch " in command
    assert {"a.jpg-1.png", "a.jpg-2.png", "results.jsonl"} <= {path.name for path in (folder / "masks").iterdir()}
    assert (folder / "coco" / "coco.json").is_file()
    assert (folder / "coco" / "yolo" / "labels" / "a.txt").is_file()
    assert {path.name for path in (folder / "out").iterdir()} == {
        f"photo.jpg-{number}{suffix}" for number in (1, 2) for suffix in (".png", ".overlay.png", ".cutout.png")
    }


def test_the_two_first_commands_are_the_ones_that_ci_and_these_tests_run(tmp_path: Path) -> None:
    setup, test = (block.strip() for block in blocks("bash")[:2])
    assert setup.endswith(".venv/bin/python examples/first_steps.py")
    assert setup.startswith("python3 -m venv .venv && .venv/bin/pip install . && ")
    assert test == '.venv/bin/pip install ".[test]" && .venv/bin/pytest'
    assert '"$bin/pytest"\n' in (ROOT / ".ci" / "run").read_text()
    output = run([sys.executable, str(ROOT / "examples" / "first_steps.py")], tmp_path)
    assert "nothing" in output
    assert len(list(tmp_path.glob("first_steps_*.png"))) == 4
    assert (tmp_path / "first_steps.png").is_file()
    assert "examples/first_steps.png" in README


def test_the_other_examples_run(example: Callable[..., str]) -> None:
    ask_many = ("ask_many.py", RECOMMENDED, "photo.jpg", "photo.embedding", "the mug", "a cat")
    first = example(*ask_many)
    assert "the mug" in first
    assert example(*ask_many) == first  # now from the stored embedding
    answers = example("serve_threads.py", RECOMMENDED, "the mug", "photo.jpg", "none.jpg", "photo.jpg")
    assert "no such image" in answers


def test_every_example_is_short_and_is_run_here() -> None:
    names = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert names == set(re.findall(r'"([a-z_]+\.py)"', Path(__file__).read_text()))
    for name in names:
        assert len((ROOT / "examples" / name).read_text().splitlines()) <= 40


def test_every_public_name_is_in_the_readme_or_the_changelog() -> None:
    text = README + (ROOT / "CHANGELOG.md").read_text()
    for name in sspsam.__all__:
        assert name == "__version__" or name in text


def test_the_repository_names_no_private_place() -> None:
    private = re.compile(r"/(?:home|root|work)/\w|(?<!https:)//(?!127\.)(?:\d+\.){3}\d+")
    folders = [PACKAGE, *(ROOT / name for name in ("benchmarks", "docs", "examples", "tests", "training"))]
    paths = [path for folder in folders for path in folder.rglob("*.*")]
    for path in [*paths, *ROOT.glob("*.*"), *(ROOT / ".ci").iterdir()]:
        if path.suffix in {".py", ".md", ".cfg", ".toml"} or path.name == "run":
            found = private.search(path.read_text())
            assert not found or path == Path(__file__), f"{path}: {found}"


@pytest.mark.slow
def test_the_snippets_about_shared_encoders_run(folder: Path, tiny_model: Path, home: Path) -> None:
    text = (ROOT / "docs" / "shared-encoders.md").read_text()
    shutil.copytree(tiny_model, folder / "my-bottles")
    names: dict[str, object] = {}
    for snippet in re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        exec(compile(snippet, "shared-encoders.md", "exec"), names)
    [command] = re.findall(r"^```bash\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    result = CliRunner().invoke(main, shlex.split(command)[1:])
    assert result.exit_code == 0, result.output


@pytest.mark.slow
def test_the_load_benchmark_runs() -> None:
    output = run([sys.executable, "-m", "benchmarks.load", "--variant", "tiny", "--repeat", "1"], ROOT)
    assert "| baseline |" in output


@pytest.mark.slow
def test_the_benchmark_of_shared_encoders_runs() -> None:
    output = run([sys.executable, "-m", "benchmarks.shared_encoders", "--variant", "tiny"], ROOT)
    assert "encodes: encodes 1, entries 1" in output


@pytest.mark.slow
def test_the_speed_benchmark_runs_and_both_ways_agree() -> None:
    output = run([sys.executable, "-m", "benchmarks", "--size", "quick", "--repeat", "1"], ROOT)
    difference = re.search(r"largest difference of logits (\S+)", output)
    assert difference, output
    assert float(difference[1]) < 1e-4
    for task in ("(i)", "(ii)", "(iii)", "(iv)", "memory"):
        assert f"| {task} " in output


@pytest.mark.slow
def test_the_batch_benchmark_runs() -> None:
    output = run([sys.executable, "-m", "benchmarks.batch", "--size", "quick", "--pictures", "2"], ROOT)
    for task in ("the model alone", "a batch, cache empty", "the next question, cache full"):
        assert f"| {task} |" in output


@pytest.mark.slow
def test_the_gpu_benchmark_runs_without_a_gpu() -> None:
    stages = "memory,parity,speed,authors,resize"
    output = run([sys.executable, "-m", "benchmarks.gpu", "--quick", "--device", "cpu", "--stages", stages], ROOT)
    assert "failed: none" in output
    assert "bits of Pillow" in output
    for task in ("(i)", "(ii)", "(iii)", "(iv)"):
        assert f"| {task} " in output
