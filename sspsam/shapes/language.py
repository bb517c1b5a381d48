"""What can be said about a scene of the shapes world, and which shapes it means.

All matches are meant, whatever the article or number. A superlative or a place means the single extreme one, by visible
area or by centre. A relation compares centres along its axis. What does not hold means nothing.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from sspsam.shapes.drawing import COLORS, OUTLINES, Mask, Rng, Scene, Shape

NOUNS: Final[Mapping[str, tuple[str, ...]]] = {
    "circle": ("circle", "circle", "disc", "disk"),
    "square": ("square", "square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "cross": ("cross", "cross", "plus sign"),
    "ring": ("ring",),
    "diamond": ("diamond",),
    "heart": ("heart",),
}
ANY: Final = ("shape", "object", "thing", "one")
NUMBERS: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")
FOREIGN: Final = (
    *("a dog", "the man on the left", "red car", "a cat", "the woman in a blue dress", "the tree", "two people"),
    *(
        "a cup of tea",
        "the sky",
        "the house with a white door",
        "someone riding a bicycle",
        "the second bus",
        "a pizza",
    ),
    *("grass", "the old chair", "the bird", "a green apple", "the child", "yellow taxi", "a boat"),
    *("the mug on the table", "her left hand", "the clouds"),
)
_CLEAR: Final = 1.15  # how much larger the largest must be than the next, and how much further out the outermost


@dataclass(frozen=True, eq=False)
class Question:
    """An expression about a scene, and its answer.

    Args:
        text: the expression.
        kind: which kind of expression it is, for evaluations.
        mask: (h, w) what it means; all False where it means nothing.
    """

    text: str
    kind: str
    mask: Mask

    @property
    def no_target(self) -> bool:
        """Whether the words mean nothing in the scene."""
        return not self.mask.any()


@dataclass(frozen=True)
class Noun:
    """A colour, a kind and a size, each or none of them; and the word for it."""

    kind: str | None
    color: str | None
    size: str | None
    word: str

    def matches(self, shape: Shape) -> bool:
        """Whether it can be said of a shape."""
        return (
            (self.kind is None or shape.kind == self.kind)
            and (self.color is None or shape.color == self.color)
            and (self.size is None or shape.size == self.size)
        )

    def among(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The shapes of which it can be said."""
        return [shape for shape in shapes if self.matches(shape)]

    def say(self, plural: bool = False) -> str:
        """Its words, without an article."""
        noun = _plural(self.word) if plural else self.word
        return " ".join(word for word in (self.size, self.color, noun) if word)


def _plural(word: str) -> str:
    if word.endswith(("s", "x", "sh", "ch")):
        return word + "es"
    return word + "s"


def ask(scene: Scene, seed: int | Rng, count: int) -> list[Question]:
    """Questions about a scene, of all kinds that it allows, each text once.

    Args:
        scene: from `draw_scene`.
        seed: chooses them.
        count: how many at the most.
    """
    if not scene.shapes:
        return []
    rng = np.random.default_rng(seed)
    kinds = list(_KINDS)
    questions: dict[str, Question] = {}
    for _ in range(8 * count):
        if len(questions) >= count:
            break
        kind = kinds[int(rng.choice(len(kinds), p=_WEIGHTS))]
        said = _KINDS[kind](list(scene.shapes), rng)
        if said is None:
            continue
        text, meant = said
        mask = np.zeros(scene.pixels.shape[:2], dtype=np.bool_)
        for shape in meant:
            mask |= shape.mask
        text = _in_passing(text, rng)
        questions.setdefault(text.lower(), Question(text, kind if meant else f"no target: {kind}", mask))
    return list(questions.values())


Said = tuple[str, list[Shape]] | None


def _pick(rng: Rng, items: Sequence[str]) -> str:
    return items[int(rng.integers(len(items)))]


def _one_of(rng: Rng, shapes: Sequence[Shape]) -> Shape:
    return shapes[int(rng.integers(len(shapes)))]


def _noun(rng: Rng, kind: str | None, color: str | None = None, size: str | None = None) -> Noun:
    return Noun(kind, color, size, _pick(rng, NOUNS[kind] if kind else ANY))


def _noun_of(rng: Rng, shape: Shape, any_too: bool = True) -> Noun:
    """A noun that matches a shape: its kind, its colour, or both."""
    choice = rng.random()
    if choice < 0.45:
        return _noun(rng, shape.kind, shape.color)
    if choice < 0.8 or not any_too:
        return _noun(rng, shape.kind)
    return _noun(rng, None, shape.color)


