"""Names resolved to checkpoints by the real client of a Hub on loopback."""

import contextlib
import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest

from sspsam import SSPSAMPredictor, errors
from sspsam.checkpoints import converted, listing
from sspsam.checkpoints.convert import convert_checkpoint
from sspsam.checkpoints.directory import read_config
from sspsam.checkpoints.hub_options import HubOptions
from sspsam.checkpoints.names import AUTHORS_REPOSITORY, Source
from sspsam.hub import Resolved, resolve
from tests.support.calibrations import calibration_with
from tests.support.hub import FakeHub

UNC = "output/unc/336/checkpoint_best_miou.pth"
GREF = "output/grefcoco/224/checkpoint_best_miou.pth"
NAME = "ssp-sam-336-refcoco"


@pytest.fixture
def authors(hub: FakeHub, tiny_checkpoint: Path) -> str:
    """The authors' repository; returns its commit."""
    return hub.add(AUTHORS_REPOSITORY, {"README.md": b"card", UNC: tiny_checkpoint.read_bytes(), GREF: b"another"})


@pytest.fixture
def own_repository(hub: FakeHub, tiny_model: Path) -> str:
    """A repository in the library's own format; returns its commit."""
    files = {name: (tiny_model / name).read_bytes() for name in ("config.json", "model.safetensors")}
    return hub.add("owner/name", files | {f"sub/folder/{name}": data for name, data in files.items()})


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
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the pauses of the client between its attempts."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def forbid() -> None:
        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("a socket was opened")

        monkeypatch.setattr(socket, "socket", refuse)
        monkeypatch.setattr(socket, "create_connection", refuse)
        monkeypatch.setattr(socket, "getaddrinfo", refuse)

    return forbid


# finding


def test_a_directory_and_the_weights_in_it_name_a_checkpoint(tiny_model: Path, tmp_path: Path, no_sockets) -> None:
    no_sockets()
    assert resolve(tiny_model).path == resolve(str(tiny_model)).path == tiny_model
    weights = tiny_model / "model.safetensors"
    assert resolve(weights).path == weights
    fingerprints = {SSPSAMPredictor.from_pretrained(name, device="cpu").fingerprint for name in (tiny_model, weights)}
    assert len(fingerprints) == 1
    shutil.copy(weights, tmp_path / "other.safetensors")
    with pytest.raises(errors.CheckpointNotFoundError, match=r"config\.json beside"):
        resolve(tmp_path / "other.safetensors")
    shutil.copy(tiny_model / "config.json", tmp_path)
    assert SSPSAMPredictor.from_pretrained(tmp_path / "other.safetensors", device="cpu").fingerprint in fingerprints


def test_a_published_name_is_downloaded_and_converted_once_and_then_needs_neither_network_nor_pickle(
    hub: FakeHub, authors: str, options: HubOptions, image: np.ndarray, no_sockets, monkeypatch
) -> None:
    predictor = SSPSAMPredictor.from_pretrained(NAME, cache_dir=options.cache_dir, device="cpu")
    assert predictor.origin.startswith(f"{AUTHORS_REPOSITORY}@{authors}:{UNC}, SHA-256 ")
    assert authors in predictor.config.source
    assert predictor.config.license == "apache-2.0"
    mask = predictor.predict("the mug", image=image).mask
    monkeypatch.setattr(converted, "convert_in_subprocess", lambda *_: pytest.fail("converted again"))
    no_sockets()
    again = SSPSAMPredictor.from_pretrained(NAME, cache_dir=options.cache_dir, device="cpu")
    assert np.array_equal(again.predict("the mug", image=image).mask, mask)
    offline = SSPSAMPredictor.from_pretrained(NAME, cache_dir=options.cache_dir, local_files_only=True, device="cpu")
    assert offline.fingerprint == predictor.fingerprint
    beside = json.loads((resolve(NAME, options).path / "source.json").read_text())
    assert (beside["commit"], beside["path"]) == (authors, UNC)
    assert len(beside["sha256"]) == 64


@pytest.mark.parametrize("folder", ["unc", "refcoco", "RefCOCO"])
def test_folders_may_have_the_authors_names_or_the_usual_ones(
    hub: FakeHub, tiny_checkpoint: Path, options: HubOptions, quick: list[Path], folder: str
) -> None:
    path = f"output/{folder}/336/checkpoint_best_miou.pth"
    hub.add(AUTHORS_REPOSITORY, {path: tiny_checkpoint.read_bytes()})
    assert path in resolve(NAME, options).origin
    assert len(quick) == 1


