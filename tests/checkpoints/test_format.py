"""Saving and loading the library's own format."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.authors_checkpoint import tiny_architecture
from sspsam import errors
from sspsam.checkpoints import digests
from sspsam.checkpoints import format as checkpoint
from sspsam.checkpoints.format import load_checkpoint, save_checkpoint
from sspsam.checkpoints.saving import check_destination
from sspsam.config import ModelConfig
from sspsam.models import SSPSAM
from sspsam.utils import files as storage


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


def rewrite(directory: Path, state: dict[str, torch.Tensor]) -> None:
    """Replace the weights; digest and fingerprint in the configuration are made to fit."""
    save_file(state, directory / "model.safetensors")
    config = ModelConfig.from_json((directory / "config.json").read_text())
    digest = digests.sha256_of(directory / "model.safetensors")
    changed = ModelConfig(config.architecture, weights_sha256=digest)
    (directory / "config.json").write_text(changed.to_json())


def test_every_tensor_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    torch.manual_seed(3)
    config = ModelConfig(tiny_architecture(), source="here", license="mine")
    model = SSPSAM(config.architecture)
    written = save_checkpoint(tmp_path, config, model.state_dict())
    loaded, read = load_checkpoint(tmp_path)
    assert read == written
    assert (read.source, read.license) == ("here", "mine")
    state = loaded.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_safetensors_reads_what_save_checkpoint_writes(tiny_model: Path, tmp_path: Path) -> None:
    model, _ = load_checkpoint(tiny_model)
    tensors = load_file(tiny_model / "model.safetensors")
    assert tensors.keys() == model.state_dict().keys()
    for dtype in ("float32", "float16", "bfloat16"):
        save_checkpoint(tmp_path / dtype, ModelConfig(tiny_architecture()), tensors, dtype)
        back = load_file(tmp_path / dtype / "model.safetensors")
        for name, tensor in tensors.items():
            assert torch.equal(back[name], tensor.to(getattr(torch, dtype)))


def test_no_buffer_is_left_without_values(tiny_model: Path) -> None:
    model, config = load_checkpoint(tiny_model)
    fresh = SSPSAM(config.architecture)
    for name, buffer in fresh.named_buffers():
        loaded = model.get_buffer(name)
        assert loaded.device.type == "cpu"
        if name not in model.state_dict():
            assert torch.equal(loaded, buffer), name


def test_loading_maps_the_file_and_the_file_stays_as_it_is(copy: Path) -> None:
    before = (copy / "model.safetensors").read_bytes()
    model, _ = load_checkpoint(copy)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert (copy / "model.safetensors").read_bytes() == before


def test_loading_draws_no_random_numbers(tiny_model: Path) -> None:
    before = torch.get_rng_state()
    load_checkpoint(tiny_model)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("default", [torch.float64, torch.float16])
def test_an_applications_default_dtype_does_not_matter(tiny_model: Path, default: torch.dtype) -> None:
    torch.set_default_dtype(default)
    try:
        model, _ = load_checkpoint(tiny_model)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {tensor.dtype for tensor in [*model.parameters(), *model.buffers()]} == {torch.float32}


def test_missing_unexpected_and_misshapen_tensors_are_named(copy: Path) -> None:
    state = load_file(copy / "model.safetensors")
    gone = state.pop("ssp.fusion.weight")
    state["ssp.fusion.extra"] = gone
    state["ssp.box_head.layers.0.bias"] = torch.zeros(3)
    rewrite(copy, state)
    with pytest.raises(errors.CheckpointError) as caught:
        load_checkpoint(copy)
    message = str(caught.value)
    assert "1 missing (ssp.fusion.weight)" in message
    assert "1 unexpected (ssp.fusion.extra)" in message
    assert "ssp.box_head.layers.0.bias is [3], not [64]" in message


def test_ten_names_are_given_and_then_a_count(copy: Path) -> None:
    state = load_file(copy / "model.safetensors")
    rewrite(copy, {name: state[name] for name in sorted(state)[:5]})
    with pytest.raises(errors.CheckpointError) as caught:
        load_checkpoint(copy)
    missing = len(state) - 5
    assert f"{missing} missing (" in str(caught.value)
    assert f"and {missing - 10} more" in str(caught.value)


def test_integer_weights_are_refused(copy: Path) -> None:
    state = load_file(copy / "model.safetensors")
    rewrite(copy, state | {"ssp.fusion.weight": state["ssp.fusion.weight"].to(torch.int32)})
    with pytest.raises(errors.CheckpointError, match="I32"):
        load_checkpoint(copy)


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(offset, os.SEEK_END)
        file.write(bytes([byte ^ 0x40]))


def test_a_flipped_byte_is_caught_at_first_and_after_a_good_load(copy: Path) -> None:
    load_checkpoint(copy)
    flip(copy / "model.safetensors", -1000)
    with pytest.raises(errors.DigestMismatchError, match=r"model\.safetensors"):
        load_checkpoint(copy)
    with pytest.raises(errors.DigestMismatchError):  # a refusal is not recorded as a success
        load_checkpoint(copy)
    flip(copy / "model.safetensors", -1000)
    load_checkpoint(copy)


def test_the_digest_is_computed_once_for_each_state_of_a_file(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    real = digests.sha256_of
    monkeypatch.setattr(digests, "sha256_of", lambda path: hashed.append(path) or real(path))
    load_checkpoint(copy)
    load_checkpoint(copy)
    assert len(hashed) == 1
    load_checkpoint(copy, verify=True)
    assert len(hashed) == 2
    os.utime(copy / "model.safetensors")
    load_checkpoint(copy)
    assert len(hashed) == 3
    os.utime(copy / "model.safetensors")
    load_checkpoint(copy, verify=False)
    assert len(hashed) == 3


@pytest.mark.parametrize(("module", "step"), [(digests, "sha256_of"), (checkpoint, "load_file")])
def test_a_file_that_changes_while_it_is_read_is_refused(copy: Path, monkeypatch, module, step: str) -> None:
    real = getattr(module, step)

    def touched(path: Path) -> object:
        os.utime(path)
        return real(path)

    os.utime(copy / "model.safetensors")
    monkeypatch.setattr(module, step, touched)
    with pytest.raises(errors.CheckpointError, match="changed while it was being read"):
        load_checkpoint(copy)


def test_a_file_that_was_just_saved_is_not_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig(tiny_architecture())
    state = SSPSAM(config.architecture).state_dict()
    save_checkpoint(tmp_path, config, state)
    monkeypatch.setattr(digests, "sha256_of", lambda path: pytest.fail("read again"))
    load_checkpoint(tmp_path)
    monkeypatch.undo()
    flip(tmp_path / "model.safetensors", -1000)
    with pytest.raises(errors.DigestMismatchError):
        load_checkpoint(tmp_path)


def test_a_change_that_restores_the_times_is_still_noticed(copy: Path) -> None:
    path = copy / "model.safetensors"
    load_checkpoint(copy)
    status = path.stat()
    flip(path, -1000)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(errors.DigestMismatchError):
        load_checkpoint(copy)


@pytest.mark.parametrize("record", [b"", b"{", b"[]", b"null", b"\xff"])
def test_a_damaged_record_of_digests_is_ignored_and_replaced(copy, record, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SSPSAM_HOME", str(tmp_path / "home"))
    load_checkpoint(copy)
    [file] = (tmp_path / "home" / "verified").iterdir()
    file.write_bytes(record)
    load_checkpoint(copy)
    assert json.loads(file.read_bytes())["size"] == (copy / "model.safetensors").stat().st_size


def test_a_home_that_cannot_be_written_does_not_matter(copy: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SSPSAM_HOME", str(tmp_path / "file"))
    load_checkpoint(copy)


def test_a_user_without_a_home_can_load_and_save(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(digests, "cache_home", nowhere)
    model, config = load_checkpoint(copy)
    save_checkpoint(copy, config, model.state_dict())


def test_names_that_no_file_can_have_are_named_in_the_error(copy: Path) -> None:
    state, config = load_file(copy / "model.safetensors"), ModelConfig(tiny_architecture())
    for name, message in (("x" * 300, "cannot write"), ("a\0b", "has a NUL character")):
        with pytest.raises(errors.StorageError, match=message):
            save_checkpoint(copy / name, config, state)


def test_nothing_is_changed_where_a_folder_stands_in_the_place_of_a_file(copy: Path) -> None:
    state, config = load_file(copy / "model.safetensors"), ModelConfig(tiny_architecture())
    before = (copy / "model.safetensors").read_bytes()
    (copy / "config.json").unlink()
    (copy / "config.json").mkdir()
    with pytest.raises(errors.StorageError, match=r"config\.json"):
        save_checkpoint(copy, config, {name: tensor + 1 for name, tensor in state.items()})
    assert (copy / "model.safetensors").read_bytes() == before
    assert len(list(copy.iterdir())) == 2


def test_a_missing_file_is_named(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(errors.CheckpointNotFoundError, match=r"config\.json"):
        load_checkpoint(tmp_path)
    (copy / "model.safetensors").unlink()
    with pytest.raises(errors.CheckpointNotFoundError, match=r"model\.safetensors"):
        load_checkpoint(copy)


def test_values_that_are_not_finite_are_not_saved(copy: Path) -> None:
    state = load_file(copy / "model.safetensors")
    before = (copy / "model.safetensors").read_bytes()
    config = ModelConfig(tiny_architecture())
    state["ssp.fusion.bias"] = torch.full_like(state["ssp.fusion.bias"], 1e6)
    with pytest.raises(errors.CheckpointError, match=r"ssp\.fusion\.bias.*float16"):
        save_checkpoint(copy, config, state, "float16")
    assert sorted(path.name for path in copy.iterdir()) == ["config.json", "model.safetensors"]
    assert (copy / "model.safetensors").read_bytes() == before


def test_too_little_space_is_noticed_before_anything_is_written(copy: Path, tmp_path: Path, monkeypatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(errors.StorageError, match="free"):
        save_checkpoint(
            tmp_path / "new" / "deep", ModelConfig(tiny_architecture()), load_file(copy / "model.safetensors")
        )
    assert not (tmp_path / "new").exists()


def test_temporary_files_of_killed_processes_are_removed_after_an_hour(copy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    old, new, other = folder / ".sspsam-0123456789ab.tmp", folder / ".sspsam-ba9876543210.tmp", folder / "notes.tmp"
    for path in (old, new, other):
        path.write_bytes(b"half a checkpoint")
    for path in (old, other):
        os.utime(path, (time.time() - 3700,) * 2)
    save_checkpoint(folder, ModelConfig(tiny_architecture()), load_file(copy / "model.safetensors"))
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [new.name, other.name, "config.json", "model.safetensors"]
    )


@pytest.mark.parametrize("content", ["", "{}", '{"fingerprint": 3}', "mine"])
def test_a_calibration_of_another_origin_is_not_joined_with_a_checkpoint(copy: Path, tmp_path: Path, content) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "calibration.json").write_text(content)
    with pytest.raises(errors.StorageError, match=r"calibration\.json exists and is not of a checkpoint"):
        save_checkpoint(folder, ModelConfig(tiny_architecture()), load_file(copy / "model.safetensors"))
    assert [path.name for path in folder.iterdir()] == ["calibration.json"]


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path: Path, copy: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(errors.StorageError, match="is a file"):
        save_checkpoint(tmp_path / "file", ModelConfig(tiny_architecture()), load_file(copy / "model.safetensors"))
    with pytest.raises(errors.StorageError, match=r"file is a file, so that .*deeper cannot be a directory"):
        check_destination(tmp_path / "file" / "deep" / "deeper")
    check_destination(Path("new"))
    with pytest.raises(ValueError, match="dtype"):
        save_checkpoint(tmp_path / "x", ModelConfig(tiny_architecture()), {}, "int8")