def _wrong_noun(rng: Rng, shapes: Sequence[Shape], *, color: bool, kind: bool, size: bool = False) -> Noun:
    """A noun of which there is none, made of what there is where that is possible: the hard ones."""
    for _ in range(30):
        noun = _noun(
            rng,
            (_one_of(rng, shapes).kind if rng.random() < 0.6 else _pick(rng, list(OUTLINES))) if kind else None,
            (_one_of(rng, shapes).color if rng.random() < 0.6 else _pick(rng, list(COLORS))) if color else None,
            _pick(rng, ("small", "large")) if size else None,
        )
        if not noun.among(shapes):
            return noun
    absent = [name for name in OUTLINES if all(shape.kind != name for shape in shapes)]
    return _noun(rng, _pick(rng, absent))


def _definite(rng: Rng, noun: Noun, many: bool) -> str:
    if many and rng.random() < 0.7:
        return _pick(rng, ("all {}", "the {}", "all the {}", "every one of the {}", "{}")).format(noun.say(plural=True))
    return _pick(rng, ("the {}", "the {}", "a {}", "{}")).format(noun.say())


def _described(color: bool, kind: bool, size: bool = False) -> Callable[[list[Shape], Rng], Said]:
    def say(shapes: list[Shape], rng: Rng) -> Said:
        shape = _one_of(rng, shapes)
        if rng.random() < 0.25:
            return _definite(rng, _wrong_noun(rng, shapes, color=color, kind=kind, size=size), rng.random() < 0.3), []
        if size and shape.size is None:
            return None
        word = shape.size if size else None
        noun = _noun(rng, shape.kind if kind else None, shape.color if color else None, word)
        meant = noun.among(shapes)
        return _definite(rng, noun, len(meant) > 1 or rng.random() < 0.1), meant

    return say


def _sized(shapes: list[Shape], rng: Rng) -> Said:
    color, kind = rng.random() < 0.4, rng.random() < 0.7
    return _described(color, kind, size=True)(shapes, rng)


def _extreme(
    shapes: list[Shape], value: Callable[[Shape], float], margin: Callable[[float, float], bool]
) -> Shape | None:
    """The one with the greatest value, if it is clearly the one."""
    ranked = sorted(shapes, key=value, reverse=True)
    if len(ranked) == 1 or margin(value(ranked[0]), value(ranked[1])):
        return ranked[0]
    return None


def _superlative(shapes: list[Shape], rng: Rng) -> Said:
    noun = _noun(rng, None) if rng.random() < 0.4 else _noun_of(rng, _one_of(rng, shapes))
    if rng.random() < 0.15:
        noun = _wrong_noun(rng, shapes, color=rng.random() < 0.5, kind=True)
    word = _pick(rng, ("largest", "biggest", "smallest"))
    text = f"the {word} {noun.say()}"
    among = noun.among(shapes)
    if not among:
        return text, []
    sign = -1 if word == "smallest" else 1
    found = _extreme(among, lambda s: sign * math.log(s.area), lambda a, b: a - b > math.log(_CLEAR))
    return (text, [found]) if found else None


def _placed(shapes: list[Shape], rng: Rng) -> Said:
    places: Sequence[tuple[tuple[str, ...], Callable[[Shape], float]]] = (
        (("the leftmost {}", "the {} on the left", "the {} furthest left", "the left {}"), lambda s: -s.center[0]),
        (("the rightmost {}", "the {} on the right", "the {} furthest right", "the right {}"), lambda s: s.center[0]),
        (("the topmost {}", "the {} at the top", "the highest {}", "the top {}"), lambda s: -s.center[1]),
        (("the lowest {}", "the {} at the bottom", "the bottommost {}", "the bottom {}"), lambda s: s.center[1]),
        *_corners_and_middle(shapes),
    )
    ways, value = places[int(rng.integers(len(places)))]
    noun = _noun(rng, None) if rng.random() < 0.4 else _noun_of(rng, _one_of(rng, shapes))
    if rng.random() < 0.15:
        noun = _wrong_noun(rng, shapes, color=rng.random() < 0.5, kind=True)
    text, among = _pick(rng, ways).format(noun.say()), noun.among(shapes)
    if not among:
        return text, []
    gap = 0.05 * max(among[0].mask.shape)
    found = _extreme(among, value, lambda a, b: a - b > gap)
    return (text, [found]) if found else None


def _corners_and_middle(
    shapes: list[Shape],
) -> list[tuple[tuple[str, ...], Callable[[Shape], float]]]:
    height, width = shapes[0].mask.shape

    def near(x: float, y: float) -> Callable[[Shape], float]:
        return lambda s: -math.hypot(s.center[0] - x, s.center[1] - y)

    return [
        (("the {} in the middle", "the {} in the center", "the {} closest to the middle"), near(width / 2, height / 2)),
        (("the {} in the top left corner", "the {} in the upper left corner"), near(0, 0)),
        (("the {} in the top right corner", "the {} in the upper right corner"), near(width, 0)),
        (("the {} in the bottom left corner", "the {} in the lower left corner"), near(0, height)),
        (("the {} in the bottom right corner", "the {} in the lower right corner"), near(width, height)),
    ]


