"""Versions of PyTorch and huggingface_hub without the private parts that the library uses."""

import errno
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.authors_checkpoint import authors_state, tiny_architecture, write_checkpoint
from sspsam import errors
from sspsam.checkpoints import private_apis
from sspsam.checkpoints.convert import convert_checkpoint
from sspsam.checkpoints.hub_cache import delete_cached_files
from sspsam.checkpoints.hub_errors import translated_errors
from sspsam.checkpoints.hub_options import HubOptions
from sspsam.config import ModelConfig


@pytest.fixture(scope="module")
def authors_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(
        tmp_path_factory.mktemp("authors") / "good.pth", authors_state(tiny_architecture(vocab_size=64))
    )


@pytest.fixture(scope="module")
def usual_config(authors_file: Path) -> ModelConfig:
    return convert_checkpoint(authors_file, authors_file.with_name("usual"))


class _OtherInterface:
    def __init__(self, path: str, mode: int) -> None: ...


class _NoRecords:
    def __init__(self, file: object) -> None: ...


@pytest.fixture(params=[None, _OtherInterface, _NoRecords], ids=["renamed", "other arguments", "other method"])
def changed_reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PyTorch without the class whose method reads one record of an archive."""
    monkeypatch.setattr(private_apis, "_torch_file_reader", lambda: request.param)


def _archive_with_two_readings(path: Path, good: Path) -> Path:
    """`zipfile` finds the good pickle; PyTorch, which ignores case, finds the other one first."""
    with zipfile.ZipFile(good) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    [index] = [name for name in records if name.endswith("/data.pkl")]
    other = b"\x80\x02cposix\nsystem\nX\x0c\x00\x00\x00touch CANARY\x85R."
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {index.replace("data.pkl", "DATA.PKL"): other, **records}.items():
            archive.writestr(name, data)
    return path


def test_a_good_file_converts_to_the_same_bytes(
    authors_file: Path, usual_config: ModelConfig, tmp_path: Path, changed_reader: None
) -> None:
    assert convert_checkpoint(authors_file, tmp_path / "out") == usual_config


def test_both_ways_read_the_same_pickle(authors_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = private_apis.index_as_torch_reads_it(authors_file)
    monkeypatch.setattr(private_apis, "_torch_file_reader", lambda: None)
    assert private_apis.index_as_torch_reads_it(authors_file) == usual


def test_an_archive_that_can_be_read_in_two_ways_is_refused(authors_file: Path, tmp_path: Path, monkeypatch) -> None:
    path = _archive_with_two_readings(tmp_path / "two.pth", authors_file)
    with pytest.raises(errors.CheckpointError, match="read different contents"):
        convert_checkpoint(path, tmp_path / "out")


def test_the_fallback_refuses_it_too_and_runs_nothing(
    authors_file: Path, tmp_path: Path, changed_reader: None, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = _archive_with_two_readings(tmp_path / "two.pth", authors_file)
    with pytest.raises(errors.CheckpointError, match="read different contents"):
        convert_checkpoint(path, tmp_path / "out")
    assert not (tmp_path / "CANARY").exists()


@pytest.mark.parametrize("missing", ["variable", "function"])
def test_a_pytorch_that_cannot_show_the_pickle_is_named_and_the_file_not_called_damaged(
    authors_file: Path, tmp_path: Path, changed_reader: None, monkeypatch, missing: str
) -> None:
    if missing == "variable":
        monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
    else:
        monkeypatch.delattr(torch.serialization, "get_unsafe_globals_in_checkpoint")
    with pytest.raises(errors.CheckpointError, match=r"torch 2.*may be sound") as caught:
        convert_checkpoint(authors_file, tmp_path / "out")
    assert "damaged" not in str(caught.value)


def test_forced_weights_only_loading_converts(authors_file: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
    convert_checkpoint(authors_file, tmp_path / "out")


# huggingface_hub


def _shared_store(cache: Path) -> Path:
    """A cache as huggingface_hub 2 lays it out: the blob of a repository links to a store that others may share."""
    shared = cache / "blobs" / "ab" / ("ab" * 32)
    blob = cache / "models--owner--name" / "blobs" / ("c" * 64)
    file = cache / "models--owner--name" / "snapshots" / ("d" * 40) / "config.json"
    for path in (shared, blob, file):
        path.parent.mkdir(parents=True)
    shared.write_bytes(b"content")
    blob.symlink_to(Path("..", "..", "blobs", "ab", shared.name))
    file.symlink_to(Path("..", "..", "blobs", blob.name))
    return shared


@pytest.mark.parametrize("module", [None, SimpleNamespace(), SimpleNamespace(sweep_shared_blob=lambda blob: None)])
def test_without_the_function_a_shared_blob_is_kept_with_a_warning(tmp_path: Path, monkeypatch, module) -> None:
    shared = _shared_store(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub.utils._shared_blobs", module)
    with pytest.warns(errors.SSPSAMWarning, match=r"was not deleted: huggingface_hub \d"):
        deleted = delete_cached_files("owner/name", {"config.json"}, HubOptions(cache_dir=tmp_path))
    assert [path.name for path in deleted] == ["config.json"]
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))
    assert shared.exists()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ConnectError", errors.HubConnectionError),
        ("ConnectTimeout", errors.HubConnectionError),
        ("PoolTimeout", errors.HubConnectionError),
        ("ProxyError", errors.HubConnectionError),
        ("UnsupportedProtocol", errors.HubConnectionError),
        ("ReadError", errors.DownloadError),
        ("ReadTimeout", errors.DownloadError),
        ("RemoteProtocolError", errors.DownloadError),
        ("WriteError", errors.DownloadError),
        ("LocalProtocolError", errors.HubAuthenticationError),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_the_errors_of_the_http_package_are_told_apart(name: str, kind: type, wrapped: bool) -> None:
    [http_error] = private_apis.http_error_kinds(name)
    raised: Exception = http_error("it failed")
    if wrapped:
        outer = RuntimeError("wrapped")
        outer.__cause__, raised = raised, outer
    with pytest.raises(errors.SSPSAMError) as caught, translated_errors("o/n", "f", HubOptions(), "the command"):
        raise raised
    assert type(caught.value) is kind


def test_an_unknown_http_package_leaves_an_error_that_names_the_command(monkeypatch) -> None:
    [http_error] = private_apis.http_error_kinds("ConnectError")
    monkeypatch.setattr(private_apis, "_http_package", lambda: None)
    for raised, kind in ((http_error("it failed"), errors.HubError), (OSError(errno.EPIPE, "x"), errors.DownloadError)):
        with pytest.raises(kind, match="run: the command"), translated_errors("o/n", "f", HubOptions(), "the command"):
            raise raised
