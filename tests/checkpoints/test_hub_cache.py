"""The Hub's cache on disk: partial, read-only and corrupted files, deletion, and the table of what is ready."""

import errno
import os
from pathlib import Path

import huggingface_hub
import pytest

from sspsam import SSPSAMPredictor, errors
from sspsam.checkpoints import listing
from sspsam.checkpoints.hub_options import HubOptions
from sspsam.checkpoints.names import AUTHORS_REPOSITORY
from sspsam.hub import resolve
from tests.support.damage import flip_a_byte
from tests.support.published import GREF, NAME, UNC


def test_stale_partial_downloads_do_no_harm(hub, own_repository, options) -> None:
    blobs = options.cache_dir / "models--owner--name" / "blobs"
    blobs.mkdir(parents=True)
    for request in ("x", "y"):
        (blobs / f"{request}.incomplete").write_bytes(b"stale")
    assert resolve("owner/name", options).origin == f"owner/name@{own_repository}"


def test_a_cache_without_symlinks_works(hub, own_repository, published, options, quick, monkeypatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_SYMLINKS", True, raising=False)  # not in 1.0
    monkeypatch.setattr(huggingface_hub.file_download, "are_symlinks_supported", lambda *_: False)
    for name in ("owner/name", NAME):
        found = resolve(name, options)
        SSPSAMPredictor.from_pretrained(name, cache_dir=options.cache_dir, device="cpu")
        assert not any(path.is_symlink() for path in found.path.iterdir())
        assert listing.delete(name, options)
    assert not [path for path in options.cache_dir.rglob("*.safetensors") if path.is_file()]


def writing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse writes as a read-only file system does, for root too."""
    for name in ("mkdir", "makedirs", "replace", "rename", "symlink"):

        def fail(path: object, *_: object, **__: object) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

        monkeypatch.setattr(os, name, fail)
    real = os.open

    def read_only_open(path: object, flags: int, *rest: object, **more: object) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", read_only_open)


@pytest.mark.parametrize("name", ["owner/name", NAME])
def test_a_read_only_cache_serves_what_it_holds(
    hub, own_repository, published, options, quick, monkeypatch, name
) -> None:
    before = resolve(name, options)
    writing_fails(monkeypatch)
    assert resolve(name, options) == before
    SSPSAMPredictor.from_pretrained(name, cache_dir=options.cache_dir, device="cpu")


@pytest.mark.parametrize("offline", [False, True], ids=["online", "offline"])
@pytest.mark.parametrize("name", ["owner/name", NAME])
@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_corrupted_file_of_the_cache_is_detected_and_can_be_repaired(
    hub, own_repository, published, options, quick, name, offline, file
) -> None:
    load = {"cache_dir": options.cache_dir, "device": "cpu"}
    SSPSAMPredictor.from_pretrained(name, **load)
    path = resolve(name, options).path / file
    if file == "config.json":
        path.resolve().write_text(path.read_text().replace('"surgery_layers": 2', '"surgery_layers": 1'))
    else:
        flip_a_byte(path)
    with pytest.raises(errors.SSPSAMError) as caught:
        SSPSAMPredictor.from_pretrained(name, local_files_only=offline, **load)
    assert isinstance(caught.value, errors.DigestMismatchError | errors.ConfigError)
    assert file in str(caught.value)
    assert f"sspsam cache --delete {name}" in str(caught.value)
    with pytest.raises(errors.SSPSAMError, match="cache --delete"):
        listing.verify(name, options)
    assert listing.delete(name, options)
    SSPSAMPredictor.from_pretrained(name, **load)
    assert listing.verify(name, options).weights_sha256


@pytest.mark.parametrize("offline", [False, True], ids=["online", "offline"])
def test_a_corrupted_download_is_detected_before_it_is_converted(hub, published, options, quick, offline) -> None:
    path = Path(huggingface_hub.hf_hub_download(AUTHORS_REPOSITORY, UNC, cache_dir=options.cache_dir))
    flip_a_byte(path)
    with pytest.raises(errors.DigestMismatchError, match=r"checkpoint_best_miou\.pth"):
        resolve(NAME, HubOptions(cache_dir=options.cache_dir, local_files_only=offline))
    assert not quick


def test_deleting_removes_the_named_checkpoint_and_nothing_else(
    hub, own_repository, published, options, quick, tiny_model
) -> None:
    resolve(NAME, options)
    resolve("owner/name", options)
    huggingface_hub.hf_hub_download(AUTHORS_REPOSITORY, GREF, cache_dir=options.cache_dir)
    deleted = listing.delete(NAME, options)
    assert not any(path.exists() for path in deleted)
    assert [path.name for path in options.cache_dir.rglob("*.pth") if path.is_file()] == [Path(GREF).name]
    assert resolve("owner/name", HubOptions(cache_dir=options.cache_dir, local_files_only=True))
    assert listing.delete(NAME, options) == []
    with pytest.raises(errors.CheckpointNotFoundError, match="yours"):
        listing.delete(str(tiny_model), options)


def test_the_table_of_published_checkpoints_shows_their_local_state(hub, published, options, quick, no_sockets) -> None:
    resolve(NAME, options)
    remote = {entry.name: entry.state for entry in listing.published(options, remote=True)}
    assert remote == {NAME: "ready", "ssp-sam-224-grefcoco": "-"}
    huggingface_hub.hf_hub_download(AUTHORS_REPOSITORY, GREF, cache_dir=options.cache_dir)
    no_sockets()
    local = {entry.name: entry.state for entry in listing.published(options)}
    assert len(local) == 12
    assert {name: state for name, state in local.items() if state != "-"} == {
        NAME: "ready",
        "ssp-sam-224-grefcoco": "downloaded",
    }


def test_the_commands_about_checkpoints_list_download_verify_delete_and_convert(
    hub, published, quick, tmp_path, tiny_checkpoint
) -> None:
    from click.testing import CliRunner

    from sspsam.cli import main

    def run(*arguments: object, status: int = 0) -> str:
        done = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert done.exit_code == status, done.output
        return done.output

    where = ("--cache-dir", tmp_path / "cache")
    assert f"{NAME}\t-\t4.3 GB\tapache-2.0" in run("models", *where)
    assert UNC in run("download", NAME, *where)
    assert f"{NAME}\tready" in run("models", "--remote", *where)
    assert run("verify", NAME, *where).startswith(f"{NAME}\tgood\t")
    assert run("cache", "--delete", NAME, *where).count("deleted\t") >= 2
    assert "nothing" in run("cache", "--delete", NAME, *where, status=1)
    assert "sspsam download" in run("verify", NAME, *where, status=1)
    assert "photographs" in run("segment", "x.png", "-t", "a cat", status=2)
    assert "bad name" in run("convert", tiny_checkpoint, tmp_path / "out", "--push", "bad name", status=1)
    assert "me/pushed\t" in run("convert", tiny_checkpoint, tmp_path / "out", "--push", "me/pushed")
