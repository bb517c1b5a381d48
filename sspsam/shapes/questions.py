"""Questions about a scene of the shapes world, with their answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sspsam.shapes.drawing import Mask, Rng, Scene
from sspsam.shapes.language import KINDS
from sspsam.shapes.nouns import pick
from sspsam.shapes.parse import Parse
from sspsam.shapes.words import HERE, POLITELY

_WEIGHTS: Final[Mapping[str, float]] = dict(zip(KINDS, (14, 8, 7, 10, 11, 14, 22, 13, 9, 4), strict=True))


@dataclass(frozen=True, eq=False)
class Question:
    """An expression about a scene, and its answer.

    Args:
        text: the expression.
        kind: which kind of expression it is, for evaluations.
        mask: (h, w) what it means; all False where it means nothing.
        parse: how it is built.
    """

    text: str
    kind: str
    mask: Mask
    parse: Parse

    @property
    def no_target(self) -> bool:
        """Whether the words mean nothing in the scene."""
        return not self.mask.any()


def ask(scene: Scene, seed: int | Rng, count: int, weights: Mapping[str, float] | None = None) -> list[Question]:
    """Questions about a scene, of all kinds that it allows, each text once.

    Args:
        scene: from `draw_scene`.
        seed: chooses them.
        count: how many at the most.
        weights: how often each kind of expression comes, by its name; the others never come.

    Raises:
        ValueError: a kind that there is not, or no positive weight.
    """
    kinds, often = _weighed(_WEIGHTS if weights is None else weights)
    if not scene.shapes:
        return []
    rng = np.random.default_rng(seed)
    questions: dict[str, Question] = {}
    for _ in range(8 * count):
        if len(questions) >= count:
            break
        kind = kinds[int(rng.choice(len(kinds), p=often))]
        said = KINDS[kind](list(scene.shapes), rng)
        if said is None:
            continue
        text, meant, parse = said
        mask = np.zeros(scene.pixels.shape[:2], dtype=np.bool_)
        for shape in meant:
            mask |= shape.mask
        text = _in_passing(text, rng)
        questions.setdefault(text.lower(), Question(text, kind if meant else f"no target: {kind}", mask, parse))
    return list(questions.values())


def _weighed(weights: Mapping[str, float]) -> tuple[list[str], NDArray[np.float64]]:
    unknown = [kind for kind in weights if kind not in KINDS]
    if unknown:
        raise ValueError(f"weights: no kind of expression is named {unknown[0]!r}; there are: {', '.join(KINDS)}")
    often = np.array(list(weights.values()), dtype=np.float64)
    if not (np.isfinite(often).all() and (often >= 0).all() and often.any()):
        raise ValueError(f"weights: expected numbers from 0 on, one of them greater, got {dict(weights)}")
    return list(weights), often / often.sum()


def _in_passing(text: str, rng: Rng) -> str:
    """Capitals, punctuation and a polite phrase change nothing."""
    choice = rng.random()
    if choice < 0.1:
        text = pick(rng, POLITELY).format(text)
    if 0.07 < choice < 0.13:
        text += pick(rng, HERE)
    if rng.random() < 0.08:
        text = text.capitalize() if rng.random() < 0.6 else text.upper()
    if rng.random() < 0.06:
        text += pick(rng, (".", "!", "?"))
    return text
