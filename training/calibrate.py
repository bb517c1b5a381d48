"""Calibrate the bundled model and measure the calibration: `python -m training.calibrate [sspsam/bundled/shapes]`.

The calibration is fitted on drawings of `sspsam.shapes`, with seeds that neither training nor evaluation uses, and is
written beside the weights. It is measured on questions of the second renderer, which the fit does not see, and on pairs
of questions that differ in one attribute. The records of the answers are kept in a folder, one file for some scenes, so
that an interrupted run continues.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sspsam import SSPSAMPredictor
from sspsam.errors import EvaluationError
from sspsam.evaluation.calibration import fit_calibration, labelled_features
from sspsam.evaluation.presence import auroc, expected_calibration_error, matthews_correlation
from sspsam.evaluation.protocols import image_record
from sspsam.evaluation.records import Record, read_records, write_records
from sspsam.segmentation.calibration import Calibration, write_calibration
from sspsam.segmentation.features import FEATURES
from sspsam.shapes import ask, draw_scene
from training.evaluate import HELD_OUT_SEED
from training.hard_negatives import scenes_and_pairs
from training.second_renderer import scenes_and_questions

FIT_SEED: Final = 800_000_000
_RULE_PIXELS: Final = 50  # of the authors' rule
_QUESTIONS: Final = 10  # about each scene
_SCENES_OF_A_FILE: Final = 25
Labelled = tuple[NDArray[np.uint8], list[tuple[str, NDArray[np.bool_]]]]


@dataclass(frozen=True)
class Questions:
    """A source of questions.

    Args:
        name: of its files.
        scenes: number of scenes.
        draw: returns scene i, an (h, w, 3) image, with its expressions and the (h, w) masks of their targets.
    """

    name: str
    scenes: int
    draw: Callable[[int], Labelled]


def own_scene(index: int) -> Labelled:
    """Draw scene i of the fit with `sspsam.shapes`."""
    rng = np.random.default_rng(FIT_SEED + index)
    scene = draw_scene(rng)
    return scene.pixels, [(question.text, question.mask) for question in ask(scene, rng, _QUESTIONS)]


def second_scene(index: int) -> Labelled:
    """Draw scene i of the second renderer."""
    [(pixels, questions)] = scenes_and_questions(HELD_OUT_SEED + index, 1, _QUESTIONS)
    return pixels, [(question.text, question.mask) for question in questions]


def hard_scene(index: int) -> Labelled:
    """Draw scene i with pairs of questions that differ in one attribute."""
    [(pixels, questions)] = scenes_and_pairs(HELD_OUT_SEED + index, 1, _QUESTIONS // 2)
    return pixels, [(question.text, question.mask) for question in questions]


def answered(predictor: SSPSAMPredictor, questions: Questions, folder: Path) -> list[Record]:
    """Return the records of all questions of a source; files of records in the folder are not computed again."""
    records: list[Record] = []
    for first in range(0, questions.scenes, _SCENES_OF_A_FILE):
        last = min(first + _SCENES_OF_A_FILE, questions.scenes)
        path = folder / f"{questions.name}-{first}-{last}.jsonl"
        if not path.exists():
            made = [record for index in range(first, last) for record in _scene_records(predictor, questions, index)]
            temporary = path.with_suffix(".tmp")
            write_records(made, temporary)
            temporary.rename(path)
            print(f"{questions.name}: {last} of {questions.scenes} scenes", flush=True)
        records += read_records(path)
    return records


def _scene_records(predictor: SSPSAMPredictor, questions: Questions, index: int) -> Iterator[Record]:
    pixels, labelled = questions.draw(index)
    if not labelled:
        return
    answers = predictor.predict([text for text, _ in labelled], image=pixels, return_features=True)
    for number, ((text, mask), answer) in enumerate(zip(labelled, answers, strict=True)):
        record = image_record(index * 100 + number, mask, answer.mask, predicted_no_target=answer.no_target)
        yield replace(
            record,
            foreground_pixels=answer.foreground_pixels,
            image=f"{questions.name} {index}",
            text=text,
            features=answer.features,
            fingerprint=predictor.fingerprint,
        )


def measured(records: Sequence[Record], calibration: Calibration) -> dict[str, Any]:
    """Return the numbers of the calibrated probability and of the rule about pixels.

    `right` is the share of right decisions, N-acc that among the expressions without a target, T-acc among the others.
    """
    data = labelled_features(records, calibration.fingerprint)
    probability, present = calibration.probabilities(data.features), data.present
    count = data.features[:, FEATURES.index("foreground_pixels")]
    corrected = _with_share(
        probability, calibration.present / (calibration.present + calibration.absent), present.mean()
    )
    rule = count >= _RULE_PIXELS
    return {
        "questions": len(present),
        "absent": int((~present).sum()),
        "AUROC": auroc(present, probability),
        "AUROC of the count": auroc(present, count),
        "AUROC of the 50-pixel decision": auroc(present, rule.astype(float)),
        "ECE": expected_calibration_error(present, probability),
        "ECE, corrected for the share of targets": expected_calibration_error(present, corrected),
        **_decision("50-pixel rule", present, rule),
        **_decision("probability >= 0.5", present, probability >= 0.5),
        **_decision("corrected >= 0.5", present, corrected >= 0.5),
        **_decision("probability >= 0.9", present, probability >= 0.9),
    }


def _with_share(probability: NDArray[np.float64], fitted: float, used: float) -> NDArray[np.float64]:
    """Return probabilities of a fit with one share of targets for data with another share (`docs/evaluation.md`)."""
    odds = probability * (used * (1 - fitted)) / (fitted * (1 - used))
    return np.asarray(odds / (odds + 1 - probability))


def _decision(name: str, present: NDArray[np.bool_], decided: NDArray[np.bool_]) -> dict[str, float | None]:
    return {
        f"{name}: right": float((present == decided).mean()),
        f"{name}: MCC": matthews_correlation(present, decided),
        f"{name}: N-acc": float((~decided)[~present].mean()),
        f"{name}: T-acc": float(decided[present].mean()),
    }


def table(columns: dict[str, dict[str, Any]]) -> str:
    """Return numbers as a Markdown table with a column for each set of questions."""
    names = list(next(iter(columns.values())))
    lines = [f"| | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for name in names:
        values = (column[name] for column in columns.values())
        cells = (
            "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4f}" for value in values
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def calibrate(model: Path, fit_scenes: int, scenes: int, hard_scenes: int, folder: Path) -> str:
    """Fit and store the calibration of a checkpoint, and return the table of its numbers.

    Args:
        model: directory of the checkpoint, in which `calibration.json` is written.
        fit_scenes, scenes, hard_scenes: numbers of scenes of the fit, of the second renderer, and with pairs.
        folder: of the records.
    """
    predictor = SSPSAMPredictor.from_pretrained(model, device="cpu", calibration=False)
    folder = folder / predictor.fingerprint[:16]
    folder.mkdir(parents=True, exist_ok=True)
    own = answered(predictor, Questions("own", fit_scenes, own_scene), folder)
    calibration = fit_calibration(labelled_features(own, predictor.fingerprint), predictor.fingerprint)
    print(write_calibration(calibration, model), flush=True)
    held_out = {
        "second renderer": Questions("second", scenes, second_scene),
        "one attribute changed": Questions("hard", hard_scenes, hard_scene),
    }
    columns = {
        name: measured(answered(predictor, questions, folder), calibration)
        for name, questions in held_out.items()
        if questions.scenes
    }
    return table({"own world (the fit)": measured(own, calibration), **columns})


def main() -> None:
    """Parse the command line, fit, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=Path("sspsam/bundled/shapes"), help="checkpoint folder")
    parser.add_argument("--fit-scenes", type=int, default=400, help="scenes of the fit, with 10 questions each")
    parser.add_argument("--scenes", type=int, default=400, help="scenes of the second renderer, with 10 questions each")
    parser.add_argument("--hard-scenes", type=int, default=200, help="scenes with 5 pairs of questions each")
    parser.add_argument(
        "--records", type=Path, default=Path(tempfile.gettempdir()) / "sspsam-calibrate", help="folder of the records"
    )
    arguments = parser.parse_args()
    try:
        print(
            calibrate(arguments.model, arguments.fit_scenes, arguments.scenes, arguments.hard_scenes, arguments.records)
        )
    except EvaluationError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
