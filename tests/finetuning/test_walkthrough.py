"""The walk through a small task in docs/finetuning.md, in a short form."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from benchmarks import new_shape
from sspsam import SSPSAMPredictor
from tests.support.command import run_command

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # of pycocotools
]
PAGE = (Path(__file__).parents[2] / "docs" / "finetuning.md").read_text()
SHORT = ("--steps", "2", "--batch-size", "4", "--rehearsal-scenes", "2", "--device", "cpu", "--cache", "embeddings")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_every_command_and_the_python_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sspsam.finetuning.training_data.HELD_OUT_SCENES", 2)
    draw, train, again = (shlex.split(block) for block in blocks("bash"))
    assert draw[:3] == ["python", "-m", "benchmarks.new_shape"]
    monkeypatch.setattr(sys, "argv", [*draw[2:], "--lines", "30"])
    new_shape.main()
    for command in (train, again):
        assert command[:2] == ["sspsam", "finetune"]
        result = run_command(*command[1:], *SHORT)
        assert result.exit_code == 0, result.stderr
        assert "learning: ssp, decoder, tokens" in result.stderr
        assert "foreign N-acc" in result.stderr
    assert (tmp_path / "crescent-model" / "worst" / "labelme").is_dir()
    assert SSPSAMPredictor.from_pretrained("better-model", device="cpu").config.source.endswith("(training/)")
    [code] = blocks("python")
    short = code.replace(
        "FinetuneOptions(seed=1)", "FinetuneOptions(seed=1, steps=1, batch_size=4, rehearsal_scenes=2)"
    )
    assert short != code
    exec(compile(short, "finetuning.md", "exec"), {"__name__": "__main__"})


def test_the_page_states_the_defaults() -> None:
    for words in ("4 dice + 4 focal", "5 L1 + 2 GIoU", "1e-4 (decoder 1e-5)", "clipped at 0.1", "from 1e-6", "50 %"):
        assert words in PAGE
