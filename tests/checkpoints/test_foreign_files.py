"""Pointers, web pages, pipes and files of other programs in the place of a checkpoint's: named, and never replaced."""

import gzip
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from sspsam import SSPSAMPredictor, errors
from sspsam.checkpoints import listing
from sspsam.checkpoints.convert import convert_checkpoint
from sspsam.checkpoints.names import AUTHORS_REPOSITORY
from sspsam.hub import resolve
from tests.support.published import NAME, UNC

pytestmark = pytest.mark.usefixtures("in_this_process")

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


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[20] ^= 255
    path.write_bytes(data)


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
