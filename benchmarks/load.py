"""How long loading takes and how much memory it needs, against random initialisation plus copying.

    python -m benchmarks.load                      # the published 336 size, random weights, needs 5 GB of disk
    python -m benchmarks.load --variant tiny       # that it runs
    python -m benchmarks.load --checkpoint DIR     # weights of your own

Both ways run in processes of their own, in turn, until every tensor has been read once; the file is in the page cache.
Time starts when the libraries have been imported. Peak memory is the process's largest resident set.
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

WAYS = {
    "sspsam": "load_checkpoint: built without storage, file mapped",
    "sspsam, verify=True": "the same, and the SHA-256 of the whole file",
    "baseline": "SSPSAM(config) with PyTorch's random initialisation, safetensors' load_file, load_state_dict",
}


def measure(way: str, directory: Path) -> dict[str, float]:
    """Load once in this process; seconds and the peak memory in bytes."""
    import safetensors.torch
    import torch

    from sspsam.checkpoints.format import load_checkpoint, read_config
    from sspsam.models import SSPSAM

    start = time.perf_counter()
    if way == "baseline":
        model = SSPSAM(read_config(directory).architecture)
        model.load_state_dict(safetensors.torch.load_file(directory / "model.safetensors"))
    else:
        model, _ = load_checkpoint(directory, verify=True if way.endswith("verify=True") else None)
    with torch.no_grad():
        total = sum(float(tensor.sum()) for tensor in model.state_dict().values())
    seconds = time.perf_counter() - start
    scale = 1 if sys.platform == "darwin" else 1024  # kilobytes everywhere else
    return {"seconds": seconds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale, "total": total}


def make(variant: str, directory: Path) -> None:
    """A checkpoint of random weights."""
    import torch

    from sspsam.checkpoints.format import save_checkpoint
    from sspsam.config import PUBLISHED, Architecture, CLIPConfig, ModelConfig, SAMConfig, SSPConfig
    from sspsam.models import SSPSAM

    tiny = Architecture(
        CLIPConfig(32, 8, 32, 2, 2, 64, 1, 32, 32, 1, 2, 64),
        SAMConfig(64, 16, 32, 2, 2, 64, 2, (1,), 32, decoder_mlp_width=64),
        SSPConfig(32, 2, prompts=4, generator_layers=1, generator_heads=2, generator_mlp_width=64),
    )
    torch.manual_seed(0)
    config = ModelConfig(PUBLISHED.get(variant, tiny), source="random weights of benchmarks/load.py")
    save_checkpoint(directory, config, SSPSAM(config.architecture).state_dict())


def in_a_process(*arguments: str) -> str:
    """Run this module anew, so that neither memory nor imports of one way help another."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    return done.stdout


def compare(directory: Path, repeat: int) -> str:
    """Measure all ways in turn and return the table."""
    size = (directory / "model.safetensors").stat().st_size
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(repeat):
        for way, results in runs.items():
            results.append(json.loads(in_a_process("--one", way, "--checkpoint", str(directory))))
    totals = {result["total"] for results in runs.values() for result in results}
    if len(totals) != 1:
        raise RuntimeError(f"the ways do not load the same numbers: {totals}")
    median = {way: statistics.median(run["seconds"] for run in results) for way, results in runs.items()}
    lines = [f"file {size / 1e9:.2f} GB, {repeat} runs each, medians", "", "| way | s | of baseline | peak / file |"]
    lines.append("|---|---|---|---|")
    for way, results in runs.items():
        peak = max(run["peak"] for run in results) / size
        lines.append(f"| {way} | {median[way]:.2f} | {median[way] / median['baseline']:.2f} | {peak:.2f} |")
    return "\n".join([*lines, "", *(f"{way}: {about}" for way, about in WAYS.items())])


def main() -> None:
    """Parse the command line, make a checkpoint if none is given, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=["336", "224", "tiny"], default="336")
    parser.add_argument("--checkpoint", type=Path, help="a checkpoint directory (default: random weights)")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--one", choices=list(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--make", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.checkpoint)))
    elif arguments.make:
        make(arguments.variant, arguments.checkpoint)
    elif arguments.checkpoint:
        print(compare(arguments.checkpoint, arguments.repeat))
    else:
        with tempfile.TemporaryDirectory() as folder:
            in_a_process("--make", "--variant", arguments.variant, "--checkpoint", folder)
            print(compare(Path(folder), arguments.repeat))


if __name__ == "__main__":
    main()
