"""Every snippet and command of the README and the documentation is run, or listed here with the reason why not."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from sspsam.checkpoints.names import AUTHORS_REPOSITORY, RECOMMENDED
from sspsam.cli import main
from tests.support.hub import FakeHub
from tests.support.pages import PAGES, blocks, commands

# beginnings of commands that are not run here; `tests/test_pages.py` checks the options of those of sspsam
NOT_RUN = {
    "python3 -m venv .venv && ": "installs from the package index; `.ci/run` does so, and runs the example",
    ".venv/bin/pip ": "installs from the package index; `.ci/run` does so, and runs the tests",
    "sspsam check": "takes as long as the tests of the self-test, tests/evaluation/test_self_test.py",
    "sspsam eval ": "needs a data set; tests/cli/test_evaluate.py runs the command on small ones",
    "sspsam batch photos out-ray ": "needs a Ray cluster with GPUs; tests/batch has local clusters",
    "python -m training.": "takes hours; tests/training trains a small model",
    "sspsam demo": "runs until it is stopped; the tests of the demo start it",
    "sspsam serve": "runs until it is stopped; the tests of the server start it",
    "sspsam calibrate": "needs a data set; the tests of calibration run it on small ones",
    "sspsam finetune": "needs a data set; the tests of fine-tuning run it on small ones",
    "curl ": "asks a running server; the tests of the server do the same with its own client",
    "accelerate launch ": "starts several processes; the tests of fine-tuning do so on the CPU",
    "python -m benchmarks.": "measures for minutes; tests/test_docs.py runs the benchmarks at their smallest size",
    "docker ": "needs Docker",
    "pip install ": "installs from the package index; `.ci/run` installs the extra for tests, which has all of them",
    "torchrun ": "starts several processes; tests/finetuning/test_processes.py does so",
    'sspsam segment photo.jpg -t "the mug" --model ssp-sam-224-grefcoco --calibration ': (
        "needs a calibration of the model; tests/cli/test_calibrate.py makes one"
    ),
}
# pages whose Python is compiled only
ONLY_COMPILED = {
    "docs/finetuning.md": "trains for minutes",
    "docs/shared-encoders.md": "needs a second checkpoint with the same encoders",
}
# files that the commands of a page write, as the page says
WRITTEN = {
    "README.md": ["masks/a.jpg-1.png", "masks/a.jpg-2.png", "masks/results.jsonl"]
    + [f"out/photo.jpg-{number}{suffix}" for number in (1, 2) for suffix in (".png", ".overlay.png", ".cutout.png")],
    "docs/batch.md": ["masks/a.jpg-1.png", "masks/job.json", "coco/coco.json", "coco/yolo/labels/a.txt"],
    "docs/cluster.md": ["sharded/results.1-of-2.jsonl", "sharded/results.2-of-2.jsonl"],
    "docs/weights.md": ["ssp-sam/config.json", "ssp-sam/model.safetensors"],
}

PAGES_WITH_PYTHON = [page for page in PAGES if page != "README.md" and blocks(page, "python")]
PAGES_WITH_COMMANDS = [page for page in PAGES if commands(page)]


@pytest.fixture
def folder(
    tiny_checkpoint: Path, tiny_model: Path, tmp_path: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The current directory, in which the snippets and commands find the files that they name."""
    shutil.copytree(tiny_model, tmp_path / RECOMMENDED)
    shutil.copy(tiny_checkpoint, tmp_path / "checkpoint_best_miou.pth")
    Image.fromarray(image).save(tmp_path / "photo.jpg")
    (tmp_path / "photos").mkdir()
    Image.fromarray(image).save(tmp_path / "photos" / "a.jpg")
    (tmp_path / "prompts.csv").write_text("image,text\na.jpg,the mug\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def is_listed(command: str) -> bool:
    return any(command.startswith(beginning) for beginning in NOT_RUN)


def run_python(page: str) -> None:
    """Run the snippets of a page one after the other, each with the names of those before."""
    names = {"__name__": "__main__"}
    for block in blocks(page, "python"):
        code = compile(block.text, page, "exec")
        if page not in ONLY_COMPILED:
            exec(code, names)


def run_command(command: str, folder: Path) -> str:
    """Run a command line of sspsam in this process, and return its standard output."""
    command, _, source = command.partition(" < ")
    content = (folder / source).read_bytes() if source else None
    result = CliRunner().invoke(main, shlex.split(command, comments=True)[1:], input=content)
    assert result.exit_code == 0, f"{command}: {result.output}"
    return result.stdout


def test_the_python_of_the_readme_runs(folder: Path, hub: FakeHub, tiny_checkpoint: Path) -> None:
    shutil.rmtree(folder / RECOMMENDED)  # it is downloaded
    hub.add(AUTHORS_REPOSITORY, {"output/grefcoco/224/checkpoint_best_miou.pth": tiny_checkpoint.read_bytes()})
    assert len(blocks("README.md", "python")) == 2
    run_python("README.md")
    assert Image.open(folder / "mask.png").size == (90, 60)
    assert Image.open(folder / "overlay.png").mode == "RGB"


@pytest.mark.parametrize("page", PAGES_WITH_PYTHON)
def test_the_python_of_a_page_runs(page: str, folder: Path) -> None:
    run_python(page)


@pytest.mark.parametrize("page", PAGES_WITH_COMMANDS)
def test_the_commands_of_a_page_run(page: str, folder: Path) -> None:
    for command in commands(page):
        if not is_listed(command):
            assert command.startswith("sspsam "), f"{page}: run {command!r}, or list it in NOT_RUN with the reason"
            assert run_command(command, folder) or " batch " in command or " cache" in command
    assert [name for name in WRITTEN.get(page, []) if not (folder / name).is_file()] == []


def test_nothing_is_listed_as_not_run_that_no_page_has() -> None:
    lines = [command for page in PAGES for command in commands(page)]
    assert [start for start in NOT_RUN if not any(line.startswith(start) for line in lines)] == []
    assert [page for page in ONLY_COMPILED if page not in PAGES or not blocks(page, "python")] == []


def test_every_snippet_for_photographs_uses_the_name_that_is_known_to_be_published() -> None:
    text = "".join(block.text for page in PAGES for block in blocks(page, "python", "bash", "text"))
    names = re.findall(r'from_pretrained\("(.+?)"|--model (\S+)|download (\S+)', text)
    assert len(names) >= 15
    assert {name for found in names for name in found if name} == {RECOMMENDED, "shapes"}
