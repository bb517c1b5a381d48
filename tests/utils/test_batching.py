"""Many pictures: in order, lazily, beside the model, and on when memory runs out."""

import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from sspsam import SSPSAMPredictor, errors
from sspsam.models import ImageFeatures
from sspsam.shapes import draw_scene
from sspsam.utils.batching import compute_in_batches

TEXTS = ["the red circle", "a dog"]


@pytest.fixture
def predictor(tiny_model: Path) -> SSPSAMPredictor:
    return SSPSAMPredictor.from_pretrained(tiny_model, device="cpu")


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return [draw_scene(seed, (60 + 7 * seed, 90)).pixels for seed in range(7)]


@pytest.mark.parametrize("batch_size", [None, 1, 3, 20])
def test_a_batch_says_what_predict_says(predictor, pictures, batch_size) -> None:
    found = list(predictor.predict_batch(pictures, TEXTS, batch_size=batch_size, return_logits="full"))
    assert len(found) == len(pictures)
    for picture, results in zip(pictures, found, strict=True):
        for result, alone in zip(results, predictor.predict(TEXTS, image=picture, return_logits="full"), strict=True):
            assert result.text == alone.text
            assert np.abs(result.logits - alone.logits).max() < 1e-4
            assert result.no_target == alone.no_target


def test_every_picture_can_have_expressions_of_its_own(predictor, pictures) -> None:
    texts = [["one"], ["two", "three"], [], ["four"]]
    found = list(predictor.predict_batch(pictures[:4], texts))
    assert [[result.text for result in results] for results in found] == texts
    assert [results[0].text for results in predictor.predict_batch(pictures[:2], ([f"t{n}"] for n in range(2)))] == [
        "t0",
        "t1",
    ]
    with pytest.raises(ValueError, match=r"more lists of texts than pictures \(3\)"):
        list(predictor.predict_batch(pictures[:3], texts))
    with pytest.raises(ValueError, match=r"more pictures than lists of texts \(4\)"):
        list(predictor.predict_batch(pictures, texts))
    with pytest.raises(TypeError, match="picture 1"):
        list(predictor.predict_batch(pictures[:2], [["one"], "two"]))
    assert list(predictor.predict_batch([], TEXTS)) == []


def test_pictures_are_taken_only_a_few_in_advance(predictor, pictures) -> None:
    taken = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal taken
        while True:
            taken += 1
            yield pictures[0]

    results = predictor.predict_batch(endless(), TEXTS, batch_size=2)
    for _ in range(4):
        next(results)
    assert taken <= 12
    results.close()
    before = taken
    time.sleep(0.05)
    assert taken == before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sspsam-read")]


