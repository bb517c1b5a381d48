"""`sspsam cache` lists what it can delete, with sizes and ages."""

import os
import time
from pathlib import Path

import pytest

from sspsam.checkpoints.cache_listing import cached_checkpoints
from sspsam.checkpoints.names import AUTHORS_REPOSITORY
from sspsam.hub import HubOptions, delete, resolve
from tests.support.command import run_command
from tests.support.hub import FakeHub
from tests.support.published import NAME, UNC


@pytest.fixture
def options(hub: FakeHub, tiny_checkpoint: Path, tiny_model: Path, tmp_path: Path) -> HubOptions:
    """A cache with a published checkpoint, one in our format, and a model of another program."""
    hub.add(AUTHORS_REPOSITORY, {UNC: tiny_checkpoint.read_bytes()})
    files = {f"folder/{name}": (tiny_model / name).read_bytes() for name in ("config.json", "model.safetensors")}
    hub.add("owner/name", files)
    options = HubOptions(cache_dir=tmp_path / "cache")
    resolve(NAME, options)
    resolve("owner/name/folder", options)
    other = tmp_path / "cache" / "models--google--bert" / "snapshots" / ("0" * 40)
    other.mkdir(parents=True)
    (other / "config.json").write_text('{"model_type": "bert"}')
    (other / "model.safetensors").write_bytes(bytes(100))
    return options


def test_every_listed_checkpoint_has_its_size_and_can_be_deleted(options: HubOptions) -> None:
    found = cached_checkpoints(options)
    assert [(checkpoint.name, checkpoint.state) for checkpoint in found] == [
        *(("owner/name/folder", "ready"), (NAME, "downloaded"), (NAME, "ready"), (found[-1].name, "shared"))
    ]
    for checkpoint in found:
        files = [checkpoint.path] if checkpoint.path.is_file() else list(checkpoint.path.glob("[cm]*"))
        assert checkpoint.size == sum(path.stat().st_size for path in files) > 1000
        assert 0 <= time.time() - checkpoint.last_used < 3600
    for checkpoint in found:
        delete(checkpoint.name, options)
    assert cached_checkpoints(options) == []


def test_the_command_lists_names_states_sizes_and_ages(options: HubOptions) -> None:
    month = time.time() - 30 * 86_400
    for checkpoint in cached_checkpoints(options):
        for path in [checkpoint.path, *checkpoint.path.glob("*")]:
            os.utime(path, (month, month))
    done = run_command("cache", "--cache-dir", options.cache)
    assert done.exit_code == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [row[:2] + row[3:4] for row in rows] == [
        *(["owner/name/folder", "ready", "30 days"], [NAME, "downloaded", "30 days"], [NAME, "ready", "30 days"]),
        [rows[-1][0], "shared", "30 days"],
    ]
    assert all(row[2].endswith(" MB") for row in rows)
    assert "3 cached checkpoints" in done.stderr
    assert run_command("cache", "--cache-dir", options.cache, "-q").stderr == ""
    done = run_command("cache", "--revision", "main")
    assert (done.exit_code, "--delete NAME" in done.stderr) == (2, True)


def test_a_missing_cache_is_empty(tmp_path: Path) -> None:
    done = run_command("cache", "--cache-dir", tmp_path / "none")
    assert (done.exit_code, done.stdout) == (0, "")
