"""Faults found in real use, each kind with its members: names, caches, odd files and odd paths of checkpoints."""

import builtins
import errno
import gzip
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import safetensors.numpy
import torch
from PIL import Image

import sspsam
from benchmarks.authors_checkpoint import authors_state, tiny_architecture
from sspsam import SSPSAMPredictor, errors
from sspsam.checkpoints import listing
from sspsam.checkpoints.convert import convert_checkpoint
from sspsam.checkpoints.format import load_checkpoint, save_checkpoint
from sspsam.checkpoints.hub_options import HubOptions
from sspsam.checkpoints.names import AUTHORS_REPOSITORY, RECOMMENDED
from sspsam.checkpoints.publish import push_checkpoint
from sspsam.hub import resolve
from tests.support.command import run_command

UNC = "output/unc/336/checkpoint_best_miou.pth"
NAME = "ssp-sam-336-refcoco"
MISSPELT = "ssp-sam-336-refcocco"


pytestmark = pytest.mark.usefixtures("in_this_process")


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
    expected = NAME if network == "online" else f"{RECOMMENDED}, {NAME}"  # the repository has this one alone
    assert f"Did you mean {expected}" in str(caught.value)
    assert "sspsam download" not in str(caught.value)
    assert ("could not be asked" in str(caught.value)) == (network != "online")


def test_every_command_calls_a_misspelt_name_unknown(hub, options, monkeypatch) -> None:
    disconnect(monkeypatch)
    for command in (["verify", MISSPELT], ["download", MISSPELT], ["cache", "--delete", MISSPELT]):
        done = run_command(*command, "--cache-dir", options.cache_dir)
        assert done.exit_code == 1
        assert f"Did you mean {RECOMMENDED}, {NAME}" in done.stderr
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
    assert f"Did you mean {RECOMMENDED}, {NAME}" in str(lost.value)
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


def test_of_the_names_like_a_wrong_one_the_recommended_comes_first() -> None:
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
def test_a_malformed_timeout_is_one_line_that_names_the_variable(tiny_model, image, tmp_path, variable) -> None:
    Image.fromarray(image).save(tmp_path / "x.png")
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
    "blanks": b"\n \n",
    "git-annex pointer": b"/annex/objects/SHA256E-s3360000000--" + b"a" * 64 + b".pth\n",
    "gzip, and unpacked it is an HTML": gzip.compress(b"<!-- x --><html><body>Please log in</body></html>", mtime=0),
    "Entry not found": b"Entry not found",
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


# paths


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
    resolve(NAME, HubOptions(cache_dir="~/cache"))
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
            lambda empty=empty: HubOptions(cache_dir=empty),
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
        lambda: resolve(NAME, HubOptions(cache_dir=path, local_files_only=True)),
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
        HubOptions(cache_dir="cache")


# files of another kind


@pytest.fixture
def deadline() -> Iterator[None]:
    """Fail a test that waits for the writer of a pipe."""

    def interrupt(*_: object) -> None:
        raise AssertionError("it waits for the writer of a pipe")

    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


def replace_by_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_pipe_in_the_place_of_a_checkpoint_s_file_is_refused_at_once(deadline, tiny_model, tmp_path, name) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    predictor = SSPSAMPredictor.from_pretrained(folder, device="cpu")
    replace_by_pipe(folder / name)
    for call in (
        lambda: SSPSAMPredictor.from_pretrained(folder, device="cpu"),
        lambda: predictor.save_pretrained(folder),
    ):
        with pytest.raises(errors.SSPSAMError, match=name):
            call()


def test_a_pipe_in_the_place_of_a_pth_or_of_clip_is_refused_at_once(deadline, tiny_checkpoint, tmp_path) -> None:
    os.mkfifo(tmp_path / "c.pth")
    with pytest.raises(errors.CheckpointNotFoundError, match=r"c\.pth \(it is not a regular file\)"):
        convert_checkpoint(tmp_path / "c.pth", tmp_path / "out")
    with pytest.raises(errors.CheckpointError):
        convert_checkpoint(tiny_checkpoint, tmp_path / "out", clip=tmp_path / "c.pth")
    with pytest.raises(errors.CheckpointNotFoundError):
        resolve(str(tmp_path / "c.pth"))


def test_pipes_in_the_place_of_records_and_notes_are_ignored(
    deadline, hub, authors, options, tiny_model, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("SSPSAM_HOME", str(tmp_path / "home"))
    SSPSAMPredictor.from_pretrained(NAME, cache_dir=options.cache_dir, device="cpu")
    [note] = options.cache.rglob("names/*.json")
    for path in (*options.cache.rglob("source.json"), note, *(tmp_path / "home" / "verified").iterdir()):
        replace_by_pipe(path)
    references = options.cache / "models--wayneicloud--SSP-SAM" / "refs"
    references.mkdir(exist_ok=True)
    replace_by_pipe(references / "main")
    assert listing.published(options)
    SSPSAMPredictor.from_pretrained(NAME, cache_dir=options.cache_dir, device="cpu")


# what is written over


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["other tool", "LFS pointer", "empty", "link"])
def test_a_file_of_another_origin_is_never_replaced(tiny_checkpoint, tiny_model, tmp_path, name, kind) -> None:
    out = tmp_path / "out"
    out.mkdir()
    contents = {"other tool": b'{"model_type": "llama"}', "LFS pointer": FOREIGN["Git LFS pointer"], "empty": b""}
    if kind == "other tool" and name == "model.safetensors":
        safetensors.numpy.save_file({"lm_head.weight": np.ones(3, np.float32)}, out / name)
    elif kind == "link":
        (tmp_path / "theirs").write_bytes(b'{"model_type": "llama"}')
        (out / name).symlink_to(tmp_path / "theirs")
    else:
        (out / name).write_bytes(contents[kind])
    before = (out / name).read_bytes()
    predictor = SSPSAMPredictor.from_pretrained(tiny_model, device="cpu")
    for call in (lambda: convert_checkpoint(tiny_checkpoint, out), lambda: predictor.save_pretrained(out)):
        with pytest.raises(errors.StorageError, match=rf"{name} exists and is not of a checkpoint that sspsam wrote"):
            call()
    assert os.listdir(out) == [name]
    assert (out / name).read_bytes() == before


