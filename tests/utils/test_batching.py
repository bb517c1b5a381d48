"""Many images: results in order, lazily, loaded beside the computation, and complete when memory runs out."""

import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from sspsam import SSPSAMPredictor, errors
from sspsam.models import SSPSAM, ImageFeatures
from sspsam.segmentation.pipeline import Pipeline
from sspsam.shapes import draw_scene
from sspsam.utils.batching import compute_in_batches

TEXTS = ["the red circle", "a dog"]


@pytest.fixture
def predictor(tiny_model: Path) -> SSPSAMPredictor:
    return SSPSAMPredictor.from_pretrained(tiny_model, device="cpu")


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return [draw_scene(seed, (60 + 7 * seed, 90)).pixels for seed in range(7)]


@pytest.mark.parametrize("batch_size", [None, 1, 3, 20])
def test_predict_batch_gives_the_answers_of_predict(predictor, images, batch_size) -> None:
    batch_results = list(predictor.predict_batch(images, TEXTS, batch_size=batch_size, return_logits="full"))
    assert len(batch_results) == len(images)
    for image, results in zip(images, batch_results, strict=True):
        expected = predictor.predict(TEXTS, image=image, return_logits="full")
        for result, single in zip(results, expected, strict=True):
            assert result.text == single.text
            assert np.abs(result.logits - single.logits).max() < 1e-4
            assert result.no_target == single.no_target


def test_each_image_can_have_its_own_expressions(predictor, images) -> None:
    texts = [["one"], ["two", "three"], [], ["four"]]
    batch_results = list(predictor.predict_batch(images[:4], texts))
    assert [[result.text for result in results] for results in batch_results] == texts
    generated_texts = ([f"t{number}"] for number in range(2))
    assert [results[0].text for results in predictor.predict_batch(images[:2], generated_texts)] == ["t0", "t1"]
    with pytest.raises(ValueError, match=r"more lists of texts than images \(3\)"):
        list(predictor.predict_batch(images[:3], texts))
    with pytest.raises(ValueError, match=r"more images than lists of texts \(4\)"):
        list(predictor.predict_batch(images, texts))
    with pytest.raises(TypeError, match="image 1"):
        list(predictor.predict_batch(images[:2], [["one"], "two"]))
    assert list(predictor.predict_batch([], TEXTS)) == []


def test_only_a_few_images_are_taken_in_advance(predictor, images) -> None:
    taken = 0

    def endless_images() -> Iterator[np.ndarray]:
        nonlocal taken
        while True:
            taken += 1
            yield images[0]

    results = predictor.predict_batch(endless_images(), TEXTS, batch_size=2)
    for _ in range(4):
        next(results)
    assert taken <= 12
    results.close()
    taken_before = taken
    time.sleep(0.05)
    assert taken == taken_before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sspsam-read")]