def test_a_file_of_any_repository_can_be_named(hub, tiny_checkpoint, options, quick) -> None:
    commit = hub.add("someone/else", {"deep/er/c.pth": tiny_checkpoint.read_bytes()})
    found = resolve("someone/else:deep/er/c.pth", options)
    assert found.origin.startswith(f"someone/else@{commit}:deep/er/c.pth")
    with pytest.raises(errors.HubFileMissingError, match=r"deep/er/c\.pth"):
        resolve("someone/else:c.pth", options)


def test_the_error_for_an_unpublished_name_lists_the_published_ones(hub, authors, options) -> None:
    with pytest.raises(errors.CheckpointNotFoundError) as caught:
        resolve("ssp-sam-336-refcoco+", options)
    assert "ssp-sam-224-grefcoco, ssp-sam-336-refcoco" in str(caught.value)
    with pytest.raises(errors.CheckpointNotFoundError, match="Did you mean ssp-sam-224-grefcoco, ssp-sam-336-refcoco"):
        resolve("ssp-sam-336-refcocoo", options)


def test_the_error_for_a_missing_name_lists_the_names(no_sockets) -> None:
    no_sockets()
    for nothing in (None, ""):
        with pytest.raises(errors.CheckpointNotFoundError, match="photographs"):
            SSPSAMPredictor.from_pretrained(nothing)
    with pytest.raises(errors.CheckpointNotFoundError, match="photographs"):
        SSPSAMPredictor.from_pretrained()
    for wrong in (3, b"bytes"):
        with pytest.raises(TypeError):
            resolve(wrong)


def test_the_error_for_a_file_that_is_no_checkpoint_names_the_next_step(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.CheckpointNotFoundError, match="sspsam convert"):
        SSPSAMPredictor.from_pretrained(tiny_checkpoint)
    (tmp_path / "file.txt").touch()
    with pytest.raises(errors.CheckpointNotFoundError, match=r"config\.json"):
        resolve(tmp_path / "file.txt")
    with pytest.raises(errors.CheckpointNotFoundError, match="no directory"):
        resolve(tmp_path / "none")


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_converted_repository_is_searched_first(hub, authors, tiny_model, options, quick, by, monkeypatch) -> None:
    files = {f"{NAME}/{name}": (tiny_model / name).read_bytes() for name in ("config.json", "model.safetensors")}
    commit = hub.add("us/converted", files)
    argument = "us/converted" if by == "argument" else None
    if by == "environment":
        monkeypatch.setenv("SSPSAM_REPOSITORY", "us/converted")
    assert resolve(NAME, options, repository=argument).origin == f"us/converted@{commit}"
    assert not quick
    del hub.repos["us/converted"].commits[commit][f"{NAME}/config.json"]
    fresh = HubOptions(cache_dir=options.cache_dir / "fresh")
    assert resolve(NAME, fresh, repository=argument).origin.startswith(AUTHORS_REPOSITORY)


@pytest.mark.parametrize(("name", "folder"), [("owner/name", "."), ("owner/name/sub/folder", "sub/folder")])
def test_a_repository_in_the_library_s_format_is_loaded_at_one_commit(
    hub, own_repository, options, no_sockets, name, folder
) -> None:
    found = resolve(name, options)
    assert found.origin == f"owner/name@{own_repository}"
    assert found.path.name == (own_repository if folder == "." else "folder")
    pinned = HubOptions(revision=own_repository, cache_dir=options.cache_dir)
    no_sockets()
    assert resolve(name, pinned).path == found.path
    assert resolve(name, HubOptions(cache_dir=options.cache_dir, local_files_only=True)).path == found.path


def test_an_unpinned_repository_follows_its_branch_and_a_pinned_one_does_not(
    hub, own_repository, tiny_model, options
) -> None:
    resolve("owner/name", options)
    new = hub.add(
        "owner/name", {name: (tiny_model / name).read_bytes() for name in ("config.json", "model.safetensors")}
    )
    assert new != own_repository
    assert resolve("owner/name", options).origin == f"owner/name@{new}"
    assert (
        resolve("owner/name", HubOptions(revision=own_repository, cache_dir=options.cache_dir)).origin
        == f"owner/name@{own_repository}"
    )


