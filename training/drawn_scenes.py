"""Held-out scenes of both renderers with the masks of their objects and expressions about them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sspsam.shapes import COLORS, OUTLINES, ask, draw_scene
from sspsam.shapes.nouns import new_noun
from sspsam.utils.arrays import Mask
from training.evaluate import LabelledExpression
from training.second_renderer import draw_scene as draw_second_scene
from training.second_renderer import scenes_and_questions
from training.second_renderer.expressions import Description

PRESENT: Final = "present"
_ATTEMPTS: Final = 8  # for each pair
_SIZE_RATE: Final = 0.35  # of the expressions that name a size


@dataclass(frozen=True, eq=False)
class DrawnScene:
    """An image, its objects, and expressions about them.

    Args:
        pixels: (h, w, 3) uint8 RGB.
        object_masks: (h, w) visible pixels of each object; they are disjoint, and none is empty.
        expressions: with the masks of their targets, each a union of masks of objects.
    """

    pixels: NDArray[np.uint8]
    object_masks: list[Mask]
    expressions: list[LabelledExpression]


@dataclass(frozen=True)
class Attributes:
    """Colour, kind and size of an object, or those that an expression names; None: not named, or in between."""

    color: str
    kind: str
    size: str | None

    def describe(self, other: "Attributes") -> bool:
        """Return whether an expression with these attributes describes an object."""
        return (self.color, self.kind) == (other.color, other.kind) and self.size in (None, other.size)


@dataclass(frozen=True, eq=False)
class _Objects:
    """A scene whose objects have names for their attributes."""

    pixels: NDArray[np.uint8]
    masks: list[Mask]
    attributes: list[Attributes]


def drawn_scenes(renderer: str, seed: int, scenes: int, questions: int) -> Iterator[DrawnScene]:
    """Yield the scenes and expressions of `training.evaluate.questions`, with the masks of the objects.

    Args:
        renderer: `own` or `second`.
        seed: of the first scene.
        scenes: number of scenes.
        questions: largest number of expressions for each scene.
    """
    if renderer == "own":
        for number in range(scenes):
            rng = np.random.default_rng(seed + number)
            scene = draw_scene(rng)
            expressions = [
                LabelledExpression(question.text, question.kind.removeprefix("no target: "), question.mask)
                for question in ask(scene, rng, questions)
            ]
            yield DrawnScene(scene.pixels, [shape.mask for shape in scene.shapes], expressions)
        return
    for number, (pixels, labelled) in enumerate(scenes_and_questions(seed, scenes, questions)):
        objects = _second_objects(seed, number)
        expressions = [LabelledExpression(question.text, question.kind, question.mask) for question in labelled]
        yield DrawnScene(pixels, objects.masks, expressions)


def hard_negative_scenes(renderer: str, seed: int, scenes: int, questions: int) -> Iterator[DrawnScene]:
    """Yield scenes with pairs of expressions: one names an object, the other one changes an attribute and names none.

    The kind of the second is `changed: color`, `changed: kind` or `changed: size`. Whenever it can, the new value is
    one that another object of the scene has.

    Args:
        renderer: `own` or `second`.
        seed: of the first scene.
        scenes: number of scenes.
        questions: largest number of expressions for each scene, two for each pair.
    """
    for number in range(scenes):
        objects = (_own_objects if renderer == "own" else _second_objects)(seed, number)
        rng = np.random.default_rng((seed, number))
        by_text: dict[str, LabelledExpression] = {}
        for _ in range(_ATTEMPTS * questions):
            pair = _pair(objects, _SAYINGS[renderer], rng)
            if len(by_text) + 2 <= questions and not any(expression.text in by_text for expression in pair):
                by_text.update((expression.text, expression) for expression in pair)
        yield DrawnScene(objects.pixels, objects.masks, list(by_text.values()))


def _own_objects(seed: int, number: int) -> _Objects:
    scene = draw_scene(np.random.default_rng(seed + number))
    attributes = [Attributes(shape.color, shape.kind, shape.size) for shape in scene.shapes]
    return _Objects(scene.pixels, [shape.mask for shape in scene.shapes], attributes)


def _second_objects(seed: int, number: int) -> _Objects:
    """Draw the scene again that `scenes_and_questions` draws first with the same numbers."""
    scene = draw_second_scene(Random(f"second renderer {seed} {number}"))
    visible = [thing for thing in scene.things if thing.area]
    attributes = [Attributes(thing.color, thing.shape, thing.size) for thing in visible]
    return _Objects(scene.image, [scene.mask([thing]) for thing in visible], attributes)


def _pair(
    objects: _Objects, say: Callable[[Attributes, int], str], rng: np.random.Generator
) -> list[LabelledExpression]:
    """Return an expression about an object and one that differs in one attribute and describes none, where possible."""
    if not objects.attributes:
        return []
    chosen = objects.attributes[int(rng.integers(len(objects.attributes)))]
    present = Attributes(chosen.color, chosen.kind, chosen.size if rng.random() < _SIZE_RATE else None)
    changed = [name for name in ("color", "kind", "size") if getattr(present, name)]
    name = changed[int(rng.integers(len(changed)))]
    absent = _changed(present, name, objects.attributes, rng)
    if absent is None:
        return []
    wording = int(rng.integers(2**31))  # the same synonyms in both
    mask = np.any(
        [mask for mask, other in zip(objects.masks, objects.attributes, strict=True) if present.describe(other)], 0
    )
    return [
        LabelledExpression(say(present, wording), PRESENT, mask),
        LabelledExpression(say(absent, wording), f"changed: {name}", np.zeros_like(mask)),
    ]


def _changed(
    present: Attributes, name: str, objects: Sequence[Attributes], rng: np.random.Generator
) -> Attributes | None:
    """Return attributes that differ in one and describe no object, with a value of another object if one serves."""
    choices = [replace(present, **{name: value}) for value in _VALUES[name] if value != getattr(present, name)]
    absent = [choice for choice in choices if not any(choice.describe(other) for other in objects)]
    near = [choice for choice in absent if any(getattr(choice, name) == getattr(other, name) for other in objects)]
    chosen = near or absent
    return chosen[int(rng.integers(len(chosen)))] if chosen else None


def _say_own(attributes: Attributes, wording: int) -> str:
    noun = new_noun(np.random.default_rng(wording), attributes.kind, attributes.color, attributes.size)
    return f"the {noun.say()}"


def _say_second(attributes: Attributes, wording: int) -> str:
    description = Description(attributes.color, attributes.kind, attributes.size or "")
    return f"the {description.words(Random(wording))}"


_VALUES: Final[Mapping[str, Sequence[str]]] = MappingProxyType(
    {"color": tuple(COLORS), "kind": tuple(OUTLINES), "size": ("small", "large")}
)
_SAYINGS: Final[Mapping[str, Callable[[Attributes, int], str]]] = MappingProxyType(
    {"own": _say_own, "second": _say_second}
)
