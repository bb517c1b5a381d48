"""The conversion subprocess, with a conversion that the tests replace in the subprocess itself."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from sspsam import errors
from sspsam.checkpoints.convert_process import convert_in_subprocess
from sspsam.checkpoints.names import AUTHORS_REPOSITORY, Source

SOURCE = Source("owner/name", "a" * 40, "c.pth")

Replace = Callable[..., None]


@pytest.fixture
def replace_conversion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Replace:
    """Replace the body of `convert_checkpoint` in the subprocess; it can use `names`, its keyword arguments.

    Python runs `at_start` before anything else in the subprocess.
    """

    def replace(body: str, at_start: str = "pass") -> None:
        folder = tmp_path / "replacement"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(
            "import os, sys, time, types\n"
            f"{at_start}\n"
            "def convert_checkpoint(checkpoint, out_dir, *, encoder_store, **names):\n"
            "    names['encoder_store'] = encoder_store and str(encoder_store)\n"
            f"    {body}\n"
            "module = types.ModuleType('sspsam.checkpoints.convert')\n"
            "module.convert_checkpoint = convert_checkpoint\n"
            "sys.modules[module.__name__] = module\n"
        )
        monkeypatch.syspath_prepend(str(folder))

    return replace


def test_the_task_arrives_and_no_token_does(replace_conversion: Replace, tmp_path: Path, monkeypatch) -> None:
    replace_conversion("import json; json.dump([checkpoint, out_dir, names, dict(os.environ)], open('arrived', 'w'))")
    monkeypatch.chdir(tmp_path)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "GITHUB_TOKEN"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("HARMLESS", "kept")
    convert_in_subprocess(Path("größe.pth"), Path("out"), SOURCE, Path("store"))
    checkpoint, out_dir, names, environment = json.loads((tmp_path / "arrived").read_text())
    assert (checkpoint, out_dir, names) == (
        "größe.pth",
        "out",
        {"source": str(SOURCE), "license": None, "encoder_store": "store"},
    )
    assert "secret" not in environment.values()
    assert environment["HARMLESS"] == "kept"


def test_the_authors_own_files_carry_their_licence(replace_conversion: Replace, tmp_path: Path, monkeypatch) -> None:
    replace_conversion("open('license', 'w').write(names['license'])")
    monkeypatch.chdir(tmp_path)
    convert_in_subprocess(Path("a.pth"), Path("out"), Source(AUTHORS_REPOSITORY, "a" * 40, "c.pth"))
    assert (tmp_path / "license").read_text() == "apache-2.0"


@pytest.mark.parametrize("kind", ["UnsafeCheckpointError", "NoSpaceError", "CheckpointError"])
def test_an_error_of_the_subprocess_is_raised_with_its_class_and_message(replace_conversion: Replace, kind) -> None:
    replace_conversion(f"from sspsam import errors; print('noise'); raise errors.{kind}('what was wrong: größe')")
    with pytest.raises(errors.SSPSAMError, match="what was wrong: größe") as caught:
        convert_in_subprocess(Path("a.pth"), Path("out"), SOURCE)
    assert type(caught.value) is getattr(errors, kind)


@pytest.mark.parametrize("output", ["", "3", "{}", '{"kind": "NoSpaceError", "message": "no"}', "[", "null"])
def test_output_of_a_subprocess_that_dies_is_not_taken_for_its_answer(replace_conversion: Replace, output) -> None:
    show = f"print({output!r}, flush=True)"
    replace_conversion(f"{show}; os.kill(os.getpid(), 9)", at_start=show)
    with pytest.raises(errors.CheckpointError, match=r"exit status -9.*The file need not be damaged"):
        convert_in_subprocess(Path("a.pth"), Path("out"), SOURCE)


def test_an_unexpected_exception_of_the_subprocess_is_not_a_success(replace_conversion: Replace) -> None:
    replace_conversion("raise RuntimeError('a bug')")
    with pytest.raises(errors.CheckpointError, match="exit status 1"):
        convert_in_subprocess(Path("a.pth"), Path("out"), SOURCE)


def test_the_subprocess_ends_when_its_parent_is_killed(replace_conversion: Replace, tmp_path: Path) -> None:
    replace_conversion("open('pid.new', 'w').write(str(os.getpid())); os.rename('pid.new', 'pid'); time.sleep(600)")
    code = (
        "import sys; sys.path[:] = sys.argv[1:]\n"
        "from pathlib import Path\n"
        "from sspsam.checkpoints.convert_process import convert_in_subprocess\n"
        "from sspsam.checkpoints.names import Source\n"
        "convert_in_subprocess(Path('a.pth'), Path('out'), Source('owner/name', 'a' * 40, 'c.pth'))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, *map(str, sys.path)], cwd=tmp_path)
    _wait_until((tmp_path / "pid").exists)
    child = psutil.Process(int((tmp_path / "pid").read_text()))
    try:
        assert child.is_running()
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        _wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    finally:
        if child.is_running():
            child.kill()


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_frozen_interpreter_converts_in_this_process(tiny_checkpoint: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a subprocess was started"))
    convert_in_subprocess(tiny_checkpoint, tmp_path / "out", SOURCE)
    assert sorted(os.listdir(tmp_path / "out")) == ["config.json", "model.safetensors"]
