"""Time and memory of `sspsam` and of the authors' way, with the same weights on the same inputs."""

import ctypes
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import torch
from PIL import Image
from torch import Tensor

from benchmarks.authors_checkpoint import authors_state
from benchmarks.authors_way import Answer, AuthorsWay
from benchmarks.workload import architecture, drawn_image, expressions, model_state
from sspsam import ImageEmbedding, Segmentation, SSPSAMPredictor
from sspsam.config import ModelConfig
from sspsam.models import SSPSAM

IMPLEMENTATIONS: Final = ("authors", "sspsam")  # keys of the numbers in the JSON file
FOLDER_IMAGES: Final = 2
FOLDER_EXPRESSIONS: Final = 3  # for each image of the folder
MANY: Final = 16  # expressions in one call
FURTHER: Final = 5  # expressions that are timed one by one; a single one takes too little time for a stable median
Times = dict[str, dict[str, list[float]]]  # seconds by task and implementation
_ResultT = TypeVar("_ResultT")


@dataclass(frozen=True)
class Setting:
    """Model, device and precision of a measurement.

    Args:
        size: name of the architecture, see `benchmarks.workload.architecture`.
        device: of both implementations.
        dtype: of `sspsam`'s image encoders; the authors' way computes in float32.
    """

    size: str
    device: str
    dtype: str

    def random_weights(self) -> dict[str, Tensor]:
        """Generate the weights that both implementations use, with the authors' names."""
        return authors_state(architecture(self.size), seed=0, after_surgery=False)

    def authors_way(self, weights: dict[str, Tensor]) -> AuthorsWay:
        """Build the authors' way."""
        surgery_layers = architecture(self.size).clip.surgery_layers
        return AuthorsWay(weights, surgery_layers).to(torch.device(self.device))

    def predictor(self, weights: dict[str, Tensor]) -> SSPSAMPredictor:
        """Build a predictor; on the CPU it shares the memory of the weights."""
        config = architecture(self.size)
        with torch.device("meta"):
            model = SSPSAM(config)
        model.load_state_dict(model_state(weights), assign=True)
        return SSPSAMPredictor(model.requires_grad_(False), ModelConfig(config), device=self.device, dtype=self.dtype)


@dataclass
class Comparison:
    """Both implementations, and the times that they have taken so far."""

    authors: AuthorsWay
    predictor: SSPSAMPredictor
    device: torch.device
    times: Times = field(default_factory=dict)

    def run(self, task: str, authors: Callable[[], list[Answer]], sspsam: Callable[[], list[Segmentation]]) -> float:
        """Time both implementations of a task, and return the largest difference of their logits.

        The order alternates from round to round.
        """
        times = self.times.setdefault(task, {"authors": [], "sspsam": []})
        if len(times["sspsam"]) % 2:
            answers = self._timed(times["authors"], authors)
            segmentations = self._timed(times["sspsam"], sspsam)
        else:
            segmentations = self._timed(times["sspsam"], sspsam)
            answers = self._timed(times["authors"], authors)
        return _largest_difference(answers, segmentations)

    def _timed(self, times: list[float], work: Callable[[], _ResultT]) -> _ResultT:
        self._synchronize()
        start = time.perf_counter()
        result = work()
        self._synchronize()
        times.append(time.perf_counter() - start)
        return result

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def compare(setting: Setting, repeat: int) -> tuple[Times, float]:
    """Time every task with both implementations.

    Args:
        setting: the model and the device.
        repeat: number of rounds, each with its own images and expressions.

    Returns:
        Seconds of every task, and the largest difference of the logits.
    """
    weights = setting.random_weights()
    authors, predictor = setting.authors_way(weights), setting.predictor(weights)
    comparison = Comparison(authors, predictor, torch.device(setting.device))
    _first_answer_of_authors(authors, seed=0)  # warm up
    _first_answer_of_predictor(predictor, seed=0)
    worst = max(_round(comparison, seed) for seed in range(1, repeat + 1))
    return comparison.times, worst


