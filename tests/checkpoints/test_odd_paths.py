"""Paths of checkpoints and caches: `~`, empty, too long, not UTF-8, deleted, and without permission."""

import builtins
import errno
import io
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sspsam
from sspsam import SSPSAMPredictor, errors
from sspsam.checkpoints import listing
from sspsam.checkpoints.convert import convert_checkpoint
from sspsam.checkpoints.format import load_checkpoint, save_checkpoint
from sspsam.checkpoints.hub_options import HubOptions
from sspsam.checkpoints.names import AUTHORS_REPOSITORY
from sspsam.checkpoints.publish import push_checkpoint
from sspsam.hub import resolve
from tests.support.command import run_command
from tests.support.published import NAME

pytestmark = pytest.mark.usefixtures("in_this_process")


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


def test_a_checkpoint_in_a_locked_folder_is_not_called_missing(tiny_model, tmp_path, monkeypatch) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "locked"))
    lock(monkeypatch, folder)
    for name in (folder, str(folder)):
        with pytest.raises(errors.CheckpointNotFoundError, match=r"cannot read .*locked: Permission denied"):
            resolve(name)


def test_a_cache_in_a_deleted_current_folder_is_a_named_error(tmp_path, monkeypatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(errors.StorageError, match="was deleted"):
        HubOptions.of(cache_dir="cache")


def test_the_home_of_the_user_is_expanded_in_every_path(
    hub, authors, tiny_checkpoint, tiny_model, tmp_path, monkeypatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SSPSAM_HOME", "~/records")
    shutil.copy(tiny_checkpoint, tmp_path / "c.pth")
    convert_checkpoint("~/c.pth", "~/converted")
    done = run_command("convert", "~/c.pth", "~/by-command")
    assert done.exit_code == 0, done.stderr
    for name in ("~/converted", Path("~/converted"), "~/converted/model.safetensors"):
        predictor = SSPSAMPredictor.from_pretrained(name, device="cpu")
    assert load_checkpoint("~/converted")[1].fingerprint == predictor.fingerprint
    predictor.save_pretrained("~/saved")
    save_checkpoint("~/saved-too", predictor.config, load_checkpoint("~/saved")[0].state_dict())
    assert SSPSAMPredictor.from_pretrained("~/saved", device="cpu").fingerprint == predictor.fingerprint
    resolve(NAME, HubOptions.of(cache_dir="~/cache"))
    assert run_command("verify", NAME, "--cache-dir", "~/cache").exit_code == 0
    assert run_command("verify", "~/saved").exit_code == 0
    SSPSAMPredictor.from_pretrained(NAME, cache_dir="~/cache", local_files_only=True, device="cpu")
    with pytest.raises(errors.CheckpointNotFoundError, match="yours"):
        listing.delete("~/saved", HubOptions())
    assert run_command("cache", "--delete", NAME, "--cache-dir", "~/cache").exit_code == 0
    with pytest.raises(errors.CheckpointNotFoundError, match=r"sspsam convert .*c\.pth"):
        resolve("~/c.pth")
    push_checkpoint("~/saved", "me/mine", token="hf_good")
    assert list((tmp_path / "records" / "verified").iterdir())
    assert os.listdir(tmp_path / "here") == []


def test_an_empty_path_is_refused_and_is_not_the_current_directory(
    hub, tiny_checkpoint, tiny_model, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    predictor = SSPSAMPredictor.from_pretrained(tiny_model, device="cpu")
    state = load_checkpoint(tiny_model)[0].state_dict()
    for empty in ("", "  "):
        calls = [
            lambda empty=empty: predictor.save_pretrained(empty),
            lambda empty=empty: save_checkpoint(empty, predictor.config, state),
            lambda empty=empty: convert_checkpoint(tiny_checkpoint, empty),
            lambda empty=empty: convert_checkpoint(empty, tmp_path / "out"),
            lambda empty=empty: load_checkpoint(empty),
            lambda empty=empty: SSPSAMPredictor.from_pretrained(tiny_model, cache_dir=empty, device="cpu"),
            lambda empty=empty: HubOptions.of(cache_dir=empty),
            lambda empty=empty: push_checkpoint(empty, "me/mine"),
        ]
        for call in calls:
            with pytest.raises(errors.SSPSAMError, match="is empty"):
                call()
        with pytest.raises(errors.CheckpointNotFoundError, match="name a model"):
            resolve(empty)
        for command in (["convert", tiny_checkpoint, empty], ["convert", empty, tmp_path / "out"]):
            done = run_command(*command)
            assert done.exit_code == 2, done.output
            assert "is empty" in done.stderr
        for command in (["models"], ["download", NAME], ["segment", "x.png", "-t", "x", "--model", NAME]):
            done = run_command(*command, "--cache-dir", empty)
            assert done.exit_code == 2
            assert "the path of '--cache-dir' is empty" in done.stderr
    assert os.listdir(tmp_path) == []


ODD_PATHS = [
    *("x" * 300, "x" * 5000, "data:image/png;base64," + "A" * 5000),
    *("a\0b", "a\udc00\ud800b", "file/" + "x/" * 1500 + "x"),
]


@pytest.mark.parametrize("path", ODD_PATHS, ids=["long name", "longer", "data", "NUL", "surrogate", "deep"])
def test_an_odd_path_is_a_short_error_that_cannot_steer_a_terminal(
    hub, tiny_checkpoint, tiny_model, tmp_path, monkeypatch, path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    predictor = SSPSAMPredictor.from_pretrained(tiny_model, device="cpu")
    calls = [
        lambda: resolve(path),
        lambda: resolve(Path(path)),
        lambda: load_checkpoint(path),
        lambda: convert_checkpoint(path, tmp_path / "out"),
        lambda: convert_checkpoint(tiny_checkpoint, tmp_path / "out", clip=path),
        lambda: convert_checkpoint(tiny_checkpoint, path),
        lambda: predictor.save_pretrained(path),
        lambda: listing.delete(path, HubOptions(cache_dir=tmp_path)),
        lambda: listing.verify(path, HubOptions(cache_dir=tmp_path)),
        lambda: push_checkpoint(path, "me/mine"),
        lambda: resolve(NAME, HubOptions.of(cache_dir=path, local_files_only=True)),
    ]
    for call in calls:
        with pytest.raises(errors.SSPSAMError) as caught:
            call()
        assert len(str(caught.value)) < 4100  # a command to run quotes a whole path, which has at most 4,096 characters
        assert str(caught.value).isprintable()


def test_the_methods_of_path_that_raise_are_not_called_in_the_library() -> None:
    # on Python 3.11 they raise for long names, and for folders that one may not enter; functions of os.path do not
    pattern = re.compile(r"\.(exists|is_file|is_dir)\(\)")
    on_directory_entries = "entry."  # of os.scandir, guarded where they are called
    package = Path(sspsam.__file__).parent
    calls = [
        f"{path.relative_to(package)}:{number}"
        for path in package.rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line) and on_directory_entries not in line
    ]
    assert calls == []


def test_a_name_that_is_not_utf8_is_called_so(tiny_checkpoint, tiny_model, tmp_path) -> None:
    path = os.path.join(tmp_path, "c\udcff.pth")
    shutil.copy(tiny_checkpoint, path)
    folder = shutil.copytree(tiny_model, os.path.join(tmp_path, "m\udcff"))
    calls = [
        lambda: convert_checkpoint(path, tmp_path / "out"),
        lambda: SSPSAMPredictor.from_pretrained(folder, device="cpu"),
    ]
    for call in calls:
        with pytest.raises(errors.CheckpointError, match=r"not UTF-8.*rename"):
            call()
