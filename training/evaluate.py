"""Evaluate a model on held-out drawn scenes: `python -m training.evaluate MODEL --output numbers.json`.

The evaluation uses only the public API, at the original size of the images. The scenes come from `sspsam.shapes`, with
seeds that training does not use, and from a second renderer that shares no code with it.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sspsam import SSPSAMPredictor
from sspsam.shapes import ask, draw_scene
from training.second_renderer import scenes_and_questions

HELD_OUT_SEED = 900_000_000
RENDERERS = ("own", "second")


class LabelledExpression(NamedTuple):
    """A held-out expression, its kind, and the (h, w) bool mask of its targets."""

    text: str
    kind: str
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class Answer:
    """Score of a model's answer to one expression.

    Args:
        kind: kind of expression.
        has_target: True if the expression has a target.
        predicted_target: True if the model predicts a target.
        iou: intersection over union of the masks, 0 to 1; without a target, 1 if the model predicts none, else 0.
    """

    kind: str
    has_target: bool
    predicted_target: bool
    iou: float


def questions(
    renderer: str, scenes: int, per_scene: int
) -> Iterator[tuple[NDArray[np.uint8], list[LabelledExpression]]]:
    """Yield held-out images of a renderer, (h, w, 3) uint8 RGB, each with its expressions."""
    if renderer == "second":
        for pixels, labelled in scenes_and_questions(HELD_OUT_SEED, scenes, per_scene):
            yield pixels, [LabelledExpression(question.text, question.kind, question.mask) for question in labelled]
        return
    for number in range(scenes):
        rng = np.random.default_rng(HELD_OUT_SEED + number)
        scene = draw_scene(rng)
        yield (
            scene.pixels,
            [
                LabelledExpression(question.text, question.kind.removeprefix("no target: "), question.mask)
                for question in ask(scene, rng, per_scene)
            ],
        )


def answers(predictor: SSPSAMPredictor, renderer: str, scenes: int, per_scene: int) -> list[Answer]:
    """Score a model's answers to held-out expressions.

    Args:
        predictor: with the model.
        renderer: one of `RENDERERS`.
        scenes: number of scenes.
        per_scene: largest number of expressions for each scene.
    """
    results = []
    for pixels, expressions in questions(renderer, scenes, per_scene):
        if not expressions:
            continue
        predictor.set_image(pixels)
        predictions = predictor.predict([expression.text for expression in expressions])
        for expression, prediction in zip(expressions, predictions, strict=True):
            results.append(_scored(expression, prediction.mask, not prediction.no_target))
    return results


def _scored(expression: LabelledExpression, mask: NDArray[np.bool_], predicted_target: bool) -> Answer:
    has_target = bool(expression.mask.any())
    if not has_target:
        return Answer(expression.kind, has_target, predicted_target, float(not predicted_target))
    intersection, union = (expression.mask & mask).sum(), (expression.mask | mask).sum()
    return Answer(expression.kind, has_target, predicted_target, float(intersection / union))


def summary(results: list[Answer]) -> dict[str, Any]:
    """Metrics of a list of answers, over all of them and for each kind of expression.

    Returns:
        mIoU, Pr@k (share with an IoU above k) and T-acc over the expressions with a target, N-acc over those without
        one (gRefCOCO); and under `kinds` the number of expressions, mIoU and N-acc of each kind, None where undefined.
    """
    ious = np.array([answer.iou for answer in results if answer.has_target])
    numbers: dict[str, Any] = {
        "expressions": len(results),
        "mIoU": float(ious.mean()),
        **{f"Pr@{level}": float((ious > level).mean()) for level in (0.5, 0.7, 0.9)},
        "N-acc": float(np.mean([not answer.predicted_target for answer in results if not answer.has_target])),
        "T-acc": float(np.mean([answer.predicted_target for answer in results if answer.has_target])),
    }
    kinds = sorted({answer.kind for answer in results})
    numbers["kinds"] = {kind: _kind_summary([answer for answer in results if answer.kind == kind]) for kind in kinds}
    return numbers


def _kind_summary(results: list[Answer]) -> dict[str, float | int | None]:
    ious = [answer.iou for answer in results if answer.has_target]
    correct_rejections = [not answer.predicted_target for answer in results if not answer.has_target]
    return {
        "expressions": len(results),
        "mIoU": float(np.mean(ious)) if ious else None,
        "N-acc": float(np.mean(correct_rejections)) if correct_rejections else None,
    }


def table(numbers: dict[str, Any]) -> str:
    """The metrics of one renderer as Markdown."""
    metrics = ("mIoU", "Pr@0.5", "Pr@0.7", "Pr@0.9", "N-acc", "T-acc")
    lines = [f"| {' | '.join(metrics)} |", "|" + "---|" * len(metrics)]
    lines += [f"| {' | '.join(f'{numbers[metric]:.3f}' for metric in metrics)} |", ""]
    lines += ["| kind of expression | number | mIoU | N-acc |", "|---|---|---|---|"]
    for kind, values in numbers["kinds"].items():
        miou, n_acc = ("" if values[metric] is None else f"{values[metric]:.3f}" for metric in ("mIoU", "N-acc"))
        lines.append(f"| {kind} | {values['expressions']} | {miou} | {n_acc} |")
    return "\n".join(lines)


def main() -> None:
    """Parse the command line, evaluate, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help='a checkpoint folder, or "shapes" for the bundled model')
    parser.add_argument("--renderers", nargs="+", choices=RENDERERS, default=list(RENDERERS))
    parser.add_argument("--scenes", type=int, default=300, help="number of scenes of each renderer")
    parser.add_argument("--questions", type=int, default=10, help="expressions for each scene")
    parser.add_argument("--output", type=Path, help="JSON file for the metrics")
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
