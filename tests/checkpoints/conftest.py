"""Fixtures that the tests of checkpoints share."""

from pathlib import Path

import pytest

from sspsam.checkpoints import convert_process
from sspsam.checkpoints.hub_options import HubOptions
from sspsam.checkpoints.names import AUTHORS_REPOSITORY
from tests.support.hub import FakeHub

UNC = "output/unc/336/checkpoint_best_miou.pth"


@pytest.fixture
def options(tmp_path: Path) -> HubOptions:
    """Options with an empty cache."""
    return HubOptions(cache_dir=tmp_path / "cache")


@pytest.fixture
def authors(hub: FakeHub, tiny_checkpoint: Path) -> str:
    """The authors' repository with one checkpoint; returns its commit."""
    return hub.add(AUTHORS_REPOSITORY, {UNC: tiny_checkpoint.read_bytes()})


@pytest.fixture
def own_files(tiny_model: Path) -> dict[str, bytes]:
    """The files of a checkpoint in the library's own format."""
    return {name: (tiny_model / name).read_bytes() for name in ("config.json", "model.safetensors")}


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convert in this process; a subprocess takes seconds to start. Tests of the subprocess delete `frozen`."""
    monkeypatch.setattr(convert_process.sys, "frozen", True, raising=False)


@pytest.fixture(scope="module")
def authors_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound authors' checkpoint with a small vocabulary, so that hundreds of copies stay cheap."""
    from benchmarks.authors_checkpoint import authors_state, tiny_architecture, write_checkpoint

    state = authors_state(tiny_architecture(vocab_size=64))
    return write_checkpoint(tmp_path_factory.mktemp("hostile") / "good.pth", state)


@pytest.fixture(scope="module")
def own_checkpoint(authors_file: Path) -> Path:
    """The same, converted; tests that change it copy it first."""
    from sspsam.checkpoints.convert import convert_checkpoint

    directory = authors_file.with_name("own")
    convert_checkpoint(authors_file, directory)
    return directory
