"""Parity, robustness, memory and speed on a GPU: `python -m benchmarks.gpu [--output numbers.json]`.

    python -m benchmarks.gpu                           # the published 336 size, random weights, under four minutes
    python -m benchmarks.gpu --stages memory,speed     # some stages only
    python -m benchmarks.gpu --quick --device cpu      # a small architecture: a dry run without a GPU

The checks compare with the golden files (those in `tests/data`, and those in the folder that `--reference` or
`SSPSAM_REFERENCE` names), recorded graphs with eager execution, threads with one thread, and half precision with
float32. The times are compared with the authors' way (`benchmarks/authors_way.py`) in float32, in the same run, with
TF32 where PyTorch uses it by default, and those of the package's own kernels with PyTorch's operators. Each stage
prints its numbers when they are measured; a stage that fails prints the end of its traceback, and the next one starts.
The exit status is 1 if a stage failed.
"""

import argparse
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import PIL
import torch

from benchmarks.gpu_bench import Bench, Numbers, Stage
from benchmarks.gpu_checks import CHECKS
from benchmarks.gpu_kernels import KERNELS
from benchmarks.gpu_times import TIMES
from sspsam.devices import checked_device
from sspsam.errors import DeviceError

STAGE_SECONDS: Final = 75


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
    """Times and ratios as the Markdown table of docs/speed.md; a dash where nothing was measured."""
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
    stages: dict[str, Stage] = {**CHECKS, **TIMES, **KERNELS}
    parser = _parser(list(stages))
    arguments = parser.parse_args()
    chosen = arguments.stages.split(",") if arguments.stages else list(stages)
    if unknown := set(chosen) - set(stages):
        parser.error(f"--stages: there is no {', '.join(sorted(unknown))}; the stages are {', '.join(stages)}")
    try:
        device = checked_device(arguments.device)
    except DeviceError as error:
        parser.error(str(error))
    if device.type == "cpu" and not (arguments.device or arguments.quick):
        parser.error("PyTorch finds no GPU; a dry run on the CPU is --quick --device cpu")
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
    parser.add_argument("--device", help="default: the GPU")
    parser.add_argument("--quick", action="store_true", help="a small architecture and short measurements")
    parser.add_argument("--stages", help=f"names separated by commas; default: {','.join(stages)}")
    parser.add_argument("--reference", type=Path, default=Path(reference) if reference else None, help="golden files")
    parser.add_argument("--limit", type=float, default=230, help="seconds after which no stage starts")
    parser.add_argument("--output", type=Path, help="JSON file for the numbers, written after each stage")
    return parser


if __name__ == "__main__":
    main()
