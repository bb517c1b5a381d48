"""Questions about scenes of the second renderer in pairs: a description of a thing, and one with a wrong attribute."""

from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.second_renderer.drawing import ATTRIBUTES, Scene, draw_scene
from training.second_renderer.expressions import Description
from training.second_renderer.questions import Question

# attributes that the description of a pair names
_NAMED: Final = (("color", "shape"), ("color", "shape", "size"), ("shape", "size"), ("color", "size"))


def scenes_and_pairs(seed: int, count: int, pairs: int) -> Iterator[tuple[NDArray[np.uint8], list[Question]]]:
    """Draw scenes and ask pairs of questions about them.

    Args:
        seed: determines everything; scene i of a seed does not depend on `count`.
        count: number of scenes.
        pairs: largest number of pairs for each scene.

    Yields:
        An (h, w, 3) uint8 RGB image, and its questions: half of them describe a thing; the others differ from one of
        those in the value of one attribute and describe nothing in the scene.
    """
    for index in range(count):
        rng = Random(f"hard negatives {seed} {index}")
        scene = draw_scene(rng)
        by_text: dict[str, Question] = {}
        for _ in range(4 * pairs):
            for question in _pair(scene, rng):
                by_text.setdefault(question.text, question)
        present, absent = ([q for q in by_text.values() if q.no_target == wanted] for wanted in (False, True))
        used = min(len(present), len(absent), pairs)
        yield scene.image, present[:used] + absent[:used]


def _pair(scene: Scene, rng: Random) -> list[Question]:
    """Return a pair of questions; empty if the changed description describes another thing of the scene."""
    thing, names = rng.choice(scene.things), rng.choice(_NAMED)
    truth = Description(**{name: str(getattr(thing, name)) for name in names})
    changed = rng.choice(names)
    others = [value for value in ATTRIBUTES[changed] if value != getattr(thing, changed)]
    wrong = replace(truth, **{changed: rng.choice(others)})
    if wrong.among(scene):
        return []
    words = [f"the {description.words(rng)}" for description in (truth, wrong)]
    kinds = "one attribute right", f"{changed} changed"
    return [
        Question(text, kind, scene.mask(description.among(scene)))
        for text, kind, description in zip(words, kinds, (truth, wrong), strict=True)
    ]