def test_a_bad_picture_is_raised_after_the_results_of_those_before_it(predictor, pictures, tmp_path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    results = predictor.predict_batch([*pictures[:3], bad, pictures[3]], TEXTS, batch_size=2)
    assert [len(next(results)) for _ in range(3)] == [2, 2, 2]
    with pytest.raises(errors.ImageError, match=r"bad\.png"):
        next(results)


def test_what_the_callers_own_iterable_raises_comes_in_its_turn(predictor, pictures) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield pictures[0]
        raise LookupError("no more")

    results = predictor.predict_batch(broken(), TEXTS)
    assert len(next(results)) == 2
    with pytest.raises(LookupError, match="no more"):
        next(results)


def test_a_bad_expression_is_found_before_any_picture_is_read(predictor) -> None:
    with pytest.raises(errors.TextError, match=r"texts\[1\]"):
        predictor.predict_batch(["no such picture.png"], ["fine", " "])
    with pytest.raises(TypeError, match="list"):
        predictor.predict_batch([], "a string")
    for single in ("photo.jpg", Path("photo.jpg"), b"bytes", np.zeros((9, 9, 3), np.uint8)):
        with pytest.raises(TypeError, match="many pictures"):
            predictor.predict_batch(single, TEXTS)


@pytest.mark.parametrize(
    ("name", "value"), [("batch_size", 0), ("workers", 0), ("batch_size", 1.5), ("workers", -1), ("workers", True)]
)
def test_sizes_are_positive_whole_numbers(predictor, name, value) -> None:
    with pytest.raises(ValueError, match=name):
        predictor.predict_batch([], TEXTS, **{name: value})


@pytest.mark.parametrize(
    "shortage",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: x"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    ],
)
def test_running_out_of_memory_halves_the_batch_and_loses_nothing(shortage) -> None:
    sizes = []

    def compute(ready: list[int]) -> list[int]:
        sizes.append(len(ready))
        if len(ready) > 2:
            raise shortage
        return [10 * each for each in ready]

    with pytest.warns(errors.SSPSAMWarning, match="out of memory"):
        found = list(compute_in_batches(range(20), lambda n: n, compute, batch_size=8, workers=2))
    assert found == [10 * n for n in range(20)]
    assert sizes[:3] == [8, 4, 2]
    assert max(sizes[2:]) == 2


def test_too_little_memory_for_one_picture_is_an_error_of_its_own() -> None:
    def compute(ready: list[int]) -> list[int]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    with (
        pytest.warns(errors.SSPSAMWarning, match="out of memory"),
        pytest.raises(errors.OutOfMemoryError, match=r"single picture.*Tried to allocate"),
    ):
        list(compute_in_batches(range(4), lambda n: n, compute, batch_size=4, workers=1))


def test_other_errors_of_the_model_are_not_taken_for_a_lack_of_memory() -> None:
    def compute(ready: list[int]) -> list[int]:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(compute_in_batches(range(4), lambda n: n, compute, batch_size=4, workers=1))


def test_the_next_pictures_are_read_while_the_model_is_busy() -> None:
    reading = threading.Event()

    def read(number: int) -> int:
        if number == 2:
            reading.set()
        return number

    def compute(ready: list[int]) -> list[int]:
        if ready[0] == 0:
            assert reading.wait(10)  # number 2 is read before number 0 is done
        return ready

    assert list(compute_in_batches(range(5), read, compute, batch_size=1, workers=1)) == list(range(5))


def test_what_ran_out_of_memory_is_let_go_before_the_next(predictor, pictures, monkeypatch) -> None:
    model, held = predictor._model, []

    def encode_image(*inputs: torch.Tensor) -> list[ImageFeatures]:
        if not held:
            large = torch.zeros(1000)
            held.append(weakref.ref(large))
            raise torch.OutOfMemoryError("CUDA out of memory.")
        assert held[0]() is None
        return type(model).encode_image(model, *inputs)

    monkeypatch.setattr(model, "encode_image", encode_image)
    first, second = predictor.predict_batch(pictures[:2], TEXTS, batch_size=1, return_errors=True)
    assert isinstance(first, errors.OutOfMemoryError)
    assert first.__traceback__ is None
    assert len(second) == 2


def test_a_picture_whose_own_texts_cannot_be_asked_costs_no_other(predictor, pictures) -> None:
    texts = [["one"], [" "], ["three"]]
    found = list(predictor.predict_batch(pictures[:3], texts, return_errors=True))
    assert isinstance(found[1], errors.TextError)
    assert [each[0].text for each in (found[0], found[2])] == ["one", "three"]
    with pytest.raises(errors.TextError):
        list(predictor.predict_batch(pictures[:3], texts))
    with pytest.raises(errors.TextError):  # those for all pictures at once, before any is read
        predictor.predict_batch(pictures[:3], ["one", " "], return_errors=True)


def test_errors_can_be_given_in_the_place_of_results(predictor, pictures, tmp_path, monkeypatch) -> None:
    (tmp_path / "bad.png").write_text("no picture")
    images = [pictures[0], tmp_path / "bad.png", pictures[1], tmp_path / "none.png", pictures[2]]
    for batch_size in (1, 2, 5):
        found = list(predictor.predict_batch(images, TEXTS, batch_size=batch_size, return_errors=True))
        assert [type(each) for each in found] == [list, errors.ImageError, list, errors.ImageNotFoundError, list]
    answer = predictor._answer

    def failing(asked, *others):
        if asked.height == 67:
            raise errors.NumericalError("not finite")
        return answer(asked, *others)

    monkeypatch.setattr(predictor, "_answer", failing)
    found = list(predictor.predict_batch(pictures[:3], TEXTS, batch_size=3, return_errors=True))
    assert [type(each) for each in found] == [list, errors.NumericalError, list]
    with pytest.raises(errors.NumericalError):
        list(predictor.predict_batch(pictures[:3], TEXTS))
