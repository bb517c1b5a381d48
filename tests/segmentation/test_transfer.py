"""Answers of a GPU: the host finishes those about one image while the device computes those about the next."""

import types
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from sspsam import Segmentation, SSPSAMPredictor
from sspsam.errors import ImageError
from sspsam.segmentation import pipeline, transfer
from sspsam.shapes import draw_scene
from tests.support.device_mode import simulated_device

TEXTS = ["the red circle", "every shape"]
IMAGES = [draw_scene(seed, (48 + seed, 64)).pixels for seed in range(3)]
Answers = list[list[Segmentation]]


@pytest.fixture
def predictor(tiny_model) -> SSPSAMPredictor:
    """A model that finds something everywhere."""
    return SSPSAMPredictor.from_pretrained(tiny_model, device="cpu")


@pytest.fixture
def expected(predictor) -> Answers:
    return answers(predictor)


@pytest.fixture
def events(predictor, expected, monkeypatch) -> Iterator[list[str]]:
    """The names of what happens with the answers about each image, on a simulated GPU."""
    if torch.cuda.is_available():
        pytest.skip("a CUDA GPU cannot be simulated where there is one")
    monkeypatch.setenv("SSPSAM_CUDA_GRAPHS", "0")  # graphs need the driver
    happened: list[str] = []

    def begin(low_res, summary, binarization, *others) -> Callable[[], list[transfer.HostAnswer]]:
        name = binarization.geometry.height - 48
        happened.append(f"begin {name}")
        finish = transfer.begin_transfer(low_res, summary, binarization, *others)
        return lambda: happened.append(f"finish {name}") or finish()

    monkeypatch.setattr(pipeline, "begin_transfer", begin)
    with simulated_device("cuda"):
        predictor.to("cuda")
        yield happened


def answers(predictor: SSPSAMPredictor, **options) -> Answers:
    return list(predictor.predict_batch(IMAGES, TEXTS, no_target_pixels=0, **options))


def check(results: Answers, expected: Answers) -> None:
    for image, image_expected in zip(results, expected, strict=True):
        for result, answer in zip(image, image_expected, strict=True):
            assert answer.mask.any()
            assert (result.mask != answer.mask).mean() < 2e-2  # in half precision, of a small image
            assert result.text == answer.text


def test_the_next_image_of_a_batch_is_begun_before_the_one_before_is_finished(predictor, events, expected) -> None:
    check(answers(predictor), expected)
    assert events == ["begin 0", "begin 1", "finish 0", "begin 2", "finish 1", "finish 2"]
    events.clear()
    check(answers(predictor, batch_size=1), expected)
    assert events == [f"{step} {image}" for image in range(3) for step in ("begin", "finish")]


def test_an_image_that_fails_between_two_others_keeps_its_place(predictor, events, expected) -> None:
    images = [IMAGES[0], "missing.jpg", IMAGES[1]]
    first, error, last = predictor.predict_batch(images, TEXTS, no_target_pixels=0, return_errors=True)
    assert isinstance(error, ImageError)
    check([first, last], expected[:2])


def test_images_with_more_expressions_than_one_pass_are_answered_one_after_the_other(
    predictor, events, expected, monkeypatch
) -> None:
    monkeypatch.setattr(pipeline, "expressions_per_pass", lambda device: 1)
    check(answers(predictor), expected)
    assert events == [f"{step} {image}" for image in range(3) for _ in TEXTS for step in ("begin", "finish")]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_answers_that_cannot_be_begun_early_for_lack_of_memory_are_computed_in_their_turn(
    predictor, events, expected, monkeypatch, error
) -> None:
    begin, failures = pipeline.begin_transfer, [error]

    def short_of_memory(low_res, summary, binarization, *others):
        if binarization.geometry.height == 49 and failures:
            raise failures.pop()
        return begin(low_res, summary, binarization, *others)

    monkeypatch.setattr(pipeline, "begin_transfer", short_of_memory)
    check(answers(predictor), expected)
    assert not failures
    assert events == ["begin 0", "finish 0", "begin 2", "begin 1", "finish 1", "finish 2"]


def test_the_host_reads_nothing_before_the_copies_of_an_image_are_complete(
    predictor, events, expected, monkeypatch
) -> None:
    """Copies to page-locked memory: here they are made where the host waits for the event after them."""
    queued: list[Callable[[], object]] = []

    def queue_copies(*tensors: torch.Tensor) -> list[torch.Tensor]:
        copies = [torch.zeros(tuple(tensor.shape), dtype=tensor.dtype, device="cpu") for tensor in tensors]
        queued.append(lambda: [copy.copy_(tensor) for copy, tensor in zip(copies, tensors, strict=True)])
        return copies

    def record_event() -> types.SimpleNamespace:
        return types.SimpleNamespace(synchronize=queued.pop())

    monkeypatch.setattr(transfer, "_queue_copies", queue_copies)
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda tensor: True)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: types.SimpleNamespace(record_event=record_event))
    results = answers(predictor)
    check(results, expected)
    for image, image_expected in zip(results, expected, strict=True):
        assert np.allclose([result.score for result in image], [answer.score for answer in image_expected], atol=1e-2)