def _round(comparison: Comparison, seed: int) -> float:
    """Run every task once, and return the largest difference of the logits."""
    authors, predictor = comparison.authors, comparison.predictor
    image, [first_text, *texts] = drawn_image(seed), expressions(seed, 1 + FURTHER + MANY)
    differences = [
        comparison.run(
            "i",
            lambda: [authors(image, first_text)],
            lambda: predictor.predict([first_text], image=image, return_logits="low_res"),
        )
    ]
    authors_embedding, embedding = authors.encode_image(image), predictor.encode(image)
    predictor.predict("prepare the embedding", embedding=embedding)
    tasks = [*(("ii", [text]) for text in texts[:FURTHER]), ("iii", texts[FURTHER:])]
    for task, task_texts in tasks:
        differences.append(
            comparison.run(
                task,
                partial(_authors_answers, authors, image, task_texts, authors_embedding),
                partial(_sspsam_answers, predictor, task_texts, embedding),
            )
        )
    return max(*differences, _folder_round(comparison, seed))


def _folder_round(comparison: Comparison, seed: int) -> float:
    """Task (iv): some images with some expressions each."""
    authors, predictor = comparison.authors, comparison.predictor
    images = [drawn_image(1000 * (seed + 1) + number) for number in range(FOLDER_IMAGES)]
    texts = [expressions(7000 + 100 * seed + number, FOLDER_EXPRESSIONS) for number in range(FOLDER_IMAGES)]

    def authors_folder() -> list[Answer]:
        return [
            answer
            for image, image_texts in zip(images, texts, strict=True)
            for answer in _authors_answers(authors, image, image_texts, authors.encode_image(image))
        ]

    def sspsam_folder() -> list[Segmentation]:
        results = predictor.predict_batch(images, texts, return_logits="low_res")
        return [segmentation for image_results in results for segmentation in image_results]

    return comparison.run("iv", authors_folder, sspsam_folder)


def _authors_answers(authors: AuthorsWay, image: Image.Image, texts: list[str], embedding: Tensor) -> list[Answer]:
    return [authors(image, text, embedding) for text in texts]


def _sspsam_answers(predictor: SSPSAMPredictor, texts: list[str], embedding: ImageEmbedding) -> list[Segmentation]:
    return predictor.predict(texts, embedding=embedding, return_logits="low_res")


def _largest_difference(answers: list[Answer], segmentations: list[Segmentation]) -> float:
    return max(
        float((answer.low_res.cpu() - torch.from_numpy(segmentation.low_res_logits)).abs().max())
        for answer, segmentation in zip(answers, segmentations, strict=True)
    )


def _first_answer_of_authors(authors: AuthorsWay, seed: int) -> None:
    [text] = expressions(seed, 1)
    authors(drawn_image(seed), text)


def _first_answer_of_predictor(predictor: SSPSAMPredictor, seed: int) -> None:
    predictor.predict(expressions(seed, 1), image=drawn_image(seed), return_logits="low_res")


def peak_memory(setting: Setting, implementation: str) -> int:
    """Bytes that task (i) needs in addition to the model; run it in its own process, on Linux or on a GPU."""
    weights = setting.random_weights()
    answer: Callable[[int], None]
    if implementation == "authors":
        answer = partial(_first_answer_of_authors, setting.authors_way(weights))
    else:
        answer = partial(_first_answer_of_predictor, setting.predictor(weights))
    if torch.device(setting.device).type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        answer(1)
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak, which building the model has set
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # return free memory, so that the task cannot reuse it without being counted
    before = _process_memory("VmRSS")
    answer(1)
    return _process_memory("VmHWM") - before


def _process_memory(name: str) -> int:
    """Bytes of this process: `VmRSS` is the current resident set, `VmHWM` its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))
