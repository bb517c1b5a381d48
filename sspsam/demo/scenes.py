"""Drawn scenes for the page, with expressions that fit them."""

from dataclasses import dataclass
from typing import Final

from PIL import Image

from sspsam.segmentation.rasters import png_bytes
from sspsam.shapes import Question, Scene, ask, draw_scene

# seed of a scene, and expressions about it, of which the last has no target
_EXAMPLES: Final[tuple[tuple[int, tuple[str, ...]], ...]] = (
    (
        179,
        (
            "the heart",
            "the pink circle below the yellow circle",
            "the star left of the yellow circle",
            "the red square",
            "the purple star",
        ),
    ),
    (246, ("the cyan diamond", "the heart", "the orange ring left of the heart", "the red circle")),
    (182, ("the star on the left", "the red cross", "the shape closest to the bottom left", "the yellow heart")),
    (107, ("both hearts", "the blue star", "the white square")),
)
EXAMPLE_COUNT: Final = len(_EXAMPLES)
EXAMPLE_FILES: Final = frozenset(f"scene-{seed}.png" for seed, _ in _EXAMPLES)
_SIZE: Final = (540, 720)  # height, width in pixels
_SHAPES: Final = 7
_TARGETS: Final = 3
_CANDIDATES: Final = 40
_WEIGHTS: Final = {
    "color and shape": 3.0,
    "color": 1.0,
    "place": 2.0,
    "relation": 3.0,
    "superlative": 1.0,
    "exclusion": 1.0,
}
_LONGEST: Final = 45  # characters of an expression
_BEGINNINGS: Final = ("the ", "a ", "an ", "all ", "both ", "every ")


@dataclass(frozen=True)
class DrawnExample:
    """A scene as an image file, and expressions about it: some with a target, and one without.

    Args:
        seed: of the scene.
        png: the image file.
        texts: expressions.
    """

    seed: int
    png: bytes
    texts: tuple[str, ...]

    @property
    def file_name(self) -> str:
        """Return the name of the image file."""
        return f"scene-{self.seed}.png"


def example(number: int) -> DrawnExample:
    """Return one of the `EXAMPLE_COUNT` examples."""
    seed, texts = _EXAMPLES[number]
    return DrawnExample(seed, _png(_scene(seed)), texts)


def random_example(seed: int) -> DrawnExample:
    """Draw a scene and choose expressions about it; the same seed gives the same ones."""
    scene = _scene(seed)
    return DrawnExample(seed, _png(scene), fitting_expressions(scene, seed))


def _scene(seed: int) -> Scene:
    return draw_scene(seed, size=_SIZE, shapes=_SHAPES)


def _png(scene: Scene) -> bytes:
    return png_bytes(Image.fromarray(scene.pixels))


def fitting_expressions(scene: Scene, seed: int) -> tuple[str, ...]:
    """Return expressions about a scene, of different kinds and about different shapes, the last one without a target.

    Args:
        scene: from `draw_scene`.
        seed: chooses the expressions.
    """
    questions = [question for question in ask(scene, seed, _CANDIDATES, _WEIGHTS) if _is_plain(question.text)]
    targets: list[Question] = []
    for question in questions:
        is_new = all(question.kind != other.kind and (question.mask != other.mask).any() for other in targets)
        if not question.no_target and is_new and len(targets) < _TARGETS:
            targets.append(question)
    absent = [question for question in questions if question.kind == "no target: color and shape"]
    return tuple(question.text for question in [*targets, *absent[:1]])


def _is_plain(text: str) -> bool:
    """Return whether an expression is short, in small letters, and no request or question."""
    return len(text) <= _LONGEST and text == text.lower() and text.startswith(_BEGINNINGS) and text[-1].isalpha()
