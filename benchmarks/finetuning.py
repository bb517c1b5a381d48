"""A new shape and colour, learned by the bundled model with default options: `python -m benchmarks.finetuning`.

Writes 240 lines about brown crescents (`benchmarks/new_shape.py`), runs `sspsam finetune lines.jsonl --model shapes`,
and measures both models on images that neither the training nor its held-out part has seen:

- new: mIoU of lines about crescents, and N-acc of those that refer to nothing;
- foreign: share of foreign phrases about these images that are answered with no target;
- known: mIoU and N-acc of the expressions of `python -m training.evaluate`, the library's own scenes.

`--corrupted 0.1` gives a tenth of the lines the mask of another image, `--first-seed 5000` writes other lines. The exit
status is 1 where a limit is missed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.new_shape import images, write_lines
from sspsam import SSPSAMPredictor
from training.evaluate import answers, summary

_FIRST_TEST_SEED: Final = 1_000_000
FOREIGN_PHRASES: Final = ("the wooden chair", "a dog", "the rusty anchor", "a penguin")


def measure(model: str, test_images: int, known_scenes: int) -> dict[str, Any]:
    """Return the numbers of a model.

    Args:
        model: name or folder.
        test_images: number of images of the new things.
        known_scenes: number of scenes of the known things.
    """
    predictor = SSPSAMPredictor.from_pretrained(model, device="cpu", dtype="float32")
    ious, rejected, foreign = [], [], []
    for image in images(test_images, _FIRST_TEST_SEED):
        embedding = predictor.encode(image.pixels)
        texts = [text for text, _ in image.questions]
        results = predictor.predict([*texts, *FOREIGN_PHRASES], embedding=embedding)
        for (_, mask), result in zip(image.questions, results, strict=False):
            if mask.any():
                ious.append(float((mask & result.mask).sum() / (mask | result.mask).sum()))
            else:
                rejected.append(result.no_target)
        foreign += [result.no_target for result in results[len(texts) :]]
    known = summary(answers(predictor, "own", known_scenes, 10))
    return {
        "new": {"mIoU": float(np.mean(ious)), "n": len(ious), "N-acc": float(np.mean(rejected)) if rejected else None},
        "foreign": {"N-acc": float(np.mean(foreign)), "n": len(foreign)},
        "known": {name: known[name] for name in ("mIoU", "N-acc", "T-acc", "expressions")},
    }


def missed(before: dict[str, Any], after: dict[str, Any], corrupted: bool) -> Iterator[str]:
    """Yield each limit that was missed."""
    if before["new"]["mIoU"] >= 0.1:
        yield "the model knows the new thing already"
    if after["new"]["mIoU"] <= (0.5 if corrupted else 0.85):
        yield f"the new thing is at {after['new']['mIoU']:.3f}"
    if after["known"]["mIoU"] < before["known"]["mIoU"] - 0.02:
        yield f"what it knew fell from {before['known']['mIoU']:.3f} to {after['known']['mIoU']:.3f}"
    if after["known"]["N-acc"] <= 0.95:
        yield f"its N-acc fell from {before['known']['N-acc']:.3f} to {after['known']['N-acc']:.3f}"
    if after["foreign"]["N-acc"] < 0.9:
        yield f"foreign phrases are answered with a mask in {1 - after['foreign']['N-acc']:.1%} of the cases"


def main() -> None:
    """Parse the command line, fine-tune, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=240)
    parser.add_argument("--corrupted", type=float, default=0.0, help="share of the lines with a wrong mask")
    parser.add_argument("--first-seed", type=int, default=0, help="of the images that the lines are about")
    parser.add_argument("--test-images", type=int, default=250)
    parser.add_argument("--known-scenes", type=int, default=300)
    parser.add_argument("--output", type=Path, help="folder for the lines and the model; default: a temporary one")
    parser.add_argument("options", nargs="*", help="further options of sspsam finetune, after --")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.output or Path(temporary)
        lines = write_lines(folder / "lines", arguments.lines, arguments.first_seed, arguments.corrupted)
        begin = time.monotonic()
        command = [
            sys.executable,
            "-m",
            "sspsam",
            "finetune",
            str(lines),
            "--model",
            "shapes",
            "-o",
            str(folder / "model"),
        ]
        subprocess.run([*command, "--cache", str(folder / "embeddings"), *arguments.options], check=True)
        seconds = time.monotonic() - begin
        numbers = {
            name: measure(model, arguments.test_images, arguments.known_scenes)
            for name, model in (("before", "shapes"), ("after", str(folder / "model")))
        }
    print(json.dumps(numbers | {"seconds": round(seconds), "corrupted": arguments.corrupted}, indent=2))
    problems = list(missed(numbers["before"], numbers["after"], arguments.corrupted > 0))
    print("\n".join(problems) or "all limits are kept")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
