"""Time and memory of loading a checkpoint, against random initialisation followed by copying.

    python -m benchmarks.load                      # the published 336 size, random weights; needs 5 GB of disk
    python -m benchmarks.load --variant tiny       # a quick run
    python -m benchmarks.load --checkpoint DIR     # an existing checkpoint

Each method runs in its own process, alternating with the others, until every tensor has been read once; the file is in
the page cache. The time starts after the imports. Peak memory is the largest resident set of the process.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

METHODS: Final = {
    "sspsam": "load_checkpoint: built without storage, file mapped",
    "sspsam, verify=True": "the same, and the SHA-256 of the whole file",
    "baseline": "SSPSAM(config) with PyTorch's random initialisation, safetensors' load_file, load_state_dict",
}


def measure(method: str, directory: Path) -> dict[str, float]:
    """Load a checkpoint once in this process.

    Returns:
        `seconds`, the `peak` of memory in bytes, and the `total` of all weights.
    """
    import safetensors.torch
    import torch

    from sspsam.checkpoints.format import load_checkpoint, read_config
    from sspsam.models import SSPSAM

    start = time.perf_counter()
    if method == "baseline":
        model = SSPSAM(read_config(directory).architecture)
        model.load_state_dict(safetensors.torch.load_file(directory / "model.safetensors"))
    else:
        model, _ = load_checkpoint(directory, verify=True if method.endswith("verify=True") else None)
    with torch.no_grad():
        total = sum(float(tensor.sum()) for tensor in model.state_dict().values())
    seconds = time.perf_counter() - start
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS and in kilobytes elsewhere
    return {"seconds": seconds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "total": total}


def write_random_checkpoint(variant: str, directory: Path) -> None:
    """Write a checkpoint of random weights."""
    import torch

    from benchmarks.authors_checkpoint import tiny_architecture
    from sspsam.checkpoints.format import save_checkpoint
    from sspsam.config import PUBLISHED, ModelConfig
    from sspsam.models import SSPSAM

    torch.manual_seed(0)
    architecture = tiny_architecture() if variant == "tiny" else PUBLISHED[variant]
    config = ModelConfig(architecture, source="random weights of benchmarks/load.py")
    save_checkpoint(directory, config, SSPSAM(architecture).state_dict())


def run_in_subprocess(*arguments: str) -> str:
    """Run this module in a new process, so that memory and imports of one method do not affect another."""
    command = [sys.executable, "-m", "benchmarks.load", *arguments]
    root = Path(__file__).parents[1]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=root).stdout


def compare(directory: Path, repeat: int) -> str:
    """Measure all methods alternately.

    Args:
        directory: the checkpoint.
        repeat: number of runs of each method.

    Returns:
        The table as Markdown.

    Raises:
        RuntimeError: the methods load different weights.
    """
    runs: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
    for _ in range(repeat):
        for method, results in runs.items():
            output = run_in_subprocess("--one", method, "--checkpoint", str(directory.resolve()))
            results.append(json.loads(output))
    totals = {result["total"] for results in runs.values() for result in results}
    if len(totals) != 1:
        raise RuntimeError(f"the methods load different weights from {directory}: their sums are {sorted(totals)}")
    return _table(runs, (directory / "model.safetensors").stat().st_size)


def _table(runs: dict[str, list[dict[str, float]]], size: int) -> str:
    """Medians and peaks of the runs as Markdown; `size` is that of the file in bytes."""
    repeat = len(runs["baseline"])
    medians = {method: statistics.median(run["seconds"] for run in results) for method, results in runs.items()}
    lines = [f"file {size / 1e9:.2f} GB, {repeat} runs each, medians", "", "| way | s | of baseline | peak / file |"]
    lines.append("|---|---|---|---|")
    for method, results in runs.items():
        peak = max(run["peak"] for run in results) / size
        lines.append(f"| {method} | {medians[method]:.2f} | {medians[method] / medians['baseline']:.2f} | {peak:.2f} |")
    return "\n".join([*lines, "", *(f"{method}: {description}" for method, description in METHODS.items())])


def main() -> None:
    """Parse the command line, write a random checkpoint if none is given, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=["336", "224", "tiny"], default="336")
    parser.add_argument("--checkpoint", type=Path, help="a checkpoint directory (default: random weights)")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each method")
    parser.add_argument("--one", choices=list(METHODS), help=argparse.SUPPRESS)
    parser.add_argument("--make", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.checkpoint)))
    elif arguments.make:
        write_random_checkpoint(arguments.variant, arguments.checkpoint)
    elif arguments.checkpoint:
        print(compare(arguments.checkpoint, arguments.repeat))
    else:
        with tempfile.TemporaryDirectory() as folder:
            run_in_subprocess("--make", "--variant", arguments.variant, "--checkpoint", folder)
            print(compare(Path(folder), arguments.repeat))


if __name__ == "__main__":
    main()
