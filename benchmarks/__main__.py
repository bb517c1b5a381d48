"""Speed and memory of sspsam against the authors' way on stock modules, in one process with the same threads.

    python -m benchmarks                       # ViT-H + CLIP-L/14-336, random weights; 24 GB of memory, half an hour
    python -m benchmarks --dtype bfloat16      # sspsam's image encoders in mixed precision; the authors' way in float32
    python -m benchmarks --device cuda
    python -m benchmarks --size quick          # a quick run that checks that both agree

Both implementations alternate; times are medians, ratios are ratios of medians. The authors' way
(`benchmarks/authors_way.py`, which the tests compare with the golden files) encodes each image with SAM once and
computes everything else for every expression, as the authors' code does. Memory is the peak of a process that runs task
(i) once, without the memory that it held before. On a GPU the authors' way uses TF32 where PyTorch does by default.
`python -m benchmarks.load` measures loading.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed import (
    FOLDER_EXPRESSIONS,
    FOLDER_IMAGES,
    IMPLEMENTATIONS,
    MANY,
    Setting,
    compare,
    peak_memory,
)


def main() -> None:
    """Parse the command line, measure, and print the table."""
    arguments = _parser().parse_args()
    setting = Setting(arguments.size, arguments.device, arguments.dtype)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.peak:
        print(peak_memory(setting, arguments.peak))
        return
    peaks = {implementation: _peak_in_subprocess(setting, implementation) for implementation in IMPLEMENTATIONS}
    times, difference = compare(setting, arguments.repeat)
    numbers = {"times": times, "difference": difference, "peak": peaks}
    print(report(numbers, setting))
    if arguments.output:
        arguments.output.write_text(json.dumps(numbers | {"command": " ".join(sys.argv[1:])}, indent=2) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["336", "224", "quick"], default="336")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", help="of sspsam's image encoders")
    parser.add_argument("--repeat", type=int, default=3, help="number of rounds")
    parser.add_argument("--threads", type=int, help="default: PyTorch's number")
    parser.add_argument("--output", type=Path, help="JSON file for the numbers")
    parser.add_argument("--peak", choices=IMPLEMENTATIONS, help=argparse.SUPPRESS)
    return parser


def _peak_in_subprocess(setting: Setting, implementation: str) -> int:
    command = [sys.executable, "-m", "benchmarks", "--peak", implementation, "--size", setting.size]
    command += ["--device", setting.device, "--dtype", setting.dtype, "--threads", str(torch.get_num_threads())]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


def report(numbers: dict[str, Any], setting: Setting) -> str:
    """The numbers as the table of the README."""
    tasks = {
        "i": "new image, first expression",
        "ii": "a further expression",
        "iii": f"{MANY} expressions",
        "iv": f"folder of {FOLDER_IMAGES}, {FOLDER_EXPRESSIONS} expressions each",
    }
    lines = [
        f"size {setting.size}, {setting.device}, {torch.get_num_threads()} threads, sspsam {setting.dtype}, "
        f"authors' way float32, PyTorch {torch.__version__}; largest difference of logits {numbers['difference']:.1e}",
        "",
        "| | authors' way | sspsam | ratio |",
        "|---|---|---|---|",
    ]
    for task, name in tasks.items():
        authors, sspsam = (statistics.median(numbers["times"][task][key]) for key in IMPLEMENTATIONS)
        lines.append(f"| ({task}) {name} | {authors:.3f} s | {sspsam:.3f} s | {authors / sspsam:.2f} |")
    authors, sspsam = (numbers["peak"][key] / 1e9 for key in IMPLEMENTATIONS)
    ratio = authors / max(sspsam, 1e-9)
    lines.append(f"| memory of (i) beyond the weights | {authors:.2f} GB | {sspsam:.2f} GB | {ratio:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
