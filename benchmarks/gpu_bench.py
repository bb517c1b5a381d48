"""Models, inputs and the clock that all stages of `benchmarks.gpu` share."""

import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.authors_checkpoint import authors_state
from benchmarks.authors_way import AuthorsWay
from benchmarks.workload import architecture, drawn_image, expressions, model_state
from sspsam import SSPSAMPredictor
from sspsam.config import ModelConfig
from sspsam.models import SSPSAM

GRAPHS: Final = "SSPSAM_CUDA_GRAPHS"  # environment variable; "0" when a predictor is made: eager execution
WARM_UP: Final = 3  # runs before a measurement
MOST: Final = 40  # runs of a measurement
Numbers = dict[str, Any]


@dataclass
class Bench:
    """The models of a run, each made when it is first needed, and the numbers so far.

    Args:
        device: of all implementations.
        size: `"336"`, or `"quick"` for a small architecture.
        reference: folder with golden files; None: only the files in `tests/data`.
        seconds: of one measurement, warm-up excluded.
        fewest: runs of a measurement.
        numbers: by stage.
    """

    device: torch.device
    size: str
    reference: Path | None
    seconds: float = 1.5
    fewest: int = 3
    numbers: dict[str, Numbers] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)
    _texts: int = 0

    @property
    def half_dtype(self) -> str:
        """Half precision of the times: float16; a CPU computes bfloat16 faster."""
        return "float16" if self.device.type == "cuda" else "bfloat16"

    def say(self, message: str) -> None:
        """Print a line with the seconds since the start."""
        print(f"[{time.perf_counter() - self.started:6.1f} s] {message}", flush=True)

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """Random weights on the CPU, with the authors' names."""
        start = time.perf_counter()
        weights = authors_state(architecture(self.size), after_surgery=False)
        count = sum(tensor.numel() for tensor in weights.values())
        self.say(f"weights: {count / 1e6:.0f} M random numbers in {time.perf_counter() - start:.1f} s")
        return weights

    @cached_property
    def model(self) -> SSPSAM:
        """The network on the CPU; it shares the memory of the weights."""
        with torch.device("meta"):
            model = SSPSAM(architecture(self.size))
        model.load_state_dict(model_state(self.weights), assign=True)
        return model.requires_grad_(False)

    @cached_property
    def authors(self) -> AuthorsWay:
        """The authors' way on the device."""
        with self.device:  # modules are initialised there, which is faster
            authors = AuthorsWay(self.weights, architecture(self.size).clip.surgery_layers)
        return authors.to(self.device)

    @cached_property
    def half(self) -> SSPSAMPredictor:
        """The predictor in half precision."""
        return self.predictor(self.half_dtype)

    def predictor(self, dtype: str, compiled: bool = False) -> SSPSAMPredictor:
        """Make a predictor from the model."""
        options: dict[str, Any] = {"compile": True} if compiled else {}
        start = time.perf_counter()
        config = ModelConfig(architecture(self.size))
        predictor = SSPSAMPredictor(self.model, config, device=self.device, dtype=dtype, **options)
        self.synchronize()
        self.say(f"predictor in {dtype} made in {time.perf_counter() - start:.1f} s")
        return predictor

    def release(self, *names: str) -> None:
        """Drop models, such as `"half"`, and return their memory to the device."""
        for name in names:
            self.__dict__.pop(name, None)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """A decoded image, (720, 1080, 3)."""
        return np.array(drawn_image(3))

    def text(self) -> str:
        """Return an expression that no cache knows."""
        return self.texts(1)[0]

    def texts(self, count: int) -> list[str]:
        """Return expressions that no cache knows."""
        self._texts += 1
        return expressions(5000 + self._texts, count)

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def timed(self, work: Callable[[], object]) -> float:
        """Seconds of one run of `work`, the device's included."""
        self.synchronize()
        start = time.perf_counter()
        work()
        self.synchronize()
        return time.perf_counter() - start

    def milliseconds(self, name: str, work: Callable[[], object]) -> float:
        """Measure `work` several times after a warm-up, and print and return the median."""
        first = self.timed(work)
        for _ in range(WARM_UP - 1 if first < 2 * self.seconds else 0):
            work()
        times: list[float] = []
        while len(times) < self.fewest or (sum(times) < 1e3 * self.seconds and len(times) < MOST):
            times.append(1e3 * self.timed(work))
        median = statistics.median(times)
        self.say(f"{name}: {median:.2f} ms (median of {len(times)}, lowest {min(times):.2f}, first {1e3 * first:.0f})")
        return median


Stage = Callable[[Bench], Numbers]


@contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable for the duration of the context."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
