"""Conversions in a subprocess that prints, is killed, fills the disk, or starts beside files named as modules."""

import os
import sys

import pytest

from sspsam import errors
from sspsam.checkpoints import convert_process
from sspsam.hub import resolve
from tests.support.published import NAME

pytestmark = pytest.mark.usefixtures("in_this_process")


def test_output_printed_during_a_conversion_is_not_its_answer(hub, authors, options, tmp_path, monkeypatch) -> None:
    monkeypatch.delattr(convert_process.sys, "frozen")
    (tmp_path / "sitecustomize.py").write_text("import os\nprint('hello')\nprint({'kind': 'x'})\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [*sys.path, tmp_path])  # a path that is no string
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert resolve(NAME, options).path.is_dir()


def test_a_killed_conversion_is_not_reported_as_a_bad_file(hub, authors, options, monkeypatch) -> None:
    monkeypatch.delattr(convert_process.sys, "frozen")
    killed = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    monkeypatch.setattr(convert_process, "_command", lambda: killed)
    with pytest.raises(errors.CheckpointError, match="exit status -9") as caught:
        resolve(NAME, options)
    assert "--delete" not in str(caught.value)
    assert not list(options.cache.rglob("*.tmp"))


def test_a_full_disk_while_converting_names_another_cache(hub, authors, options, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise errors.NoSpaceError("too little")

    monkeypatch.setattr("sspsam.checkpoints.convert.convert_checkpoint", full)
    with pytest.raises(errors.NoSpaceError, match=r"sspsam download .* --cache-dir /a/larger/disk"):
        resolve(NAME, options)
    assert os.listdir(options.cache)  # the download is kept


@pytest.mark.parametrize("with_empty_entry", [False, True])
def test_a_file_in_the_current_directory_is_not_run(
    hub, authors, options, tmp_path, monkeypatch, with_empty_entry
) -> None:
    monkeypatch.delattr(convert_process.sys, "frozen")
    (tmp_path / "sspsam").mkdir()
    for name in ("json.py", "subprocess.py", "torch.py", "sspsam/__init__.py"):
        (tmp_path / name).write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    if with_empty_entry:  # as in an interactive interpreter: the current directory
        monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert resolve(NAME, options).path.is_dir()
    assert not (tmp_path / "canary").exists()