def test_refreshing_asks_the_hub_for_the_current_commit_of_an_unpinned_name(
    hub, authors, tiny_checkpoint, options, quick
) -> None:
    assert authors in resolve(NAME, options).origin
    new = hub.add(AUTHORS_REPOSITORY, {UNC: tiny_checkpoint.read_bytes(), "new": b""})
    assert authors in resolve(NAME, options).origin
    assert new in resolve(NAME, options, refresh=True).origin
    assert new in resolve(NAME, options).origin


def test_a_published_name_can_be_pinned(hub, authors, tiny_checkpoint, options, quick) -> None:
    hub.add(AUTHORS_REPOSITORY, {GREF: tiny_checkpoint.read_bytes()})
    pinned = HubOptions(revision=authors, cache_dir=options.cache_dir)
    assert authors in resolve(NAME, pinned).origin
    with pytest.raises(errors.CheckpointNotFoundError):
        resolve(NAME, options)


def test_a_downloaded_file_is_converted_without_a_network(hub, authors, options, quick, no_sockets) -> None:
    huggingface_hub.hf_hub_download(AUTHORS_REPOSITORY, UNC, cache_dir=options.cache_dir)
    no_sockets()
    offline = HubOptions(cache_dir=options.cache_dir, local_files_only=True)
    assert UNC in resolve(NAME, offline).origin
    assert len(quick) == 1


def test_the_token_is_sent(hub, own_repository, options) -> None:
    resolve("owner/name", HubOptions(cache_dir=options.cache_dir, token="hf_good"))
    authorization = {"/cdn/" in request.path: request.headers.get("authorization") for request in hub.requests}
    assert authorization == {False: "Bearer hf_good", True: None}  # never sent to the host of large files


# failing


def connecting_fails(patch: pytest.MonkeyPatch, error: OSError) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    huggingface_hub.close_session()  # an open connection would still do
    patch.setattr(socket, "create_connection", fail)


def no_network(hub: FakeHub, patch: pytest.MonkeyPatch) -> None:
    connecting_fails(patch, OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH)))


def no_names(hub: FakeHub, patch: pytest.MonkeyPatch) -> None:
    connecting_fails(patch, socket.gaierror(socket.EAI_NONAME, "Name or service not known"))


def hangs_up(hub: FakeHub, patch: pytest.MonkeyPatch) -> None:
    hub.down = True


def status(code: int) -> Callable[[FakeHub, pytest.MonkeyPatch], None]:
    return lambda hub, patch: hub.fail("/api/models|/resolve/", code)


def gated(hub: FakeHub, patch: pytest.MonkeyPatch) -> None:
    for repo in hub.repos.values():
        repo.gated = True


def forbidden(hub: FakeHub, patch: pytest.MonkeyPatch) -> None:
    for repo in hub.repos.values():
        repo.forbidden = True


def no_repository(hub: FakeHub, patch: pytest.MonkeyPatch) -> None:
    hub.repos.clear()


