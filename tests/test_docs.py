"""The first commands of the README, the examples and the benchmarks do what the texts say."""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import sspsam
from sspsam.checkpoints.names import RECOMMENDED
from sspsam.cli import main
from tests.support.pages import PACKAGE, PAGES, ROOT, blocks

README = PAGES["README.md"]


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, in which the examples find the files that the tests name."""
    shutil.copytree(tiny_model, tmp_path / RECOMMENDED)
    Image.fromarray(image).save(tmp_path / "photo.jpg")
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


def test_the_two_first_commands_are_the_ones_that_ci_and_these_tests_run(tmp_path: Path) -> None:
    setup, test = (block.text.strip() for block in blocks("README.md", "bash")[:2])
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


@pytest.mark.slow
def test_the_ray_serve_example_answers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray.serve", reason="ray[serve] is not installed", exc_type=ImportError)
    script = f"""
        import base64, runpy, httpx, ray
        from ray import serve
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        serve.start(http_options={{"host": "127.0.0.1", "port": 8765}})
        serve.run(runpy.run_path({str(ROOT / "examples" / "serve_ray.py")!r})["deployment"])
        image = open("photo.jpg", "rb").read()
        url = "http://127.0.0.1:8765/v1"
        files = {{"image": image}}
        answer = httpx.post(f"{{url}}/segment", files=files, data={{"expressions": "a cat"}}, trust_env=False)
        print(answer.status_code, answer.json()["results"][0]["text"])
        print(httpx.post(f"{{url}}/images", files=files, trust_env=False).json()["id"].index("."))
    """
    monkeypatch.setenv("MODEL", str(folder / RECOMMENDED))
    monkeypatch.setenv("REPLICAS", "1")
    output = run([sys.executable, "-c", textwrap.dedent(script)], folder)
    assert "200 a cat" in output


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
def test_the_snippets_about_shared_encoders_run(
    folder: Path, tiny_model: Path, tiny_checkpoint: Path, home: Path
) -> None:
    text = (ROOT / "docs" / "shared-encoders.md").read_text()
    shutil.copy(tiny_checkpoint, folder / "checkpoint_best_miou.pth")
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


@pytest.mark.nightly
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


@pytest.mark.nightly
def test_the_serve_benchmark_runs() -> None:
    output = run([sys.executable, "-m", "benchmarks.serve", "--quick"], ROOT)
    for task in ("further question, one client: library", "further questions a second", "new images a second"):
        assert f"| {task}" in output


@pytest.mark.slow
def test_the_gpu_benchmark_says_that_there_is_no_gpu_instead_of_measuring_a_cpu() -> None:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "benchmarks.gpu"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.endswith("PyTorch finds no GPU; a dry run on the CPU is --quick --device cpu\n")


@pytest.mark.slow
def test_the_gpu_benchmark_runs_without_a_gpu() -> None:
    stages = "memory,parity,speed,authors,resize,kernels"
    output = run([sys.executable, "-m", "benchmarks.gpu", "--quick", "--device", "cpu", "--stages", stages], ROOT)
    assert "failed: none" in output
    assert "bits of Pillow" in output
    for task in ("(i)", "(ii)", "(iii)", "(iv)"):
        assert f"| {task} " in output
