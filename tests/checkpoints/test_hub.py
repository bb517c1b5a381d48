"""Names resolved to checkpoints by the real client of a Hub on loopback."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest

from sspsam import SSPSAMPredictor, errors
from sspsam.checkpoints import converted
from sspsam.checkpoints.directory import read_config
from sspsam.checkpoints.hub_options import HubOptions
from sspsam.checkpoints.names import AUTHORS_REPOSITORY
from sspsam.hub import Resolved, resolve
from tests.support.calibrations import calibration_with
from tests.support.hub import FakeHub
from tests.support.published import GREF, NAME, UNC


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
    hub: FakeHub, published: str, options: HubOptions, image: np.ndarray, no_sockets, monkeypatch
) -> None:
    predictor = SSPSAMPredictor.from_pretrained(NAME, cache_dir=options.cache_dir, device="cpu")
    assert predictor.origin.startswith(f"{AUTHORS_REPOSITORY}@{published}:{UNC}, SHA-256 ")
    assert published in predictor.config.source
    assert predictor.config.license == "apache-2.0"
    mask = predictor.predict("the mug", image=image).mask
    monkeypatch.setattr(converted, "convert_in_subprocess", lambda *_: pytest.fail("converted again"))
    no_sockets()
    again = SSPSAMPredictor.from_pretrained(NAME, cache_dir=options.cache_dir, device="cpu")
    assert np.array_equal(again.predict("the mug", image=image).mask, mask)
    offline = SSPSAMPredictor.from_pretrained(NAME, cache_dir=options.cache_dir, local_files_only=True, device="cpu")
    assert offline.fingerprint == predictor.fingerprint
    beside = json.loads((resolve(NAME, options).path / "source.json").read_text())
    assert (beside["commit"], beside["path"]) == (published, UNC)
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


def test_the_error_for_an_unpublished_name_lists_the_published_ones(hub, published, options) -> None:
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
def test_a_converted_repository_is_searched_first(hub, published, tiny_model, options, quick, by, monkeypatch) -> None:
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
    hub, published, tiny_checkpoint, options, quick
) -> None:
    assert published in resolve(NAME, options).origin
    new = hub.add(AUTHORS_REPOSITORY, {UNC: tiny_checkpoint.read_bytes(), "new": b""})
    assert published in resolve(NAME, options).origin
    assert new in resolve(NAME, options, refresh=True).origin
    assert new in resolve(NAME, options).origin


def test_a_published_name_can_be_pinned(hub, published, tiny_checkpoint, options, quick) -> None:
    hub.add(AUTHORS_REPOSITORY, {GREF: tiny_checkpoint.read_bytes()})
    pinned = HubOptions(revision=published, cache_dir=options.cache_dir)
    assert published in resolve(NAME, pinned).origin
    with pytest.raises(errors.CheckpointNotFoundError):
        resolve(NAME, options)


def test_a_downloaded_file_is_converted_without_a_network(hub, published, options, quick, no_sockets) -> None:
    huggingface_hub.hf_hub_download(AUTHORS_REPOSITORY, UNC, cache_dir=options.cache_dir)
    no_sockets()
    offline = HubOptions(cache_dir=options.cache_dir, local_files_only=True)
    assert UNC in resolve(NAME, offline).origin
    assert len(quick) == 1


def test_the_token_is_sent(hub, own_repository, options) -> None:
    resolve("owner/name", HubOptions(cache_dir=options.cache_dir, token="hf_good"))
    authorization = {"/cdn/" in request.path: request.headers.get("authorization") for request in hub.requests}
    assert authorization == {False: "Bearer hf_good", True: None}  # never sent to the host of large files


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