def _related(shapes: list[Shape], rng: Rng) -> Said:
    """`the star left of the red circle`: which of the named lie so, seen from the one other that is named."""
    if len(shapes) < 2:
        return None
    anchor = _one_of(rng, shapes)
    other = _noun_of(rng, anchor, any_too=False)
    if len(other.among(shapes)) != 1:
        other = _noun(rng, anchor.kind, anchor.color)
    if len(other.among(shapes)) != 1:
        return None
    rest = [shape for shape in shapes if shape is not anchor]
    noun = _noun(rng, None) if rng.random() < 0.25 else _noun_of(rng, _one_of(rng, rest))
    if noun.matches(anchor) and noun.kind is not None and noun.color is None:
        return None  # "the star left of the red star" is meant of another star; that is said with its colour
    among = noun.among(rest)
    way = _pick(rng, ("left", "right", "above", "below", "next"))
    words = {
        "left": ("left of", "to the left of"),
        "right": ("right of", "to the right of"),
        "above": ("above", "over"),
        "below": ("below", "under"),
        "next": ("next to", "beside"),
    }[way]
    text = f"the {noun.say()} {_pick(rng, words)} the {other.say()}"
    if way == "next":
        nearest = sorted(rest, key=lambda s: math.dist(s.center, anchor.center))
        clear = len(nearest) == 1 or math.dist(nearest[1].center, anchor.center) > 1.3 * math.dist(
            nearest[0].center, anchor.center
        )
        return (text, [nearest[0]]) if clear and among == [nearest[0]] else None
    axis, sign = {"left": (0, -1), "right": (0, 1), "above": (1, -1), "below": (1, 1)}[way]
    offsets = [sign * (shape.center[axis] - anchor.center[axis]) for shape in among]
    gap = 0.05 * max(anchor.mask.shape)
    if any(abs(offset) < gap for offset in offsets):
        return None  # nobody could tell
    return text, [shape for shape, offset in zip(among, offsets, strict=True) if offset > 0]


def _counted(shapes: list[Shape], rng: Rng) -> Said:
    choice = rng.random()
    if choice < 0.12:
        return _pick(
            rng, ("everything", "all shapes", "all the shapes", "every shape", "all of them", "all objects")
        ), shapes
    noun = _noun_of(rng, _one_of(rng, shapes))
    among = noun.among(shapes)
    if choice < 0.35:
        if rng.random() < 0.3:
            return f"every {noun.say()}", among
        return _pick(rng, ("all the {}", "all {}")).format(noun.say(plural=True)), among
    count = len(among) if rng.random() < 0.65 else int(rng.integers(2, 6))
    if count < 2:
        return None
    text = _pick(rng, ("{} {}", "the {} {}")).format(NUMBERS[count], noun.say(plural=True))
    return text, among if count == len(among) else []


def _excluded(shapes: list[Shape], rng: Rng) -> Said:
    if len(shapes) < 2:
        return None
    noun = _noun_of(rng, _one_of(rng, shapes))
    among = noun.among(shapes)
    what = f"the {noun.say(plural=len(among) > 1)}"
    ways = ("everything except {}", "everything but {}", "all shapes except {}", "all but {}", "all the shapes but {}")
    return _pick(rng, ways).format(what), [shape for shape in shapes if not noun.matches(shape)]


def _foreign(shapes: list[Shape], rng: Rng) -> Said:
    return _pick(rng, FOREIGN), []


def _in_passing(text: str, rng: Rng) -> str:
    """Capitals, punctuation and a polite phrase change nothing."""
    choice = rng.random()
    if choice < 0.06:
        text = _pick(rng, ("please show me {}", "can you find {}", "show {}", "find {}, please", "I mean {}")).format(
            text
        )
    if rng.random() < 0.08:
        text = text.capitalize() if rng.random() < 0.6 else text.upper()
    if rng.random() < 0.06:
        text += _pick(rng, (".", "!", "?"))
    return text


_KINDS: Final[Mapping[str, Callable[[list[Shape], Rng], Said]]] = {
    "color and shape": _described(color=True, kind=True),
    "shape": _described(color=False, kind=True),
    "color": _described(color=True, kind=False),
    "size": _sized,
    "superlative": _superlative,
    "place": _placed,
    "relation": _related,
    "number": _counted,
    "exclusion": _excluded,
    "foreign": _foreign,
}
_WEIGHTS: Final = np.array([20, 12, 11, 11, 9, 12, 11, 10, 6, 4]) / 106
