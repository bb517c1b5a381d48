"""Fixtures that the tests of checkpoints share."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from sspsam.checkpoints import convert_process, converted
from sspsam.checkpoints.convert import convert_checkpoint
from sspsam.checkpoints.hub_options import HubOptions
from sspsam.checkpoints.names import AUTHORS_REPOSITORY, Source
from tests.support.hub import FakeHub
from tests.support.published import GREF, UNC


@pytest.fixture
def options(tmp_path: Path) -> HubOptions:
    """Options with an empty cache."""
    return HubOptions(cache_dir=tmp_path / "cache")


@pytest.fixture
def authors(hub: FakeHub, tiny_checkpoint: Path) -> str:
    """The authors' repository with one checkpoint; returns its commit."""
    return hub.add(AUTHORS_REPOSITORY, {UNC: tiny_checkpoint.read_bytes()})


@pytest.fixture
def published(hub: FakeHub, tiny_checkpoint: Path) -> str:
    """The authors' repository with two checkpoints; returns its commit."""
    return hub.add(AUTHORS_REPOSITORY, {"README.md": b"card", UNC: tiny_checkpoint.read_bytes(), GREF: b"another"})


@pytest.fixture
def own_files(tiny_model: Path) -> dict[str, bytes]:
    """The files of a checkpoint in the library's own format."""
    return {name: (tiny_model / name).read_bytes() for name in ("config.json", "model.safetensors")}


@pytest.fixture
def own_repository(hub: FakeHub, own_files: dict[str, bytes]) -> str:
    """A repository in the library's own format; returns its commit."""
    return hub.add("owner/name", own_files | {f"sub/folder/{name}": data for name, data in own_files.items()})


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convert in this process; a subprocess takes seconds to start. Tests of the subprocess delete `frozen`."""
    monkeypatch.setattr(convert_process.sys, "frozen", True, raising=False)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Convert in this process instead of in a subprocess, which takes seconds to start; returns the converted files."""
    files: list[Path] = []

    def convert_here(checkpoint: Path, out_dir: Path, source: Source, encoder_store: Path) -> None:
        files.append(checkpoint)
        convert_checkpoint(checkpoint, out_dir, source=str(source), encoder_store=encoder_store)

    monkeypatch.setattr(converted, "convert_in_subprocess", convert_here)
    return files


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function that forbids sockets from then on."""

    def forbid() -> None:
        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("a socket was opened")

        monkeypatch.setattr(socket, "socket", refuse)
        monkeypatch.setattr(socket, "create_connection", refuse)
        monkeypatch.setattr(socket, "getaddrinfo", refuse)

    return forbid


@pytest.fixture(scope="module")
def authors_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound authors' checkpoint with a small vocabulary, so that hundreds of copies stay cheap."""
    from benchmarks.authors_checkpoint import authors_state, tiny_architecture, write_checkpoint

    state = authors_state(tiny_architecture(vocab_size=64))
    return write_checkpoint(tmp_path_factory.mktemp("hostile") / "good.pth", state)


@pytest.fixture(scope="module")
def own_checkpoint(authors_file: Path) -> Path:
    """The same, converted; tests that change it copy it first."""
    directory = authors_file.with_name("own")
    convert_checkpoint(authors_file, directory)
    return directory
