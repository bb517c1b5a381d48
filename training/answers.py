"""Store the answers that `sspsam check` compares with: `python -m training.answers [sspsam/bundled/shapes]`.

The model answers in float32 on the CPU. `training.export` does this for every model that it writes, since the answers
are bound to the weights.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sspsam import SSPSAMPredictor
from sspsam.evaluation.environment import package_versions
from sspsam.evaluation.self_test import ImageQuestions, reference_scenes
from sspsam.evaluation.stored_answers import ANSWERS_NAME, save_answers
from sspsam.shapes import Question, ask, draw_scene

# height and width of each scene, pixels; Pillow 11, 12 and 13 resize all of them to the same pixels
_SIZES: Final = (
    (192, 256),
    (256, 192),
    (200, 200),
    (160, 320),
    (320, 160),
    (180, 240),
    (128, 224),
    (200, 120),
    (150, 150),
    (210, 160),
)
_FIRST_SEED: Final = 700_000_000  # of scenes that training does not use
_QUESTIONS: Final = 4  # about each scene
_NO_TARGET: Final = 1  # of them


def chosen_questions() -> Iterator[ImageQuestions]:
    """Yield the scenes with their expressions, some of which refer to nothing in the scene."""
    for index, size in enumerate(_SIZES):
        scene = draw_scene(_FIRST_SEED + index, size)
        questions = ask(scene, _FIRST_SEED + index, 40)
        without_target = _of_different_kinds([question for question in questions if question.no_target])[:_NO_TARGET]
        with_target = _of_different_kinds([question for question in questions if not question.no_target])
        chosen = [*with_target[: _QUESTIONS - len(without_target)], *without_target]
        yield ImageQuestions(scene.pixels, [question.text for question in chosen])


def store_answers(model: Path) -> Path:
    """Write the answers of a checkpoint into its folder, and return the path of the file."""
    predictor = SSPSAMPredictor.from_pretrained(model, device="cpu", dtype="float32", calibration=False)
    path = model / ANSWERS_NAME
    save_answers(path, reference_scenes(predictor, chosen_questions()), predictor.config, package_versions())
    return path


def _of_different_kinds(questions: list[Question]) -> list[Question]:
    """Return the first question of every kind."""
    return list({question.kind: question for question in reversed(questions)}.values())[::-1]


def main() -> None:
    """Parse the command line and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=Path("sspsam/bundled/shapes"), help="checkpoint folder")
    path = store_answers(parser.parse_args().model)
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
