"""Questions about a scene of the shapes world, with their answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sspsam.shapes.drawing import Mask, Rng, Scene
from sspsam.shapes.expressions import KINDS
from sspsam.shapes.nouns import random_text
from sspsam.shapes.parse import Parse
from sspsam.shapes.words import REQUESTS, SCENE_SUFFIXES

_WEIGHTS: Final[Mapping[str, float]] = dict(zip(KINDS, (14, 8, 7, 10, 11, 14, 22, 13, 9, 4), strict=True))


@dataclass(frozen=True, eq=False)
class Question:
    """An expression about a scene, and its answer.

    Args:
        text: the expression.
        kind: the kind of expression, for evaluations; begins with `no target: ` if there is no target.
        mask: (h, w) bool, the visible pixels of all targets; all False if there is none.
        parse: the structure of the expression.
    """

    text: str
    kind: str
    mask: Mask
    parse: Parse

    @property
    def no_target(self) -> bool:
        """True if the expression refers to nothing in the scene."""
        return not self.mask.any()


def ask(scene: Scene, seed: int | Rng, count: int, weights: Mapping[str, float] | None = None) -> list[Question]:
    """Generate questions about a scene.

    Args:
        scene: from `draw_scene`.
        seed: chooses the questions.
        count: largest number of questions; fewer if the scene does not allow that many.
        weights: relative frequency of each kind of expression, by name; kinds without a weight do not occur.
            None: every kind, with the default frequencies.

    Returns:
        Questions with different texts; none for an empty scene.

    Raises:
        ValueError: `weights` names an unknown kind, or no weight is positive.
    """
    kinds, probabilities = _kind_probabilities(_WEIGHTS if weights is None else weights)
    if not scene.shapes:
        return []
    rng = np.random.default_rng(seed)
    questions: dict[str, Question] = {}
    for _ in range(8 * count):
        if len(questions) >= count:
            break
        kind = kinds[int(rng.choice(len(kinds), p=probabilities))]
        expression = KINDS[kind](list(scene.shapes), rng)
        if expression is None:
            continue
        mask = np.zeros(scene.pixels.shape[:2], dtype=np.bool_)
        for shape in expression.targets:
            mask |= shape.mask
        text = _varied_text(expression.text, rng)
        full_kind = kind if expression.targets else f"no target: {kind}"
        questions.setdefault(text.lower(), Question(text, full_kind, mask, expression.parse))
    return list(questions.values())


def _kind_probabilities(weights: Mapping[str, float]) -> tuple[list[str], NDArray[np.float64]]:
    unknown = [kind for kind in weights if kind not in KINDS]
    if unknown:
        raise ValueError(f"weights: {unknown[0]!r} is not a kind of expression; use one of: {', '.join(KINDS)}")
    values = np.array(list(weights.values()), dtype=np.float64)
    if not (np.isfinite(values).all() and (values >= 0).all() and values.any()):
        raise ValueError(f"weights: expected finite numbers of at least 0, one of them positive, got {dict(weights)}")
    return list(weights), values / values.sum()


def _varied_text(text: str, rng: Rng) -> str:
    """Add a request, capitals or punctuation, which leave the targets as they are."""
    choice = rng.random()
    if choice < 0.1:
        text = random_text(rng, REQUESTS).format(text)
    if 0.07 < choice < 0.13:
        text += random_text(rng, SCENE_SUFFIXES)
    if rng.random() < 0.08:
        text = text.capitalize() if rng.random() < 0.6 else text.upper()
    if rng.random() < 0.06:
        text += random_text(rng, (".", "!", "?"))
    return text