def bad_token(hub: FakeHub, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("HF_TOKEN", "hf_bad")


def offline_variable(hub: FakeHub, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def cut_download(hub: FakeHub, patch: pytest.MonkeyPatch) -> None:
    hub.fail("/cdn/", lambda body: (body, 0))


def full_disk(hub: FakeHub, patch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    patch.setattr(huggingface_hub.file_download, "http_get", fail)


def read_only(hub: FakeHub, patch: pytest.MonkeyPatch) -> None:
    def fail(path: object, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    patch.setattr(os, "makedirs", fail)


FAULTS = [
    (no_network, errors.HubConnectionError, "sspsam download {name}"),
    (no_names, errors.HubConnectionError, "sspsam download {name}"),
    (hangs_up, errors.DownloadError, "sspsam download {name}"),
    (bad_token, errors.HubAuthenticationError, "hf auth login"),
    (forbidden, errors.HubForbiddenError, "hf auth login"),
    (gated, errors.HubGatedError, "hf auth login"),
    (no_repository, errors.RepositoryMissingError, "hf auth login"),
    (status(500), errors.HubServerError, "sspsam download {name}"),
    (status(503), errors.HubServerError, "sspsam download {name}"),
    (status(429), errors.HubServerError, "sspsam download {name}"),
    (offline_variable, errors.HubOfflineError, "sspsam download {name}"),
    (cut_download, errors.DownloadError, "sspsam download {name}"),
    (full_disk, errors.NoSpaceError, "sspsam download {name}"),
    (read_only, errors.ReadOnlyError, "sspsam download {name}"),
]
IDS = [
    *("no network", "no name service", "hangs up", "401", "403", "gated", "no repository", "500", "503", "429"),
    *("HF_HUB_OFFLINE", "cut download", "full disk", "read-only cache"),
]


@pytest.mark.parametrize("name", ["owner/name", NAME])
@pytest.mark.parametrize(("fault", "error", "command"), FAULTS, ids=IDS)
def test_every_fault_has_its_error_and_one_command_to_run(
    hub, own_repository, authors, options, quick, no_pauses, monkeypatch, fault, error, command, name
) -> None:
    fault(hub, monkeypatch)
    with pytest.raises(errors.SSPSAMError) as caught:
        resolve(name, options)
    assert type(caught.value) is error
    assert command.format(name=name) in str(caught.value)
    monkeypatch.undo()
    hub.faults.clear()
    hub.down = False


@pytest.mark.parametrize("name", ["owner/name", NAME])
@pytest.mark.parametrize(("fault", "error", "command"), FAULTS[:3] + FAULTS[4:9], ids=IDS[:3] + IDS[4:9])
def test_a_cached_checkpoint_is_found_whatever_the_hub_answers(
    hub, own_repository, authors, options, quick, no_pauses, monkeypatch, fault, error, command, name
) -> None:
    before = resolve(name, options)
    fault(hub, monkeypatch)
    assert resolve(name, options) == before


def test_a_missing_revision_and_a_missing_file_are_told_apart(hub, own_repository, options) -> None:
    with pytest.raises(errors.RevisionMissingError, match=r"'nothing'.*run: sspsam download owner/name --cache-dir"):
        resolve("owner/name", HubOptions(revision="nothing", cache_dir=options.cache_dir))
    with pytest.raises(errors.HubFileMissingError, match=r"other/config\.json"):
        resolve("owner/name/other", options)


def test_a_flag_that_forbids_the_network_is_named(hub, options) -> None:
    for name in ("owner/name", NAME):
        with pytest.raises(errors.HubOfflineError, match="local_files_only"):
            resolve(name, HubOptions(cache_dir=options.cache_dir, local_files_only=True))
    assert not hub.requests


def test_a_download_that_is_cut_resumes_where_it_was(
    hub, own_repository, options, no_pauses, tiny_model, monkeypatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1_000_000)
    cuts = iter([5_000_000, 3_000_000])
    hub.fail("/cdn/", lambda body: (body, min(next(cuts, len(body)), len(body))))
    if huggingface_hub.__version__.startswith("1."):  # may resume a cut download only when it is called again
        for _ in range(2):
            with contextlib.suppress(errors.DownloadError):
                resolve("owner/name", options)
    found = resolve("owner/name", options)
    assert (found.path / "model.safetensors").read_bytes() == (tiny_model / "model.safetensors").read_bytes()
    assert [request.headers["range"] for request in hub.requests if "range" in request.headers] == [
        "bytes=5000000-",
        "bytes=8000000-",
    ]


def test_other_bytes_than_the_hub_announced_are_refused_and_never_converted(hub, authors, options, quick) -> None:
    hub.fail("/cdn/", lambda body: (body[:-5] + b"wrong", len(body)))
    with pytest.raises(errors.DigestMismatchError, match=f"sspsam cache --delete {NAME}"):
        resolve(NAME, options)
    assert not quick
    hub.faults.clear()
    assert listing.delete(NAME, options)
    resolve(NAME, options)
    assert len(quick) == 1


def test_a_hostile_file_is_refused_by_its_own_error_and_leaves_nothing(hub, options, tmp_path) -> None:
    import torch

    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "canary"),)

    torch.save({"model": Hostile()}, tmp_path / "hostile.pth")
    hub.add("someone/else", {"hostile.pth": (tmp_path / "hostile.pth").read_bytes()})
    with pytest.raises(errors.UnsafeCheckpointError, match="mkdir"):
        resolve("someone/else:hostile.pth", options)
    assert not (tmp_path / "canary").exists()
    assert not list((options.cache_dir / "sspsam-converted").rglob("*.tmp"))


# caches


def test_stale_partial_downloads_do_no_harm(hub, own_repository, options) -> None:
    blobs = options.cache_dir / "models--owner--name" / "blobs"
    blobs.mkdir(parents=True)
    for request in ("x", "y"):
        (blobs / f"{request}.incomplete").write_bytes(b"stale")
    assert resolve("owner/name", options).origin == f"owner/name@{own_repository}"


def test_a_cache_without_symlinks_works(hub, own_repository, authors, options, quick, monkeypatch) -> None:
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
    hub, own_repository, authors, options, quick, monkeypatch, name
) -> None:
    before = resolve(name, options)
    writing_fails(monkeypatch)
    assert resolve(name, options) == before
    SSPSAMPredictor.from_pretrained(name, cache_dir=options.cache_dir, device="cpu")


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.resolve().write_bytes(data)


@pytest.mark.parametrize("offline", [False, True], ids=["online", "offline"])
@pytest.mark.parametrize("name", ["owner/name", NAME])
@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_corrupted_file_of_the_cache_is_detected_and_can_be_repaired(
    hub, own_repository, authors, options, quick, name, offline, file
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
def test_a_corrupted_download_is_detected_before_it_is_converted(hub, authors, options, quick, offline) -> None:
    path = Path(huggingface_hub.hf_hub_download(AUTHORS_REPOSITORY, UNC, cache_dir=options.cache_dir))
    flip_a_byte(path)
    with pytest.raises(errors.DigestMismatchError, match=r"checkpoint_best_miou\.pth"):
        resolve(NAME, HubOptions(cache_dir=options.cache_dir, local_files_only=offline))
    assert not quick


def test_deleting_removes_the_named_checkpoint_and_nothing_else(
    hub, own_repository, authors, options, quick, tiny_model
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


def test_the_table_of_published_checkpoints_shows_their_local_state(hub, authors, options, quick, no_sockets) -> None:
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


# publishing


def test_a_pushed_checkpoint_has_a_card_and_loads_again(hub, tiny_model, options, image) -> None:
    predictor = SSPSAMPredictor.from_pretrained(tiny_model, device="cpu")
    commit = predictor.push_to_hub("me/mine", token="hf_good")
    card = hub.repos["me/mine"].commits[commit]["README.md"].decode()
    assert card.startswith("---\nlicense: ")
    for text in ("2603.18086", "OpenAI", "Segment", predictor.config.source, predictor.config.weights_sha256):
        assert text in card
    back = SSPSAMPredictor.from_pretrained("me/mine", revision=commit, cache_dir=options.cache_dir, device="cpu")
    assert back.fingerprint == predictor.fingerprint
    hub.fail("/commit/", 403)
    with pytest.raises(errors.HubForbiddenError, match="hf auth login"):
        predictor.push_to_hub("me/mine", token="hf_good")


# many processes, and killed ones

# imports once, forks a process for each line that it reads, and prints how the processes ended
FACTORY = """
import os, sys
from pathlib import Path
from sspsam import hub
from sspsam.checkpoints import converted
from sspsam.checkpoints import convert
from sspsam.checkpoints.hub_options import HubOptions
cache, log, name = sys.argv[1:4]
real = converted.convert_in_subprocess
def logged(checkpoint, out_dir, source, encoder_store):
    with open(log, "a") as file:
        file.write("converted\\n")
    real(checkpoint, out_dir, source, encoder_store)
converted.convert_in_subprocess = logged
children = []
for line in sys.stdin:
    child = os.fork() if line == "start\\n" else None
    if child == 0:
        hub.resolve(name, HubOptions(cache_dir=Path(cache)))
        os._exit(0)
    if child:
        children.append(child)
        print(child, flush=True)
    else:
        print(*[os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children], flush=True)
        children.clear()
"""


class Factory:
    """Starts processes that all resolve one name."""

    def __init__(self, cache: Path, log: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", FACTORY, str(cache), str(log), NAME],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=cache.parent,
        )

    def send(self, word: str) -> list[int]:
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return [int(number) for number in self.process.stdout.readline().split()]

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def factory(tmp_path: Path) -> Iterator[Factory]:
    made = Factory(tmp_path / "cache", tmp_path / "log")
    yield made
    made.close()


def test_eight_processes_at_once_all_succeed_and_convert_once(hub, authors, options, factory, tmp_path) -> None:
    for _ in range(8):
        factory.send("start")
    assert factory.send("wait") == [0] * 8
    assert (tmp_path / "log").read_text() == "converted\n"
    SSPSAMPredictor.from_pretrained(NAME, cache_dir=options.cache_dir, local_files_only=True, device="cpu", verify=True)


def kill_at_random_moments(hub: FakeHub, factory: Factory, options: HubOptions, kills: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    load = {"cache_dir": options.cache_dir, "device": "cpu", "verify": True}
    hub.delay = lambda: time.sleep(0.1)  # so that kills meet the download, too
    ended = []
    for _ in range(kills):
        [child] = factory.send("start")
        time.sleep(rng.uniform(0, 3))
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        ended += factory.send("wait")
        if any(converted.conversions_of(AUTHORS_REPOSITORY, options)):
            # it was finished before the kill: the conversion must be good, and the next round starts from nothing
            SSPSAMPredictor.from_pretrained(NAME, local_files_only=True, **load)
            shutil.rmtree(options.cache_dir)
    assert set(ended) <= {0, -signal.SIGKILL}
    assert ended.count(-signal.SIGKILL) >= kills / 3  # the others had finished
    hub.delay = lambda: None
    SSPSAMPredictor.from_pretrained(NAME, **load)
    assert [path for path in (options.cache_dir / "sspsam-converted").rglob("*") if ".tmp" in path.name] == []


@pytest.mark.slow
def test_a_few_kills_at_random_moments_leave_a_cache_that_the_next_load_can_use(hub, authors, options, factory) -> None:
    kill_at_random_moments(hub, factory, options, kills=3, seed=1)


@pytest.mark.nightly
def test_thirty_kills_at_random_moments_leave_a_cache_that_the_next_load_can_use(
    hub, authors, options, factory
) -> None:
    kill_at_random_moments(hub, factory, options, kills=30, seed=1)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_three_hundred_kills_at_random_moments_leave_a_cache_that_the_next_load_can_use(
    hub, authors, options, factory
) -> None:
    kill_at_random_moments(hub, factory, options, kills=300, seed=2)


def test_the_commands_about_checkpoints_list_download_verify_delete_and_convert(
    hub, authors, quick, tmp_path, tiny_checkpoint
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


def test_a_resolved_checkpoint_is_compared_by_value() -> None:
    assert Resolved(Path("a"), "b") == Resolved(Path("a"), "b", "")


def test_the_calibration_of_a_repository_is_downloaded_with_its_weights(hub: FakeHub, tiny_model: Path) -> None:
    fingerprint = read_config(tiny_model).fingerprint
    calibration = calibration_with(fingerprint, 0.5)
    files = {name: (tiny_model / name).read_bytes() for name in ("config.json", "model.safetensors")}
    hub.add("owner/calibrated", {**files, "calibration.json": calibration.to_json().encode()})
    predictor = SSPSAMPredictor.from_pretrained("owner/calibrated", device="cpu")
    assert predictor.calibration == calibration


def test_a_repository_without_a_calibration_is_asked_for_it_once(hub: FakeHub, own_repository: str) -> None:
    for _ in range(2):
        predictor = SSPSAMPredictor.from_pretrained("owner/name", device="cpu", revision=own_repository)
        assert predictor.calibration is None
    asked = [path for path in hub.paths() if path.endswith("calibration.json")]
    assert len(asked) == 1


def test_a_pushed_calibration_is_loaded_again(hub: FakeHub, tiny_model: Path) -> None:
    calibration = calibration_with(read_config(tiny_model).fingerprint, 0.5)
    predictor = SSPSAMPredictor.from_pretrained(tiny_model, device="cpu", calibration=calibration)
    predictor.push_to_hub("me/mine", token="hf_good")
    loaded = SSPSAMPredictor.from_pretrained("me/mine", device="cpu")
    assert loaded.calibration == calibration.of_fingerprint(loaded.fingerprint)
