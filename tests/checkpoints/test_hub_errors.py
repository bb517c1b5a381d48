"""Failures of the network, the Hub and the disk: each has its error, with one command to run."""

import contextlib
import errno
import os
import socket
import threading
import time
from collections.abc import Callable

import huggingface_hub
import pytest

from sspsam import errors
from sspsam.checkpoints import listing
from sspsam.checkpoints.hub_options import HubOptions
from sspsam.hub import resolve
from tests.support.hub import FakeHub
from tests.support.published import NAME


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the pauses of the client between its attempts."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


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
    *("no network", "no name service", "hangs up", "401", "403", "gated", "no repository", "500", "503"),
    *("429", "HF_HUB_OFFLINE", "cut download", "full disk", "read-only cache"),
]


@pytest.mark.parametrize("name", ["owner/name", NAME])
@pytest.mark.parametrize(("fault", "error", "command"), FAULTS, ids=IDS)
def test_every_fault_has_its_error_and_one_command_to_run(
    hub, own_repository, published, options, quick, no_pauses, monkeypatch, fault, error, command, name
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
    hub, own_repository, published, options, quick, no_pauses, monkeypatch, fault, error, command, name
) -> None:
    before = resolve(name, options)
    fault(hub, monkeypatch)
    assert resolve(name, options) == before


def test_a_hub_that_accepts_the_connection_and_does_not_answer_is_not_waited_for_without_end(
    hub, published, options, no_pauses, monkeypatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    answered = threading.Event()
    hub.delay = lambda: answered.wait(10)
    with pytest.raises(errors.DownloadError, match=f"run: sspsam download {NAME}"):
        resolve(NAME, options)
    assert not answered.is_set()
    answered.set()


@pytest.mark.parametrize("answer", [b"<html>please log in</html>", b"[1, 2]", b"{}"])
def test_an_answer_that_is_not_that_of_a_hub_names_the_endpoint(hub, published, options, no_pauses, answer) -> None:
    hub.answers["/api/models/"] = answer
    with pytest.raises(errors.HubError, match=r"HF_ENDPOINT.*run: sspsam download"):
        resolve(NAME, options)


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


def test_other_bytes_than_the_hub_announced_are_refused_and_never_converted(hub, published, options, quick) -> None:
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
