"""How fast sspsam is, against the authors' way on stock modules, in one process with the same threads.

    python -m benchmarks                         # ViT-H + CLIP-L/14-336, random weights; 24 GB of memory, half an hour
    python -m benchmarks --dtype bfloat16        # our image encoders in mixed precision; the authors' way in float32
    python -m benchmarks --device cuda
    python -m benchmarks --size quick            # that it runs and agrees

Both ways take turns; times are medians, ratios are of medians. The authors' way (`benchmarks/authors_way.py`, which the
tests hold against the golden files) is given its SAM embedding once for each picture and computes the rest for every
expression, as their code does. Memory is the peak of a process that does (i) once, less what it held before. On a GPU
the authors' way uses TF32 where PyTorch does by default. Loading is measured by `python -m benchmarks.load`.
"""

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.authors_checkpoint import authors_state
from sspsam import SSPSAMPredictor
from sspsam.checkpoints.authors_layout import our_name, unused
from sspsam.config import PUBLISHED, Architecture, ModelConfig
from sspsam.models import SSPSAM
from sspsam.segmentation.result import Segmentation
from sspsam.shapes import draw_scene

from .authors_way import Answer, AuthorsWay

Times = list[float]
WORDS = (
    "red",
    "green",
    "large",
    "small",
    "left",
    "right",
    "top",
    "the",
    "of",
    "mug",
    "cat",
    "dog",
    "on",
    "near",
    "two",
)
FOLDER, EACH, MANY = 2, 3, 16  # pictures of the folder, expressions for each of them, expressions at once
FURTHER = 5  # expressions that are asked one by one; each is so quick that one alone would say little


def architecture(size: str) -> Architecture:
    """A published size, or one that is quick."""
    if size != "quick":
        return PUBLISHED[size]
    full = PUBLISHED["224"]
    sam = replace(full.sam, width=128, layers=2, heads=2, mlp_width=256, global_blocks=(1,))
    clip = replace(full.clip, vision_layers=7, vision_width=192, vision_heads=3, vision_mlp_width=768, text_layers=2)
    return replace(full, clip=clip, sam=sam)


def expressions(seed: int, count: int) -> list[str]:
    """Expressions that nobody has seen before."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, 6)) + f" {seed} {number}" for number in range(count)]


def picture(seed: int) -> Image.Image:
    """A drawn picture of a camera's proportions."""
    return Image.fromarray(draw_scene(seed, (720, 1080)).pixels)


class Ways:
    """Both ways with the same weights.

    Args:
        size: of the model.
        device: where both compute.
        dtype: of our image encoders.
        which: build only `"ours"` or `"authors"`, or `"both"`.
    """

    def __init__(self, size: str, device: str, dtype: str, which: str = "both") -> None:
        shape = architecture(size)
        state = authors_state(shape, seed=0, after_surgery=False)
        self.device = torch.device(device)
        if which != "ours":
            self.authors = AuthorsWay(state, shape.clip.surgery_layers).to(self.device)
        if which != "authors":
            with torch.device("meta"):
                model = SSPSAM(shape)
            used = set(state) - set(unused(state))
            model.load_state_dict({our_name(name): state[name] for name in used}, assign=True)
            self.ours = SSPSAMPredictor(model.requires_grad_(False), ModelConfig(shape), device=device, dtype=dtype)

    def synchronized(self, work: Callable[[], Any]) -> tuple[float, Any]:
        """Seconds, and what came of it."""
        self._wait()
        start = time.perf_counter()
        result = work()
        self._wait()
        return time.perf_counter() - start, result

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def first(ways: Ways, way: str, seed: int) -> Any:
    """(i) a new picture and its first expression."""
    [text] = expressions(seed, 1)
    if way == "ours":
        return ways.ours.predict(text, image=picture(seed), return_logits="low_res")
    return ways.authors(picture(seed), text)


class Race:
    """Lets both ways take turns and keeps their times.

    Args:
        ways: both.
    """

    def __init__(self, ways: Ways) -> None:
        self.ways = ways
        self.times: dict[str, dict[str, Times]] = {}

    def take(self, task: str, authors: Callable[[], Any], ours: Callable[[], Any]) -> tuple[Any, Any]:
        """What both made of a task; who begins changes from round to round."""
        results = {}
        both = [("authors", authors), ("ours", ours)]
        for way, work in both if len(self.times.get(task, {}).get("ours", [])) % 2 else both[::-1]:
            seconds, result = self.ways.synchronized(work)
            self.times.setdefault(task, {}).setdefault(way, []).append(seconds)
            results[way] = result
        return results["authors"], results["ours"]


