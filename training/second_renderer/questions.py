"""Questions of the second renderer: expressions about drawn scenes, with masks of their targets."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sspsam.utils.arrays import Mask
from training.second_renderer.drawing import Scene, draw_scene
from training.second_renderer.expressions import GENERATORS, AmbiguousDraw

NO_TARGET_RATE: Final = 0.18  # for every kind but "foreign", whose expressions never have a target
REQUESTS: Final = (
    "please show me {}",
    "{}, please",
    "could you find {}?",
    "can you mark {}, please?",
    "please select {}",
)


@dataclass
class Question:
    """An expression, its kind, and its answer.

    Args:
        text: the expression.
        kind: a name of `GENERATORS`.
        mask: (h, w) bool, the visible pixels of all targets.
    """

    text: str
    kind: str
    mask: Mask

    @property
    def no_target(self) -> bool:
        """True if the expression refers to nothing in the scene."""
        return not self.mask.any()


def _varied_text(text: str, rng: Random) -> str:
    """Add a request, capitals or punctuation, which leave the targets as they are."""
    if rng.random() < 0.15:
        text = rng.choice(REQUESTS).format(text)
    if rng.random() < 0.25:
        text = text[0].upper() + text[1:] if rng.random() < 0.85 else text.upper()
    return text + rng.choice("...!") if rng.random() < 0.15 and text[-1] != "?" else text


def scenes_and_questions(seed: int, count: int, questions: int) -> Iterator[tuple[NDArray[np.uint8], list[Question]]]:
    """Draw scenes and ask about them.

    Args:
        seed: determines everything; scene i of a seed does not depend on `count`.
        count: number of scenes.
        questions: number of different expressions for each scene; every kind is equally frequent.

    Yields:
        An (h, w, 3) uint8 RGB image and the questions about it.
    """
    for index in range(count):
        rng = Random(f"second renderer {seed} {index}")
        scene = draw_scene(rng)
        by_text: dict[str, Question] = {}
        while len(by_text) < questions:
            kind = rng.choice(list(GENERATORS))
            question = _question(scene, rng, kind)
            if question:
                by_text.setdefault(question.text, question)
        yield scene.image, list(by_text.values())


def _question(scene: Scene, rng: Random, kind: str) -> Question | None:
    """A question of a kind, or None after 12 attempts; so many keep kinds with few unambiguous draws as frequent."""
    no_target = kind == "foreign" or rng.random() < NO_TARGET_RATE
    for _ in range(12):
        with suppress(AmbiguousDraw):
            text, targets = GENERATORS[kind](scene, rng, no_target)
            if bool(targets) != no_target:
                return Question(_varied_text(text, rng), kind, scene.mask(targets))
    return None
