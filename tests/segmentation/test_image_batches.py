"""Answers of a GPU: the host finishes those about one image while the device computes those about the next."""

import types
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from sspsam import Segmentation, SSPSAMPredictor
from sspsam.errors import ImageError, NumericalError
from sspsam.segmentation import image_batches, pipeline, transfer
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
def events_on_cpu(monkeypatch) -> list[str]:
    """The names of what happens with the answers about each image."""
    happened: list[str] = []

    def begin(low_res, summary, binarization, *others) -> Callable[[], list[transfer.HostAnswer]]:
        name = binarization.geometry.height - 48
        happened.append(f"begin {name}")
        finish = transfer.begin_transfer(low_res, summary, binarization, *others)
        return lambda: happened.append(f"finish {name}") or finish()

    monkeypatch.setattr(pipeline, "begin_transfer", begin)
    return happened


@pytest.fixture
def events(predictor, expected, events_on_cpu, monkeypatch) -> Iterator[list[str]]:
    """The same on a simulated GPU."""
    if torch.cuda.is_available():
        pytest.skip("a CUDA GPU cannot be simulated where there is one")
    monkeypatch.setenv("SSPSAM_CUDA_GRAPHS", "0")  # graphs need the driver
    events_on_cpu.clear()
    with simulated_device("cuda"):
        predictor.to("cuda")
        yield events_on_cpu


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


def test_a_cpu_answers_about_one_image_after_the_other(predictor, events_on_cpu) -> None:
    answers(predictor, batch_size=3)
    assert events_on_cpu == [f"{step} {image}" for image in range(3) for step in ("begin", "finish")]


def test_an_image_without_expressions_has_no_answers(predictor, events, expected) -> None:
    for texts in ([], [TEXTS, [], TEXTS]):
        results = list(predictor.predict_batch(IMAGES, texts, no_target_pixels=0))
        assert [len(image) for image in results] == ([2, 0, 2] if texts else [0, 0, 0])


def test_an_image_that_fails_between_two_others_keeps_its_place(predictor, events, expected) -> None:
    images = [IMAGES[0], "missing.jpg", IMAGES[1]]
    first, error, last = predictor.predict_batch(images, TEXTS, no_target_pixels=0, return_errors=True)
    assert isinstance(error, ImageError)
    check([first, last], expected[:2])


def test_images_with_more_expressions_than_one_pass_are_answered_one_after_the_other(
    predictor, events, expected, monkeypatch
) -> None:
    for module in (image_batches, pipeline):
        monkeypatch.setattr(module, "expressions_per_pass", lambda device: 1)
    check(answers(predictor), expected)
    assert events == [f"{step} {image}" for image in range(3) for _ in TEXTS for step in ("begin", "finish")]


class FailingTransfers:
    """Fails once where the answers about image 1 are begun, or finished.

    Args:
        begin: what begins a transfer.
        error: raised once.
        early: whether the beginning fails.
    """

    def __init__(self, begin: Callable[..., Callable[[], object]], error: Exception, early: bool) -> None:
        self._begin, self.errors, self._early = begin, [error], early

    def __call__(self, low_res, summary, binarization, *others) -> Callable[[], object]:
        fails = binarization.geometry.height == 49 and len(self.errors) > 0
        if fails and self._early:
            raise self.errors.pop()
        finish = self._begin(low_res, summary, binarization, *others)
        return self._fail if fails else finish

    def _fail(self) -> None:
        raise self.errors.pop()


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")],
)
def test_answers_for_which_memory_does_not_suffice_beside_those_before_are_computed_alone(
    predictor, events, expected, monkeypatch, error, early
) -> None:
    transfers = FailingTransfers(pipeline.begin_transfer, error, early)
    monkeypatch.setattr(pipeline, "begin_transfer", transfers)
    check(answers(predictor), expected)
    assert not transfers.errors
    if early:
        assert events == [f"{step} {image}" for image in range(3) for step in ("begin", "finish")]
    else:
        assert events == ["begin 0", "begin 1", "finish 0", "begin 2", "begin 1", "finish 1", "finish 2"]


def test_an_error_of_one_image_takes_the_place_of_its_answers(predictor, events, expected, monkeypatch) -> None:
    begin, error = pipeline.Pipeline.begin, NumericalError("not finite")

    def failing(self, embedding, *others):
        if embedding.height == 49:
            raise error
        return begin(self, embedding, *others)

    monkeypatch.setattr(pipeline.Pipeline, "begin", failing)
    first, second, third = answers(predictor, return_errors=True)
    assert second is error
    check([first, third], [expected[0], expected[2]])


def test_other_errors_end_the_batch(predictor, events, monkeypatch) -> None:
    monkeypatch.setattr(pipeline, "begin_transfer", FailingTransfers(pipeline.begin_transfer, RuntimeError("x"), True))
    with pytest.raises(RuntimeError, match="x"):
        answers(predictor)


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