def measure(ways: Ways, repeat: int) -> dict[str, Any]:
    """Times of every task, both ways in turn, and the largest difference of their logits."""
    race = Race(ways)
    first(ways, "authors", 0)  # warms up
    first(ways, "ours", 0)
    worst = max(_round(race, ways, seed) for seed in range(1, repeat + 1))  # each has its own pictures and expressions
    return {"times": race.times, "difference": worst}


def _round(race: Race, ways: Ways, seed: int) -> float:
    """Every task once; the largest difference of their logits."""
    image, [one, *others] = picture(seed), expressions(seed, 1 + FURTHER + MANY)
    answers = [
        race.take(
            "i",
            lambda: [ways.authors(image, one)],
            lambda: ways.ours.predict([one], image=image, return_logits="low_res"),
        )
    ]
    seen, kept = ways.authors.look(image), ways.ours.encode(image)
    ways.ours.predict("to make ready", embedding=kept)
    for task, texts in (*(("ii", [other]) for other in others[:FURTHER]), ("iii", others[FURTHER:])):
        pair = race.take(
            task,
            lambda texts=texts: [ways.authors(image, text, seen) for text in texts],
            lambda texts=texts: ways.ours.predict(texts, embedding=kept, return_logits="low_res"),
        )
        answers.append(pair)
    folder = [picture(1000 * (seed + 1) + number) for number in range(FOLDER)]
    asked = [expressions(7000 + 100 * seed + number, EACH) for number in range(FOLDER)]
    pair = race.take(
        "iv",
        lambda: [
            answer for each, texts in zip(folder, asked, strict=True) for answer in _all(ways.authors, each, texts)
        ],
        lambda: [
            answer for results in ways.ours.predict_batch(folder, asked, return_logits="low_res") for answer in results
        ],
    )
    return max(_difference(*each) for each in (*answers, pair))


def _all(authors: AuthorsWay, image: Image.Image, texts: list[str]) -> list[Answer]:
    seen = authors.look(image)
    return [authors(image, text, seen) for text in texts]


def _difference(theirs: list[Answer], ours: list[Segmentation]) -> float:
    return max(
        float((one.low_res.cpu() - torch.from_numpy(other.low_res_logits)).abs().max())
        for one, other in zip(theirs, ours, strict=True)
    )


def peak(size: str, device: str, dtype: str, way: str) -> int:
    """Bytes that (i) takes beyond what was held before it; in a process of its own, on Linux or a GPU."""
    ways = Ways(size, device, dtype, way)
    if ways.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        first(ways, way, 1)
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of building the model
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # what is free already must not count for either
    before = _resident("VmRSS")
    first(ways, way, 1)
    return _resident("VmHWM") - before


def _resident(name: str) -> int:
    """VmRSS: bytes of memory held now; VmHWM: the most that were held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["336", "224", "quick"], default="336")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", help="of our image encoders")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, help="None: as PyTorch has it")
    parser.add_argument("--output", type=Path, help="JSON file for the numbers")
    parser.add_argument("--peak", choices=["ours", "authors"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.peak:
        print(peak(arguments.size, arguments.device, arguments.dtype, arguments.peak))
        return
    peaks = {}
    for way in ("authors", "ours"):
        command = [sys.executable, "-m", "benchmarks", "--peak", way, "--size", arguments.size]
        command += ["--device", arguments.device, "--dtype", arguments.dtype]
        command += ["--threads", str(torch.get_num_threads())]
        peaks[way] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
    numbers = measure(Ways(arguments.size, arguments.device, arguments.dtype), arguments.repeat) | {"peak": peaks}
    print(report(numbers, arguments))
    if arguments.output:
        arguments.output.write_text(json.dumps(numbers | {"command": " ".join(sys.argv[1:])}, indent=2) + "\n")


def report(numbers: dict[str, Any], arguments: argparse.Namespace) -> str:
    """The table of the README."""
    named = {
        "i": "new picture, first expression",
        "ii": "a further expression",
        "iii": f"{MANY} expressions",
        "iv": f"folder of {FOLDER}, {EACH} expressions each",
    }
    lines = [
        f"size {arguments.size}, {arguments.device}, {torch.get_num_threads()} threads, ours {arguments.dtype}, "
        f"authors' way float32, PyTorch {torch.__version__}; largest difference of logits {numbers['difference']:.1e}",
        "",
        "| | authors' way | sspsam | ratio |",
        "|---|---|---|---|",
    ]
    for task, name in named.items():
        theirs, ours = (statistics.median(numbers["times"][task][way]) for way in ("authors", "ours"))
        lines.append(f"| ({task}) {name} | {theirs:.3f} s | {ours:.3f} s | {theirs / ours:.2f} |")
    theirs, ours = (numbers["peak"][way] / 1e9 for way in ("authors", "ours"))
    lines.append(
        f"| memory of (i) beyond the weights | {theirs:.2f} GB | {ours:.2f} GB | {theirs / max(ours, 1e-9):.2f} |"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
