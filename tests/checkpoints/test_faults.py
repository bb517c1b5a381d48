"""Faults found in real use, each kind with its members: names, caches, odd files and odd paths of checkpoints."""

import builtins
import errno
import io
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from PIL import Image

from sspsam import SSPSAMPredictor, errors
from sspsam.checkpoints import convert_process, listing
from sspsam.checkpoints.convert import convert_checkpoint
from sspsam.checkpoints.hub_options import HubOptions
from sspsam.checkpoints.names import AUTHORS_REPOSITORY
from sspsam.hub import resolve
from tests.support.command import run_command
from tests.support.hub import FakeHub

UNC = "output/unc/336/checkpoint_best_miou.pth"
NAME = "ssp-sam-336-refcoco"
MISSPELT = "ssp-sam-336-refcocco"


@pytest.fixture
def options(tmp_path: Path) -> HubOptions:
    return HubOptions(cache_dir=tmp_path / "cache")


@pytest.fixture
def authors(hub: FakeHub, tiny_checkpoint: Path) -> str:
    return hub.add(AUTHORS_REPOSITORY, {UNC: tiny_checkpoint.read_bytes()})


@pytest.fixture
def own_files(tiny_model: Path) -> dict[str, bytes]:
    return {name: (tiny_model / name).read_bytes() for name in ("config.json", "model.safetensors")}


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convert in this process; a subprocess takes seconds to start."""
    monkeypatch.setattr(convert_process.sys, "frozen", True, raising=False)


# misspelt names


def disconnect(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(101, "Network is unreachable")

    huggingface_hub.close_session()
    monkeypatch.setattr(socket, "create_connection", fail)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between attempts


@pytest.mark.parametrize("network", ["online", "offline", "unreachable", "server error", "bad token", "no revision"])
def test_a_misspelt_published_name_is_an_unknown_name_with_and_without_a_network(
    hub, authors, options, monkeypatch, network
) -> None:
    if network == "offline":
        options = HubOptions(cache_dir=options.cache_dir, local_files_only=True)
    elif network == "unreachable":
        disconnect(monkeypatch)
    elif network == "server error":
        hub.fail("/api/models", 500)
    elif network == "bad token":
        options = HubOptions(cache_dir=options.cache_dir, token="hf_bad")
    elif network == "no revision":
        options = HubOptions(cache_dir=options.cache_dir, revision="v9")
    with pytest.raises(errors.CheckpointNotFoundError, match=f"no checkpoint '{MISSPELT}'") as caught:
        resolve(MISSPELT, options)
    assert type(caught.value) is errors.CheckpointNotFoundError
    assert f"Did you mean {NAME}" in str(caught.value)
    assert "sspsam download" not in str(caught.value)
    assert ("could not be asked" in str(caught.value)) == (network != "online")


def test_every_command_calls_a_misspelt_name_unknown(hub, options, monkeypatch) -> None:
    disconnect(monkeypatch)
    for command in (["verify", MISSPELT], ["download", MISSPELT], ["cache", "--delete", MISSPELT]):
        done = run_command(*command, "--cache-dir", options.cache_dir)
        assert done.exit_code == 1
        assert f"Did you mean {NAME}" in done.stderr
        assert "sspsam download" not in done.stderr


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_an_unknown_name_says_that_the_configured_repository_was_asked_or_could_not_be_asked(
    hub, authors, options, tiny_model, monkeypatch, by
) -> None:
    hub.add("us/converted", {f"{NAME}/config.json": b"{}"})
    argument = "us/converted" if by == "argument" else None
    if by == "environment":
        monkeypatch.setenv("SSPSAM_REPOSITORY", "us/converted")
    with pytest.raises(errors.CheckpointNotFoundError, match=r"us/converted.* was asked first and does not") as caught:
        resolve(MISSPELT, options, repository=argument)
    assert f"Did you mean {NAME}" in str(caught.value)
    disconnect(monkeypatch)
    with pytest.raises(
        errors.CheckpointNotFoundError, match=r"us/converted.* could not be asked.*cannot reach"
    ) as lost:
        resolve(MISSPELT, options, repository=argument)
    assert f"Did you mean {NAME}" in str(lost.value)
    assert "sspsam download" not in str(lost.value)


def test_a_name_that_only_a_listing_knows_loads_from_the_hub_and_then_from_the_cache(
    hub, tiny_checkpoint, tiny_model, options
) -> None:
    path = "output/newdata/336/checkpoint_best_miou.pth"
    hub.add(AUTHORS_REPOSITORY, {path: tiny_checkpoint.read_bytes()})
    files = {f"ssp-sam-336-ours/{name}": (tiny_model / name).read_bytes() for name in os.listdir(tiny_model)}
    hub.add("us/converted", files)
    first = resolve("ssp-sam-336-newdata", options)
    ours = resolve("ssp-sam-336-ours", options, repository="us/converted")
    hub.down = True
    offline = HubOptions(cache_dir=options.cache_dir, local_files_only=True)
    for where in (options, offline):
        assert resolve("ssp-sam-336-newdata", where) == first
        assert resolve("ssp-sam-336-newdata", where, repository="us/converted") == first
        assert resolve("ssp-sam-336-ours", where, repository="us/converted").path == ours.path
    assert listing.delete("ssp-sam-336-newdata", options)


def test_of_names_that_are_equally_near_the_recommended_one_comes_first() -> None:
    with pytest.raises(errors.CheckpointNotFoundError, match="Did you mean ssp-sam-224-grefcoco, ssp-sam-336-grefcoco"):
        SSPSAMPredictor.from_pretrained("ssp-sam-grefcoco")


# what cannot be read, or is not the file that it should be


def lock(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Refuse to read a folder and everything below it, as for another user's files; tests may run as root."""
    locked = str(folder)

    def refusing(function: Callable[..., Any]) -> Callable[..., Any]:
        def refuse(path: Any = ".", *arguments: Any, **options: Any) -> Any:
            if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(locked):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
            return function(path, *arguments, **options)

        return refuse

    for name in ("listdir", "scandir", "open", "stat", "lstat", "readlink", "mkdir", "makedirs"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    monkeypatch.setattr(io, "open", refusing(io.open))
    monkeypatch.setattr(builtins, "open", io.open)


@pytest.mark.parametrize("offline", [False, True], ids=["online", "offline"])
@pytest.mark.parametrize("name", ["owner/name", NAME])
@pytest.mark.parametrize("part", ["", "models--{}", "models--{}/snapshots", "models--{}/refs", "sspsam-converted"])
def test_a_locked_folder_of_the_cache_is_a_named_error(
    hub, authors, own_files, options, monkeypatch, part, name, offline
) -> None:
    hub.add("owner/name", own_files)
    resolve(name, options)
    repository = AUTHORS_REPOSITORY if name == NAME else "owner/name"
    lock(monkeypatch, options.cache / part.format(repository.replace("/", "--")))
    where = HubOptions(cache_dir=options.cache_dir, local_files_only=offline)
    refusals = []
    calls = [lambda: resolve(name, where), lambda: listing.delete(name, where)]
    for call in [*calls, lambda: listing.published(where)]:
        try:  # a part of the cache that a call does not need does no harm
            call()
        except errors.SSPSAMError as error:
            refusals.append(error)
    for error in refusals:
        assert isinstance(error, errors.StorageError)
        assert f"{options.cache}" in str(error)
        assert "Permission denied" in str(error)
    assert len(refusals) == 3 or part


def test_listing_a_locked_cache_ends_with_one_line(hub, authors, options, monkeypatch) -> None:
    resolve(NAME, options)
    lock(monkeypatch, options.cache)
    done = run_command("models", "--cache-dir", options.cache_dir)
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert "Permission denied" in done.stderr


@pytest.mark.parametrize("content", [None, b"", b"garbage"], ids=["missing", "empty", "garbage"])
def test_a_dead_certificate_file_is_named(hub, authors, options, tmp_path, monkeypatch, content) -> None:
    path = tmp_path / "certificates.pem"
    if content is not None:
        path.write_bytes(content)
    huggingface_hub.close_session()
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    for name in (NAME, "owner/name"):
        with pytest.raises(
            errors.HubConnectionError, match=r"SSL_CERT_FILE names .*certificates\.pem.*sspsam download"
        ):
            resolve(name, options)
    monkeypatch.undo()


@pytest.mark.parametrize("variable", ["HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"])
def test_a_malformed_timeout_is_one_line_that_names_the_variable(tiny_model, picture, tmp_path, variable) -> None:
    Image.fromarray(picture).save(tmp_path / "x.png")
    image = str(tmp_path / "x.png")
    commands = [
        ["models"],
        ["download", NAME],
        ["verify", NAME],
        ["cache", "--delete", NAME],
        ["segment", image, "-t", "a cat", "--model", str(tiny_model)],
        ["batch", str(tmp_path), str(tmp_path / "out"), "-t", "a cat", "--model", str(tiny_model)],
    ]
    if variable == "HF_HUB_ETAG_TIMEOUT":
        del commands[1:]
    programs = [f"from sspsam.cli import main; main({command})" for command in commands]
    programs.append(
        "import sspsam, sspsam.errors\n"
        f"try: sspsam.SSPSAMPredictor.from_pretrained({str(tiny_model)!r})\n"
        "except sspsam.errors.HubError as error: print(error, file=sys.stderr); sys.exit(1)"
    )
    for program in programs:
        environment = os.environ | {variable: "1m"}
        done = subprocess.run(
            [sys.executable, "-c", f"import sys\n{program}"], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 1, program
        assert variable in done.stderr, program
        assert done.stderr.count("\n") == 1, done.stderr


FOREIGN = {
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 3360000000\n",
    "HTML": b"\n<!DOCTYPE html><html><body>Please log in</body></html>",
    "empty": b"",
    "zeros": bytes(4096),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_pointer_a_web_page_and_an_empty_file_are_called_so(tiny_model, tmp_path, kind) -> None:
    path = tmp_path / "c.pth"
    path.write_bytes(FOREIGN[kind])
    with pytest.raises(errors.CheckpointError, match=kind):
        convert_checkpoint(path, tmp_path / "out")
    for name, error in (("config.json", errors.ConfigError), ("model.safetensors", errors.CheckpointError)):
        shutil.copytree(tiny_model, tmp_path / name)
        (tmp_path / name / name).write_bytes(FOREIGN[kind])
        with pytest.raises(error, match=kind) as caught:
            SSPSAMPredictor.from_pretrained(tmp_path / name, device="cpu")
        assert name in str(caught.value)


@pytest.mark.parametrize("kind", ["Git LFS pointer", "HTML"])
def test_a_pointer_and_a_web_page_from_the_hub_are_called_so(hub, options, own_files, kind) -> None:
    hub.add(AUTHORS_REPOSITORY, {UNC: FOREIGN[kind]})
    with pytest.raises(errors.CheckpointError, match=kind):
        resolve(NAME, options)
    hub.add("owner/name", own_files | {"config.json": FOREIGN[kind]})
    with pytest.raises(errors.ConfigError, match=kind):
        SSPSAMPredictor.from_pretrained("owner/name", cache_dir=options.cache_dir, device="cpu")


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_file_that_the_storage_server_refuses_is_not_a_missing_repository(
    hub, authors, own_files, options, status
) -> None:
    hub.add("owner/name", own_files)
    hub.fail("/cdn/", status)
    for name in ("owner/name", NAME):
        with pytest.raises(errors.DownloadError, match=rf"localhost.*refused.*\({status}\).*sspsam download {name}"):
            resolve(name, options)
