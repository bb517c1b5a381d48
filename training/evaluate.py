"""Measures a model on scenes that no training saw: `python -m training.evaluate MODEL --output numbers.json`.

Through the public API alone, at the pictures' own size, on the library's scenes of other seeds and on those of a second
renderer that shares no code with the first.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sspsam import SSPSAMPredictor
from sspsam.shapes import ask, draw_scene
from training.second_renderer import scenes_and_questions

HELD_OUT_SEED = 900_000_000
_RENDERERS = ("own", "second")


@dataclass(frozen=True)
class Answer:
    """How one question was answered.

    Args:
        kind: of expression.
        target: whether there is one.
        said_target: whether the model said so.
        iou: of the masks, 0 to 1; where there is no target, 1 if the model said so.
    """

    kind: str
    target: bool
    said_target: bool
    iou: float


def questions(renderer: str, count: int, each: int) -> Iterator[tuple[NDArray[np.uint8], list[tuple[str, str, Any]]]]:
    """Held-out pictures of a renderer, each with (text, kind, mask) of its questions."""
    if renderer == "second":
        for pixels, asked in scenes_and_questions(HELD_OUT_SEED, count, each):
            yield pixels, [(one.text, one.kind, one.mask) for one in asked]
        return
    for number in range(count):
        rng = np.random.default_rng(HELD_OUT_SEED + number)
        scene = draw_scene(rng)
        found = ask(scene, rng, each)
        yield scene.pixels, [(one.text, one.kind.removeprefix("no target: "), one.mask) for one in found]


def answers(predictor: SSPSAMPredictor, renderer: str, count: int, each: int) -> list[Answer]:
    """A model's answers to held-out questions."""
    results = []
    for pixels, asked in questions(renderer, count, each):
        if not asked:
            continue
        predictor.set_image(pixels)
        for (_, kind, mask), found in zip(asked, predictor.predict([text for text, _, _ in asked]), strict=True):
            target = bool(mask.any())
            both, either = (mask & found.mask).sum(), (mask | found.mask).sum()
            iou = both / either if target else float(found.no_target)
            results.append(Answer(kind, target, not found.no_target, float(iou)))
    return results


def summary(results: list[Answer]) -> dict[str, Any]:
    """The usual numbers: mIoU and Pr@k over expressions with a target, N-acc, T-acc (gRefCOCO), and every kind."""
    ious = np.array([each.iou for each in results if each.target])
    without = [not each.said_target for each in results if not each.target]
    numbers: dict[str, Any] = {
        "expressions": len(results),
        "mIoU": float(ious.mean()),
        **{f"Pr@{level}": float((ious > level).mean()) for level in (0.5, 0.7, 0.9)},
        "N-acc": float(np.mean(without)),
        "T-acc": float(np.mean([each.said_target for each in results if each.target])),
    }
    kinds = sorted({each.kind for each in results})
    numbers["kinds"] = {kind: _of_kind([each for each in results if each.kind == kind]) for kind in kinds}
    return numbers


def _of_kind(results: list[Answer]) -> dict[str, float | int | None]:
    ious = [each.iou for each in results if each.target]
    without = [not each.said_target for each in results if not each.target]
    return {
        "expressions": len(results),
        "mIoU": float(np.mean(ious)) if ious else None,
        "N-acc": float(np.mean(without)) if without else None,
    }


def table(numbers: dict[str, Any]) -> str:
    """The numbers of one renderer as Markdown."""
    heads = ("mIoU", "Pr@0.5", "Pr@0.7", "Pr@0.9", "N-acc", "T-acc")
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    lines += [f"| {' | '.join(f'{numbers[head]:.3f}' for head in heads)} |", ""]
    lines += ["| kind of expression | number | mIoU | N-acc |", "|---|---|---|---|"]
    for kind, each in numbers["kinds"].items():
        miou, n_acc = ("" if each[key] is None else f"{each[key]:.3f}" for key in ("mIoU", "N-acc"))
        lines.append(f"| {kind} | {each['expressions']} | {miou} | {n_acc} |")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help='a folder, or "shapes" for the bundled model')
    parser.add_argument("--renderers", nargs="+", choices=_RENDERERS, default=list(_RENDERERS))
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--questions", type=int, default=10, help="asked about each scene")
    parser.add_argument("--output", type=Path, help="JSON file for the numbers")
    arguments = parser.parse_args()
    predictor = SSPSAMPredictor.from_pretrained(arguments.model)
    numbers = {}
    for renderer in arguments.renderers:
        numbers[renderer] = summary(answers(predictor, renderer, arguments.scenes, arguments.questions))
        print(f"\n{renderer} renderer\n\n{table(numbers[renderer])}", flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    main()