def test_a_bad_image_raises_after_the_results_of_all_earlier_images(predictor, images, tmp_path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    results = predictor.predict_batch([*images[:3], bad, images[3]], TEXTS, batch_size=2)
    assert [len(next(results)) for _ in range(3)] == [2, 2, 2]
    with pytest.raises(errors.ImageError, match=r"bad\.png"):
        next(results)


def test_an_error_of_the_callers_iterable_raises_after_the_results_of_all_earlier_images(predictor, images) -> None:
    def broken_images() -> Iterator[np.ndarray]:
        yield images[0]
        raise LookupError("no more")

    results = predictor.predict_batch(broken_images(), TEXTS)
    assert len(next(results)) == 2
    with pytest.raises(LookupError, match="no more"):
        next(results)


def test_an_invalid_expression_is_found_before_any_image_is_loaded(predictor) -> None:
    with pytest.raises(errors.TextError, match=r"texts\[1\]"):
        predictor.predict_batch(["no such image.png"], ["fine", " "])
    with pytest.raises(TypeError, match="list"):
        predictor.predict_batch([], "a string")


@pytest.mark.parametrize(
    "image",
    ["photo.jpg", Path("photo.jpg"), b"bytes", np.zeros((9, 9, 3), np.uint8)],
    ids=lambda image: type(image).__name__,
)
def test_a_single_image_in_place_of_an_iterable_is_a_type_error(predictor, image) -> None:
    with pytest.raises(TypeError, match=r"an iterable of images.*for one image use predict\(\)"):
        predictor.predict_batch(image, TEXTS)


@pytest.mark.parametrize(
    ("name", "value"), [("batch_size", 0), ("workers", 0), ("batch_size", 1.5), ("workers", -1), ("workers", True)]
)
def test_batch_size_and_workers_must_be_positive_whole_numbers(predictor, name, value) -> None:
    with pytest.raises(ValueError, match=name):
        predictor.predict_batch([], TEXTS, **{name: value})


@pytest.mark.parametrize(
    "out_of_memory",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: x"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    ],
)
def test_running_out_of_memory_halves_the_batch_and_loses_no_result(out_of_memory) -> None:
    sizes = []

    def compute(batch: list[int]) -> list[int]:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise out_of_memory
        return [10 * number for number in batch]

    with pytest.warns(errors.SSPSAMWarning, match="out of memory"):
        results = list(compute_in_batches(range(20), lambda number: number, compute, batch_size=8, workers=2))
    assert results == [10 * number for number in range(20)]
    assert sizes[:3] == [8, 4, 2]
    assert max(sizes[2:]) == 2


def compute_without_memory(batch: list[int]) -> list[int]:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


def test_too_little_memory_for_a_single_image_is_an_out_of_memory_error() -> None:
    with (
        pytest.warns(errors.SSPSAMWarning, match="out of memory"),
        pytest.raises(errors.OutOfMemoryError, match=r"single image.*Tried to allocate"),
    ):
        list(compute_in_batches(range(4), lambda number: number, compute_without_memory, batch_size=4, workers=1))


@pytest.mark.filterwarnings("ignore::sspsam.errors.SSPSAMWarning")
def test_on_single_item_oom_gives_the_result_of_an_item_without_enough_memory() -> None:
    results = compute_in_batches(
        range(3),
        lambda number: number,
        compute_without_memory,
        batch_size=2,
        workers=1,
        on_single_item_oom=lambda error: type(error).__name__,
    )
    assert list(results) == ["OutOfMemoryError"] * 3


def test_other_errors_of_the_model_do_not_count_as_out_of_memory() -> None:
    def compute(batch: list[int]) -> list[int]:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(compute_in_batches(range(4), lambda number: number, compute, batch_size=4, workers=1))


def test_the_next_items_are_loaded_while_the_model_computes() -> None:
    is_loading = threading.Event()

    def load(number: int) -> int:
        if number == 2:
            is_loading.set()
        return number

    def compute(batch: list[int]) -> list[int]:
        if batch[0] == 0:
            assert is_loading.wait(10)  # number 2 is loaded before number 0 is computed
        return batch

    assert list(compute_in_batches(range(5), load, compute, batch_size=1, workers=1)) == list(range(5))


def test_the_tensors_of_a_failed_batch_are_freed_before_the_next_batch(predictor, images, monkeypatch) -> None:
    references: list[weakref.ref[torch.Tensor]] = []
    encode = SSPSAM.encode_image

    def encode_image(model: SSPSAM, *inputs: torch.Tensor) -> list[ImageFeatures]:
        if not references:
            large = torch.zeros(1000)
            references.append(weakref.ref(large))
            raise torch.OutOfMemoryError("CUDA out of memory.")
        assert references[0]() is None
        return encode(model, *inputs)

    monkeypatch.setattr(SSPSAM, "encode_image", encode_image)
    first, second = predictor.predict_batch(images[:2], TEXTS, batch_size=1, return_errors=True)
    assert isinstance(first, errors.OutOfMemoryError)
    assert first.__traceback__ is None
    assert len(second) == 2


def test_an_image_with_invalid_texts_does_not_affect_other_images(predictor, images) -> None:
    texts = [["one"], [" "], ["three"]]
    outcomes = list(predictor.predict_batch(images[:3], texts, return_errors=True))
    assert isinstance(outcomes[1], errors.TextError)
    assert [results[0].text for results in (outcomes[0], outcomes[2])] == ["one", "three"]
    with pytest.raises(errors.TextError):
        list(predictor.predict_batch(images[:3], texts))
    with pytest.raises(errors.TextError):  # texts for all images raise at once, before any image is loaded
        predictor.predict_batch(images[:3], ["one", " "], return_errors=True)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_return_errors_yields_errors_in_the_places_of_bad_images(predictor, images, tmp_path, batch_size) -> None:
    (tmp_path / "bad.png").write_text("no image")
    inputs = [images[0], tmp_path / "bad.png", images[1], tmp_path / "none.png", images[2]]
    outcomes = list(predictor.predict_batch(inputs, TEXTS, batch_size=batch_size, return_errors=True))
    expected = [list, errors.ImageError, list, errors.ImageNotFoundError, list]
    assert [type(outcome) for outcome in outcomes] == expected


def test_return_errors_yields_an_error_of_the_answer_in_the_place_of_its_image(predictor, images, monkeypatch) -> None:
    answer = Pipeline.answer

    def failing_answer(pipeline, embedding, *arguments):
        if embedding.height == 67:
            raise errors.NumericalError("not finite")
        return answer(pipeline, embedding, *arguments)

    monkeypatch.setattr(Pipeline, "answer", failing_answer)
    outcomes = list(predictor.predict_batch(images[:3], TEXTS, batch_size=3, return_errors=True))
    assert [type(outcome) for outcome in outcomes] == [list, errors.NumericalError, list]
    with pytest.raises(errors.NumericalError):
        list(predictor.predict_batch(images[:3], TEXTS))


def test_errors_in_the_place_of_answers_leave_the_exception_that_a_caller_handles(predictor, images) -> None:
    def handled() -> None:
        raise KeyError("of the caller")

    try:
        handled()
    except KeyError as error:
        outcomes = list(predictor.predict_batch([images[0], "missing.png"], [[" "], ["a"]], return_errors=True))
        assert [type(outcome).__name__ for outcome in outcomes] == ["TextError", "ImageNotFoundError"]
        frame = error.__traceback__
        assert frame is not None
        assert frame.tb_next is not None
        assert frame.tb_next.tb_frame.f_code.co_name == "handled"
