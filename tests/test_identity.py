"""Predictors in other processes: pickles that name a checkpoint, spawned workers, and forks."""

import copy
import multiprocessing
import os
import pickle
import shutil
import signal
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch

from sspsam import EmbeddingCache, Segmentation, SSPSAMPredictor, errors
from sspsam.checkpoints.format import load_checkpoint
from sspsam.models import SSPSAM
from sspsam.shapes import draw_scene

Duplicate = Callable[[SSPSAMPredictor], SSPSAMPredictor]


def unpickled(predictor: SSPSAMPredictor) -> SSPSAMPredictor:
    return pickle.loads(pickle.dumps(predictor))


def require_equal(result: Segmentation, expected: Segmentation) -> None:
    """Compare two answers of `return_logits="full"` bit for bit."""
    assert result.to_dict() == expected.to_dict()
    assert np.array_equal(result.logits, expected.logits)


@pytest.fixture
def checkpoint(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint that a test may change."""
    return Path(shutil.copytree(tiny_model, tmp_path / "checkpoint"))


@pytest.mark.parametrize("duplicate", [unpickled, copy.deepcopy])
def test_a_predictor_of_a_checkpoint_survives_pickle_and_deepcopy(
    tiny_model: Path, image: np.ndarray, tmp_path: Path, duplicate: Duplicate
) -> None:
    cache = EmbeddingCache(tmp_path / "cache", max_bytes=10**8, dtype="float16")
    predictor = SSPSAMPredictor.from_pretrained(tiny_model, device="cpu", dtype="bfloat16", embedding_cache=cache)
    predictor.set_image(image)
    options: Any = {"return_logits": "full", "explain": True, "no_target_pixels": 0}
    expected = predictor.predict("the mug", **options)
    duplicated = duplicate(predictor)
    assert duplicated is not predictor
    for name in ("fingerprint", "origin", "device", "dtype", "config"):
        assert getattr(duplicated, name) == getattr(predictor, name), name
    assert duplicated.embedding_cache is not None
    for name in ("directory", "max_bytes", "dtype"):
        assert getattr(duplicated.embedding_cache, name) == getattr(cache, name), name
    require_equal(duplicated.predict("the mug", **options), expected)  # the image of set_image
    require_equal(duplicated.predict("the mug", image=image, **options), expected)  # a cache hit
    other = np.ascontiguousarray(image[::-1])
    require_equal(
        duplicated.predict("the mug", image=other, **options), predictor.predict("the mug", image=other, **options)
    )
    require_equal(unpickled(duplicated).predict("the mug", **options), expected)


def test_a_copy_has_its_own_image(tiny_model: Path, image: np.ndarray) -> None:
    predictor = SSPSAMPredictor.from_pretrained(tiny_model, device="cpu")
    duplicated = unpickled(predictor)
    duplicated.set_image(image)
    with pytest.raises(errors.NoImageError):
        predictor.predict("the mug")
    with pytest.raises(errors.NoImageError):
        unpickled(predictor).predict("the mug")


def test_a_pickle_holds_no_weights(tiny_model: Path, image: np.ndarray) -> None:
    predictor = SSPSAMPredictor.from_pretrained(tiny_model, device="cpu")
    predictor.predict("the mug", image=image)
    assert (tiny_model / "model.safetensors").stat().st_size > 100_000
    assert len(pickle.dumps(predictor)) < 100_000


def test_the_bundled_model_survives_pickle() -> None:
    predictor = SSPSAMPredictor.from_pretrained("shapes", device="cpu")
    duplicated = unpickled(predictor)
    assert (duplicated.fingerprint, duplicated.origin) == (predictor.fingerprint, predictor.origin)
    assert len(pickle.dumps(predictor)) < 100_000
    scene = draw_scene(3, (60, 90)).pixels
    expected = predictor.predict("the red circle", image=scene, return_logits="full")
    require_equal(duplicated.predict("the red circle", image=scene, return_logits="full"), expected)


def test_a_relative_path_is_found_from_another_current_directory(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    predictor = SSPSAMPredictor.from_pretrained(checkpoint.name, device="cpu")
    data = pickle.dumps(predictor)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    duplicated = pickle.loads(data)
    assert (duplicated.fingerprint, duplicated.origin) == (predictor.fingerprint, predictor.origin)


def test_a_published_checkpoint_is_found_by_name_where_its_path_does_not_exist(
    hub: Any, tiny_model: Path, tmp_path: Path
) -> None:
    commit = hub.add("me/mine", {path.name: path.read_bytes() for path in tiny_model.iterdir()})
    predictor = SSPSAMPredictor.from_pretrained("me/mine", revision=commit, cache_dir=tmp_path / "hub", device="cpu")
    data = pickle.dumps(predictor)
    shutil.rmtree(tmp_path / "hub")  # as on another computer
    duplicated = pickle.loads(data)
    assert (duplicated.fingerprint, duplicated.origin) == (predictor.fingerprint, predictor.origin)


def test_a_pickle_of_a_deleted_checkpoint_is_a_checkpoint_not_found_error(checkpoint: Path) -> None:
    data = pickle.dumps(SSPSAMPredictor.from_pretrained(checkpoint, device="cpu"))
    shutil.rmtree(checkpoint)
    with pytest.raises(errors.CheckpointNotFoundError, match="checkpoint"):
        pickle.loads(data)


@pytest.mark.parametrize("duplicate", [unpickled, copy.deepcopy])
def test_a_predictor_of_a_model_in_memory_names_save_pretrained_instead_of_pickling(
    tiny_model: Path, tmp_path: Path, duplicate: Duplicate
) -> None:
    predictor = SSPSAMPredictor(*load_checkpoint(tiny_model), device="cpu")
    with pytest.raises(errors.UnsavedModelError, match=r"save_pretrained\(directory\)") as caught:
        duplicate(predictor)
    assert isinstance(caught.value, pickle.PicklingError)
    predictor.save_pretrained(tmp_path / "saved")  # the advice of the message
    duplicate(SSPSAMPredictor.from_pretrained(tmp_path / "saved", device="cpu"))


def test_a_replaced_checkpoint_is_an_error_that_names_both_fingerprints(checkpoint: Path) -> None:
    predictor = SSPSAMPredictor.from_pretrained(checkpoint, device="cpu")
    data = pickle.dumps(predictor)
    torch.manual_seed(0)
    other = SSPSAMPredictor(SSPSAM(predictor.config.architecture), predictor.config, device="cpu")
    new_fingerprint = other.save_pretrained(checkpoint).fingerprint
    assert new_fingerprint != predictor.fingerprint
    with pytest.raises(errors.CheckpointError) as caught:
        pickle.loads(data)
    for name in (predictor.fingerprint[:20], new_fingerprint[:20], str(checkpoint)):
        assert name in str(caught.value)


# --- other processes ---


def answer_in_worker(predictor: SSPSAMPredictor, image: np.ndarray) -> Segmentation:
    return predictor.predict("the mug", image=image, return_logits="full")


def in_spawned_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of a function of this module in a spawned process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result(timeout=240)


def test_a_spawned_worker_gives_the_same_answer(tiny_model: Path, image: np.ndarray) -> None:
    predictor = SSPSAMPredictor.from_pretrained(tiny_model, device="cpu")
    result = in_spawned_process(answer_in_worker, predictor, image)
    require_equal(result, answer_in_worker(predictor, image))


COMPUTED: Final = 0
REFUSED: Final = 3  # with a ForkedProcessError
FAILED: Final = 4
HANGS: Final = None


def outcome_of_fork(function: Callable[[], object], seconds: float = 30) -> int | None:
    """Call a function in a forked process; return its exit status, or `HANGS` if it does not exit within `seconds`."""
    process = os.fork()
    if process == 0:
        status = COMPUTED
        try:
            function()
        except errors.ForkedProcessError:
            status = REFUSED
        except BaseException:
            traceback.print_exc()
            status = FAILED
        os._exit(status)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        finished, status = os.waitpid(process, os.WNOHANG)
        if finished:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return HANGS


def outcomes_of_forks(model: Path, image: np.ndarray) -> dict[str, int | None]:
    """Return the outcome of forks before and after a computation with two threads; call it in a new process."""
    torch.set_num_threads(2)

    def load() -> SSPSAMPredictor:
        return SSPSAMPredictor.from_pretrained(model, device="cpu")

    def predict_with_one_thread() -> None:
        torch.set_num_threads(1)
        load().predict("the mug", image=image)
        predictor.predict("the red mug", embedding=embedding)

    outcomes = {"load and predict before": outcome_of_fork(lambda: load().predict("the mug", image=image))}
    predictor = load()
    outcomes["predict before"] = outcome_of_fork(lambda: predictor.predict("the mug", image=image))
    embedding = predictor.encode(image)
    data = pickle.dumps(predictor)
    calls: dict[str, Callable[[], object]] = {
        "predict": lambda: predictor.predict("the mug", embedding=embedding),
        "encode": lambda: predictor.encode(image),
        "predict_batch": lambda: list(predictor.predict_batch([image], ["the mug"])),
        "from_pretrained": load,
        "unpickle": lambda: pickle.loads(data),
        "predict with one thread": predict_with_one_thread,
    }
    outcomes |= {name: outcome_of_fork(call) for name, call in calls.items()}
    predictor.predict("the mug", embedding=embedding)  # this process still computes
    return outcomes


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_after_a_computation_raises_an_error_instead_of_hanging(tiny_model: Path, image: np.ndarray) -> None:
    assert in_spawned_process(outcomes_of_forks, tiny_model, image) == {
        "load and predict before": COMPUTED,
        "predict before": COMPUTED,
        "predict": REFUSED,
        "encode": REFUSED,
        "predict_batch": REFUSED,
        "from_pretrained": REFUSED,
        "unpickle": REFUSED,
        "predict with one thread": COMPUTED,
    }