def test_an_older_checkpoint_is_replaced_and_other_files_beside_it_are_kept(tiny_checkpoint, tmp_path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    digest = convert_checkpoint(tiny_checkpoint, out).weights_sha256
    predictor = SSPSAMPredictor.from_pretrained(out, device="cpu")
    predictor.save_pretrained(out, dtype="float16")
    assert convert_checkpoint(tiny_checkpoint, out).weights_sha256 == digest
    (out / "config.json").unlink()  # a save that was killed before it wrote the configuration
    assert convert_checkpoint(tiny_checkpoint, out).weights_sha256 == digest
    damage(out / "model.safetensors")
    assert convert_checkpoint(tiny_checkpoint, out).weights_sha256 == digest
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("kind", ["same path", "link", "hard link"])
def test_a_conversion_never_replaces_its_input(tiny_checkpoint, tmp_path, kind) -> None:
    out = tmp_path / "out"
    out.mkdir()
    path = out / "model.safetensors" if kind == "same path" else tmp_path / "c.pth"
    shutil.copy(tiny_checkpoint, path)
    if kind == "link":
        (out / "model.safetensors").symlink_to(path)
    elif kind == "hard link":
        os.link(path, out / "model.safetensors")
    with pytest.raises(errors.StorageError, match="is the file that is converted"):
        convert_checkpoint(path, out)
    assert path.read_bytes() == tiny_checkpoint.read_bytes()


# names out of files


EVIL = "\x1b[2K\rclip_proj.weight\n\x1b]0;done\x07" + "x" * 5000


def test_names_of_tensors_and_globals_are_cut_and_printable_in_every_message(tmp_path, tiny_model, caplog) -> None:
    state = authors_state(tiny_architecture(vocab_size=64))

    contents: list[Any] = [
        {"model": state | {EVIL: torch.ones(1)}},
        {"model": state | {EVIL: torch.ones(1, dtype=torch.int64)}},
        {"model": state | {EVIL: torch.ones(1, 1).expand(1 << 16, 40)}},
        {"model": state | {EVIL: "text"}},
        {"model": state | {"sam." + EVIL: torch.ones(1)}},
        {"model": state | {EVIL: torch.ones(1), "module." + EVIL: torch.ones(1)}},
        {"model": state | {EVIL: np.ones(1)}},
        {"model": {EVIL: torch.ones(1)}},
    ]
    messages = []
    for number, content in enumerate(contents):
        path = tmp_path / f"{number}\x1b[31m\n.pth"
        torch.save(content, path)
        messages.append(refusal(lambda path=path: convert_checkpoint(path, tmp_path / "out")))
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    [index] = [name for name in records if name.endswith("/data.pkl")]
    for pickled in (
        b"\x80\x02cposix\nsys\x1b[2Ktem\rx" + b"x" * 5000 + b"\n.",
        b"\x80\x02X\xff\xff\xff\x7f" + b"\x1b[2K",
    ):
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in records.items():
                archive.writestr(name, pickled if name == index else data)
        messages.append(refusal(lambda: convert_checkpoint(path, tmp_path / "out")))
    folder = Path(shutil.copytree(tiny_model, tmp_path / "m\x1b[31m"))
    safetensors.numpy.save_file({EVIL: np.ones(1, np.float32)}, folder / "model.safetensors")
    messages.append(refusal(lambda: SSPSAMPredictor.from_pretrained(folder, device="cpu")))
    text = (tiny_model / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"architecture"', '"\x7f\x9b31m": 1, "architecture"'))
    messages.append(refusal(lambda: SSPSAMPredictor.from_pretrained(folder, device="cpu")))
    for message in messages:
        assert message.isprintable(), message
        assert len(message) < 2500
    with caplog.at_level("INFO", logger="sspsam"):
        torch.save({"model": state | {"img2img_attn.\x1b[2K\r" + "x" * 5000: torch.ones(1)}}, path)
        convert_checkpoint(path, tmp_path / "out")
    assert all(record.getMessage().isprintable() and len(record.getMessage()) < 6000 for record in caplog.records)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(errors.SSPSAMError) as caught:
        call()
    return str(caught.value)


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[20] ^= 255
    path.write_bytes(data)


def test_an_empty_state_does_not_hide_the_one_behind_it(tmp_path) -> None:
    state = authors_state(tiny_architecture())
    torch.save({"model": {}, "state_dict": state}, tmp_path / "a.pth")
    assert convert_checkpoint(tmp_path / "a.pth", tmp_path / "a").architecture
    torch.save({"model": {}}, tmp_path / "b.pth")
    with pytest.raises(errors.CheckpointError, match="holds no 'model' state"):
        convert_checkpoint(tmp_path / "b.pth", tmp_path / "b")
