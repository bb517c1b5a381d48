"""Drawn scenes for the page, with expressions that fit them."""

from dataclasses import dataclass
from typing import Final

from sspsam.segmentation.rasters import png_bytes
from sspsam.shapes import Question, Scene, ask, draw_scene

EXAMPLE_SEEDS: Final = (5, 12, 21, 33)
_SIZE: Final = (540, 720)  # height, width in pixels
_SHAPES: Final = 7
_TARGETS: Final = 3
_CANDIDATES: Final = 24
_WEIGHTS: Final = {
    "color and shape": 3.0,
    "color": 1.0,
    "place": 2.0,
    "relation": 3.0,
    "superlative": 1.0,
    "exclusion": 1.0,
}
_LONGEST: Final = 45  # characters of an expression


@dataclass(frozen=True)
class DrawnExample:
    """A scene as an image file, and expressions about it: some with a target, and one without.

    Args:
        png: the image file.
        texts: expressions.
    """

    png: bytes
    texts: tuple[str, ...]


def drawn_example(seed: int) -> DrawnExample:
    """Draw a scene and choose expressions about it; the same seed gives the same ones."""
    from PIL import Image

    scene = draw_scene(seed, size=_SIZE, shapes=_SHAPES)
    return DrawnExample(png_bytes(Image.fromarray(scene.pixels)), fitting_expressions(scene, seed))


def fitting_expressions(scene: Scene, seed: int) -> tuple[str, ...]:
    """Return expressions about a scene, of different kinds and about different shapes, the last one without a target.

    Args:
        scene: from `draw_scene`.
        seed: chooses the expressions.
    """
    questions = [question for question in ask(scene, seed, _CANDIDATES, _WEIGHTS) if len(question.text) <= _LONGEST]
    targets: list[Question] = []
    for question in questions:
        is_new = all(question.kind != other.kind and (question.mask != other.mask).any() for other in targets)
        if not question.no_target and is_new and len(targets) < _TARGETS:
            targets.append(question)
    absent = [question for question in questions if question.kind == "no target: color and shape"]
    return tuple(question.text for question in [*targets, *absent[:1]])
