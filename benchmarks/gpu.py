"""Parity, robustness, memory and speed on a GPU: `python -m benchmarks.gpu [--output numbers.json]`.

    python -m benchmarks.gpu                           # the published 336 size, random weights, under four minutes
    python -m benchmarks.gpu --stages memory,speed     # some stages only
    python -m benchmarks.gpu --quick --device cpu      # a small architecture: a dry run without a GPU

The checks compare with the golden files (those in `tests/data`, and those in the folder that `--reference` or
`SSPSAM_REFERENCE` names), recorded graphs with eager execution, threads with one thread, and half precision with
float32. The times are compared with the authors' way (`benchmarks/authors_way.py`) in float32, in the same run, with
TF32 where PyTorch uses it by default. Each stage prints its numbers when they are measured; a stage that fails prints
the end of its traceback, and the next one starts. The exit status is 1 if a stage failed.
"""

import argparse
import gc
import json
import os
import signal
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import PIL
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
STAGE_SECONDS: Final = 75
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


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise a `TimeoutError` in the main thread after some seconds, where the system has such a timer."""

    def expired(*_: object) -> None:
        raise TimeoutError(f"the stage took more than {seconds:.0f} s")

    if not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_stage(bench: Bench, name: str, stage: Stage) -> None:
    """Run a stage and keep its numbers, or `{"error": ...}` after printing the end of the traceback."""
    bench.say(f"--- {name}")
    try:
        with time_limit(STAGE_SECONDS):
            bench.numbers[name] = stage(bench)
    except Exception as error:
        lines = traceback.format_exc().splitlines()[-8:]
        bench.say("\n".join([f"{name} FAILED:", *lines]))
        bench.numbers[name] = {"error": f"{type(error).__name__}: {error}"}
    bench.release()


def table(numbers: dict[str, Numbers]) -> str:
    """Times and ratios as the Markdown table of the README; a dash where nothing was measured."""
    ways = {"mixed half": "speed", "mixed half, compiled": "compiled", "float32": "float32"}
    rows = {"i": "new image, first expression", "ii": "a further expression", "iii": "16 expressions"}
    rows["iv"] = "folder, 3 expressions each: per image"
    lines = [
        "| milliseconds | authors' way | " + " | ".join(f"sspsam {way} | ratio" for way in ways) + " |",
        "|---" * (2 + 2 * len(ways)) + "|",
    ]
    for row, name in rows.items():
        source = numbers.get("folder" if row == "iv" else "authors", {})
        authors = source.get("authors iv" if row == "iv" else row)
        cells = [f"({row}) {name}", _number(authors)]
        for stage in ways.values():
            ours = source.get("iv") if row == "iv" and stage == "speed" else numbers.get(stage, {}).get(row)
            cells += [_number(ours), f"{authors / ours:.1f}" if authors and ours else "-"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def describe(device: torch.device) -> str:
    """Name the device and the versions that the numbers depend on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return f"{name}; PyTorch {torch.__version__}, NumPy {np.__version__}, Pillow {PIL.__version__}"


def main() -> None:
    """Parse the command line, run the stages, and print the table."""
    from benchmarks.gpu_checks import CHECKS
    from benchmarks.gpu_times import TIMES

    stages: dict[str, Stage] = {**CHECKS, **TIMES}
    arguments = _parser(list(stages)).parse_args()
    chosen = arguments.stages.split(",") if arguments.stages else list(stages)
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    bench = Bench(device, "336", arguments.reference)
    if arguments.quick:
        bench = Bench(device, "quick", arguments.reference, seconds=0.2, fewest=1)
    bench.say(f"{describe(device)}; size {bench.size}")
    for name in chosen:
        if time.perf_counter() - bench.started > arguments.limit:
            bench.numbers[name] = {"error": f"skipped: {arguments.limit} s are over"}
            bench.say(f"{name} skipped: {arguments.limit} s are over")
        else:
            run_stage(bench, name, stages[name])
        if arguments.output:
            data = {"device": describe(device), "size": bench.size, "stages": bench.numbers}
            arguments.output.write_text(json.dumps(data, indent=2) + "\n")
    failed = [name for name, numbers in bench.numbers.items() if "error" in numbers]
    bench.say(f"done; failed: {', '.join(failed) or 'none'}")
    print(f"\n{describe(device)}; size {bench.size}, random weights\n\n{table(bench.numbers)}", flush=True)
    sys.exit(1 if failed else 0)


def _parser(stages: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reference = os.environ.get("SSPSAM_REFERENCE")
    parser.add_argument("--device", help="default: the GPU, else the CPU")
    parser.add_argument("--quick", action="store_true", help="a small architecture and short measurements")
    parser.add_argument("--stages", help=f"names separated by commas; default: {','.join(stages)}")
    parser.add_argument("--reference", type=Path, default=Path(reference) if reference else None, help="golden files")
    parser.add_argument("--limit", type=float, default=230, help="seconds after which no stage starts")
    parser.add_argument("--output", type=Path, help="JSON file for the numbers, written after each stage")
    return parser


if __name__ == "__main__":
    # the stages import this module by its name
    from benchmarks.gpu import main as main_of_the_package

    main_of_the_package()
