"""Checkpoints that name their image encoders, and the store that keeps these once."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sspsam import errors
from sspsam.checkpoints.encoders import encoder_store
from sspsam.checkpoints.hub_options import HubOptions
from sspsam.checkpoints.names import AUTHORS_REPOSITORY
from sspsam.config import IMAGE_ENCODERS, ModelConfig
from sspsam.hub import cached_checkpoints, delete, resolve, verify
from tests.support.command import run_command
from tests.support.hub import FakeHub
from tests.support.sharing import TENSOR, answers, load


def test_a_shared_checkpoint_is_small_has_the_same_fingerprint_and_gives_the_same_answers(
    tiny_model: Path, second_head: Path, image: np.ndarray, tmp_path: Path, home: Path
) -> None:
    written = [
        load(directory).save_pretrained(tmp_path / name, shared=True)
        for directory, name in ((tiny_model, "a"), (second_head, "b"))
    ]
    store = encoder_store(HubOptions())
    [encoders] = store.glob("*.safetensors")
    for config, directory, name in zip(written, (tiny_model, second_head), ("a", "b"), strict=True):
        assert not any(tensor.startswith(IMAGE_ENCODERS) for tensor in load_file(tmp_path / name / "model.safetensors"))
        assert encoders.stem == config.encoders.sha256
        complete = load(directory)
        shared = load(tmp_path / name)
        assert shared.fingerprint == complete.fingerprint == config.fingerprint
        assert shared.encoder_fingerprint == complete.encoder_fingerprint
        assert answers(shared, image=image) == answers(complete, image=image)
    assert verify(str(tmp_path / "a"), HubOptions()).fingerprint == written[0].fingerprint
    load(tmp_path / "a").save_pretrained(tmp_path / "complete")
    assert (tmp_path / "complete" / "model.safetensors").read_bytes() == (tiny_model / "model.safetensors").read_bytes()
    assert json.loads((tmp_path / "complete" / "config.json").read_text())["format_version"] == 1


def test_encoders_are_kept_for_a_checkpoint_that_was_moved_or_copied_and_loaded(
    tiny_model: Path, tmp_path: Path, home: Path
) -> None:
    digest = load(tiny_model).save_pretrained(tmp_path / "small", shared=True).encoders.sha256
    (tmp_path / "small").rename(tmp_path / "moved")
    load(tmp_path / "moved")
    shutil.copytree(tmp_path / "moved", tmp_path / "copy")
    load(tmp_path / "copy" / "model.safetensors")
    for name in ("moved", "copy"):
        with pytest.raises(errors.StorageError, match=f"checkpoints? needs? the image encoders {digest[:16]}.*{name}"):
            delete(f"encoders:{digest}", HubOptions())
        load(tmp_path / name)
        shutil.rmtree(tmp_path / name)
    assert delete(f"encoders:{digest}", HubOptions())


def test_a_checkpoint_is_noted_once_and_a_store_that_cannot_be_written_does_not_fail_its_loading(
    tiny_model: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(tiny_model).save_pretrained(tmp_path / "small", shared=True)
    [note] = encoder_store(HubOptions()).glob("*.users.json")
    before = note.stat().st_ino, note.stat().st_mtime_ns
    load(tmp_path / "small")
    assert (note.stat().st_ino, note.stat().st_mtime_ns) == before
    (tmp_path / "small").rename(tmp_path / "moved")
    monkeypatch.setattr("sspsam.checkpoints.encoders.FileLock", lambda *_, **__: refuse())
    load(tmp_path / "moved")
    assert (note.stat().st_ino, note.stat().st_mtime_ns) == before


def refuse() -> None:
    raise PermissionError(13, "read-only")


@pytest.mark.slow
def test_half_precision_of_a_shared_checkpoint_leaves_the_encoders_as_they_are(
    tiny_model: Path, image: np.ndarray, tmp_path: Path, home: Path
) -> None:
    load(tiny_model).save_pretrained(tmp_path / "half", dtype="float16", shared=True)
    half = load(tmp_path / "half")
    assert half.encoder_fingerprint == load(tiny_model).encoder_fingerprint
    assert load_file(tmp_path / "half" / "model.safetensors")["ssp.fusion.weight"].dtype is torch.float16
    half.predict("the mug", embedding=load(tiny_model).encode(image))


@pytest.mark.slow
def test_missing_encoders_are_named_with_what_to_get_and_found_beside_in_the_store_or_in_a_checkpoint(
    tiny_model: Path, image: np.ndarray, tmp_path: Path, home: Path
) -> None:
    small = tmp_path / "small"
    digest = load(tiny_model).save_pretrained(small, shared=True).encoders.sha256
    expected = answers(load(tiny_model), image=image)
    store = encoder_store(HubOptions())
    store.rename(tmp_path / "away")
    with pytest.raises(errors.EncodersMissingError, match=rf"{digest}.*pseudo-random weights of the tests.*copy"):
        load(small)
    shutil.copy(tmp_path / "away" / f"{digest}.safetensors", small / "encoders.safetensors")
    assert answers(load(small), image=image) == expected
    (small / "encoders.safetensors").unlink()
    shutil.copytree(tmp_path / "away", encoder_store(HubOptions(cache_dir=tmp_path / "other cache")))
    assert answers(load(small, cache_dir=tmp_path / "other cache"), image=image) == expected
    # a complete checkpoint in the cache of huggingface_hub
    snapshot = tmp_path / "hub" / "models--me--mine" / "snapshots" / ("0" * 40)
    shutil.copytree(tiny_model, snapshot)
    assert answers(load(small), image=image) == expected


@pytest.mark.slow
def test_wrong_encoders_are_never_loaded(tiny_model: Path, other_encoders: Path, tmp_path: Path, home: Path) -> None:
    small = tmp_path / "small"
    digest = load(tiny_model).save_pretrained(small, shared=True).encoders.sha256
    load(other_encoders).save_pretrained(tmp_path / "other", shared=True)
    store = encoder_store(HubOptions())
    [wrong] = [path for path in store.glob("*.safetensors") if path.stem != digest]
    content = wrong.read_bytes()
    for place in (store / f"{digest}.safetensors", small / "encoders.safetensors"):
        place.write_bytes(content)
    for verification in (None, True, False):
        with pytest.raises(errors.EncodersMissingError, match="holds other encoders"):
            load(small, verify=verification)
    place.write_bytes(content[: len(content) // 2])
    with pytest.raises(errors.EncodersMissingError, match=r"cannot be used|other encoders"):
        load(small)
    load(tiny_model).save_pretrained(tmp_path / "again", shared=True)  # repairs the store
    load(small)


@pytest.mark.slow
def test_a_head_of_another_checkpoint_is_refused(
    tiny_model: Path, second_head: Path, tmp_path: Path, home: Path
) -> None:
    load(tiny_model).save_pretrained(tmp_path / "a", shared=True)
    load(second_head).save_pretrained(tmp_path / "b", shared=True)
    load(tmp_path / "a")  # recorded as verified
    shutil.copy(tmp_path / "b" / "model.safetensors", tmp_path / "a" / "model.safetensors")
    with pytest.raises(errors.DigestMismatchError):
        load(tmp_path / "a")


def test_damaged_encoder_entries_of_a_configuration_are_refused(tiny_model: Path) -> None:
    content = json.loads((tiny_model / "config.json").read_text())
    config = ModelConfig.from_json(json.dumps(content))
    for changes in (
        {"format_version": 2},
        {"format_version": 2, "encoders": {"sha256": "x" * 64, "origin": ""}},
        {"format_version": 2, "encoders": {"sha256": "0" * 64}},
        {"encoders": {"sha256": "0" * 64, "origin": ""}},
        {"format_version": 3},
    ):
        with pytest.raises(errors.ConfigError):
            ModelConfig.from_json(json.dumps({**content, **changes}))
    named = {**content, "format_version": 2, "encoders": {"sha256": "0" * 64, "origin": "somewhere"}}
    shared = ModelConfig.from_json(json.dumps(named))
    assert shared.fingerprint == config.fingerprint
    assert ModelConfig.from_json(shared.to_json()) == shared


@pytest.mark.slow
def test_the_command_convert_writes_a_shared_checkpoint(tiny_checkpoint: Path, tmp_path: Path, home: Path) -> None:
    done = run_command("convert", "--shared", tiny_checkpoint, tmp_path / "small")
    assert done.exit_code == 0, done.stderr
    assert load(tmp_path / "small").config.encoders is not None
    done = run_command("convert", "--shared", "--push", "me/mine", tiny_checkpoint, tmp_path / "pushed")
    assert done.exit_code == 2
    assert "--shared" in done.stderr


@pytest.fixture
def two_published(
    hub: FakeHub, tiny_checkpoint: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> HubOptions:
    """A cache with two converted checkpoints that have the same encoders."""
    from sspsam.checkpoints import convert_process

    monkeypatch.setattr(convert_process.sys, "frozen", True, raising=False)
    content = torch.load(tiny_checkpoint, weights_only=False)
    name = next(name for name in content["model"] if "box" in name or "prompt" in name)
    content["model"][name] = content["model"][name] * 1.5
    torch.save(content, tmp_path / "second.pth")
    files = {
        "output/unc/336/checkpoint_best_miou.pth": tiny_checkpoint.read_bytes(),
        "output/unc+/336/checkpoint_best_miou.pth": (tmp_path / "second.pth").read_bytes(),
    }
    hub.add(AUTHORS_REPOSITORY, files)
    options = HubOptions(cache_dir=tmp_path / "cache")
    for published in ("ssp-sam-336-refcoco", "ssp-sam-336-refcoco+"):
        resolve(published, options)
    return options


def test_the_store_keeps_shared_tensors_once_and_as_long_as_they_are_needed(
    two_published: HubOptions, tiny_model: Path, image: np.ndarray, tmp_path: Path
) -> None:
    store = encoder_store(two_published)
    [encoders] = store.glob("*.safetensors")
    ready = {entry.name: entry for entry in cached_checkpoints(two_published) if entry.state == "ready"}
    complete = (tiny_model / "model.safetensors").stat().st_size
    for entry in ready.values():
        assert entry.size + encoders.stat().st_size == pytest.approx(complete, rel=0.02)
    first, second = (load(name, cache_dir=two_published.cache) for name in ready)
    assert first.encoder_fingerprint == second.encoder_fingerprint == load(tiny_model).encoder_fingerprint
    assert first.fingerprint != second.fingerprint
    assert answers(first, image=image) == answers(load(tiny_model), image=image)
    shared = cached_checkpoints(two_published)[-1]
    assert (shared.state, shared.size) == ("shared", encoders.stat().st_size)
    with pytest.raises(errors.StorageError, match="2 checkpoints need"):
        delete(shared.name, two_published)
    delete("ssp-sam-336-refcoco", two_published)
    assert encoders.exists()
    delete("ssp-sam-336-refcoco+", two_published)
    assert not encoders.exists()


@pytest.mark.slow
def test_encoders_outlive_the_last_conversion_where_a_moved_checkpoint_was_loaded_with_them(
    two_published: HubOptions, tiny_model: Path, image: np.ndarray, tmp_path: Path
) -> None:
    [encoders] = encoder_store(two_published).glob("*.safetensors")
    load(tiny_model).save_pretrained(tmp_path / "small", shared=True)
    shutil.rmtree(encoder_store(HubOptions()))
    (tmp_path / "small").rename(tmp_path / "moved")
    load(tmp_path / "moved", cache_dir=two_published.cache)
    for name in ("ssp-sam-336-refcoco", "ssp-sam-336-refcoco+"):
        delete(name, two_published)
    assert encoders.exists()
    assert answers(load(tmp_path / "moved", cache_dir=two_published.cache), image=image)


@pytest.mark.slow
def test_a_conversion_whose_encoders_were_lost_is_converted_again(two_published: HubOptions) -> None:
    [encoders] = encoder_store(two_published).glob("*.safetensors")
    encoders.unlink()
    load(resolve("ssp-sam-336-refcoco", two_published).path)
    assert encoders.exists()


@pytest.mark.slow
def test_encoders_are_kept_for_a_shared_checkpoint_elsewhere(tiny_model: Path, tmp_path: Path, home: Path) -> None:
    load(tiny_model).save_pretrained(tmp_path / "small", shared=True)
    [entry] = cached_checkpoints(HubOptions())
    with pytest.raises(errors.StorageError, match="small"):
        delete(entry.name, HubOptions())
    shutil.rmtree(tmp_path / "small")
    assert delete(entry.name, HubOptions())
    assert cached_checkpoints(HubOptions()) == []


@pytest.mark.slow
def test_a_complete_conversion_of_an_earlier_version_is_used_as_it_is(
    two_published: HubOptions, tiny_model: Path, image: np.ndarray
) -> None:
    directory = resolve("ssp-sam-336-refcoco", two_published).path
    fingerprint = load(directory).fingerprint
    load(directory).save_pretrained(directory)  # as earlier versions wrote it
    assert resolve("ssp-sam-336-refcoco", two_published).path == directory
    earlier = load(directory)
    assert earlier.config.encoders is None
    assert earlier.fingerprint == fingerprint
    second = load("ssp-sam-336-refcoco+", cache_dir=two_published.cache)
    second.predict("the mug", embedding=earlier.encode(image))


@pytest.mark.slow
def test_a_hostile_file_of_encoders_is_refused_and_nothing_crashes(
    tiny_model: Path, tmp_path: Path, home: Path
) -> None:
    small = tmp_path / "small"
    digest = load(tiny_model).save_pretrained(small, shared=True).encoders.sha256
    content = (encoder_store(HubOptions()) / f"{digest}.safetensors").read_bytes()
    shutil.rmtree(encoder_store(HubOptions()))
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    headers = [
        *(header | {TENSOR: {**entry, "dtype": dtype}} for dtype in ("F64", "F16", None, [])),
        *(header | {TENSOR: {**entry, "shape": shape}} for shape in ([-4], [10**30], "x", [1.5, 2], [[1]], 3)),
        *(header | {TENSOR: {**entry, "data_offsets": offsets}} for offsets in ([], ["x"], [-9, 8], [10**30, 3], None)),
        *({TENSOR: value} for value in (None, [], "x")),
        *([], "x", {}),
    ]
    texts = [json.dumps(each).encode() for each in headers] + [b"[" * 100_000, b"\xff", b""]
    for text in texts:
        (small / "encoders.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
        with pytest.raises(errors.EncodersMissingError):
            load(small)
    for data in (b"", content[:7], b"\xff" * 8 + content[8:], content[:-1]):
        (small / "encoders.safetensors").write_bytes(data)
        with pytest.raises(errors.EncodersMissingError):
            load(small)
