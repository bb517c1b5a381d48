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
from sspsam.shapes.words import (
    ANY,
    BESIDE,
    COLORED,
    COMPARATIVES,
    EXCEPT,
    FOREIGN,
    HERE,
    MIDDLE,
    NOUNS,
    NUMBERS,
    POLITELY,
    SIZES,
    at_the_end,
    in_the_corner,
    to_the_side,
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
    size_word: str | None

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
        return " ".join(word for word in (self.size_word, self.color, noun) if word)


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
    word = _pick(rng, NOUNS[kind] if kind else ANY)
    return Noun(kind, color, size, word, _pick(rng, SIZES[size]) if size else None)


def _noun_of(rng: Rng, shape: Shape, any_too: bool = True) -> Noun:
    """A noun that matches a shape: its kind, its colour, or both, now and then its size."""
    choice = rng.random()
    if choice < 0.08:
        return _noun(rng, shape.kind if choice < 0.06 else None, shape.color if choice > 0.04 else None, shape.size)
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
    if noun.color and not noun.kind and not noun.size and rng.random() < 0.25:
        return _pick(rng, COLORED).format(color=noun.color, one=noun.word, ones=_plural(noun.word))
    if many and rng.random() < 0.7:
        ways = (
            "all {}",
            "the {}",
            "all the {}",
            "every one of the {}",
            "{}",
            "{}",
            "each of the {}",
            "any {}",
            "some {}",
        )
        return _pick(rng, ways).format(noun.say(plural=True))
    singular = noun.say()
    article = "an" if singular[0] in "aeiou" and not singular.startswith("one") else "a"
    return _pick(rng, ("the {}", "the {}", "the {}", "{a} {}", "{a} {}", "{}", "{}", "any {}", "every {}")).format(
        singular, a=article
    )


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
    word = _pick(rng, ("largest", "biggest", "smallest", "smallest"))
    text = f"the {word} {noun.say()}"
    among = noun.among(shapes)
    if not among:
        return text, []
    if len(among) == 2 and rng.random() < 0.3:
        text = f"the {_pick(rng, COMPARATIVES[word])} {noun.say()}"
    sign = -1 if word == "smallest" else 1
    found = _extreme(among, lambda s: sign * math.log(s.area), lambda a, b: a - b > math.log(_CLEAR))
    return (text, [found]) if found else None


def _placed(shapes: list[Shape], rng: Rng) -> Said:
    places: Sequence[tuple[tuple[str, ...], Callable[[Shape], float]]] = (
        ((*to_the_side("left"), "the leftmost {}"), lambda s: -s.center[0]),
        ((*to_the_side("right"), "the rightmost {}"), lambda s: s.center[0]),
        ((*at_the_end("top"), "the topmost {}", "the highest {}", "the uppermost {}"), lambda s: -s.center[1]),
        ((*at_the_end("bottom"), "the bottommost {}", "the lowest {}"), lambda s: s.center[1]),
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
        (MIDDLE, near(width / 2, height / 2)),
        (in_the_corner(("top", "upper"), "left"), near(0, 0)),
        (in_the_corner(("top", "upper"), "right"), near(width, 0)),
        (in_the_corner(("bottom", "lower"), "left"), near(0, height)),
        (in_the_corner(("bottom", "lower"), "right"), near(width, height)),
    ]


def _related(shapes: list[Shape], rng: Rng) -> Said:
    """`the star left of the red circle`: which of the named lie so, seen from the one other that is named."""
    if len(shapes) < 2:
        return None
    anchor = _one_of(rng, shapes)
    way = _pick(rng, list(BESIDE))
    words = f"{_pick(rng, BESIDE[way])} {_pick(rng, ('the', 'the', 'the', 'a'))}"
    if rng.random() < 0.1:  # beside what is not there, nothing lies
        absent = _wrong_noun(rng, shapes, color=rng.random() < 0.6, kind=True)
        return f"the {_noun_of(rng, anchor).say()} {words} {absent.say()}", []
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
    text = f"{_pick(rng, ('the ', 'the ', 'a ', 'all ', ''))}{noun.say()} {words} {other.say()}"
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
    number = str(count) if rng.random() < 0.1 else NUMBERS[count]
    if count == 2 and len(among) == 2 and rng.random() < 0.2:
        return _pick(rng, ("both {}", "both the {}", "both of the {}")).format(noun.say(plural=True)), among
    text = _pick(rng, ("{} {}", "{} {}", "the {} {}", "all {} {}", "exactly {} {}")).format(
        number, noun.say(plural=True)
    )
    return text, among if count == len(among) else []


def _excluded(shapes: list[Shape], rng: Rng) -> Said:
    if len(shapes) < 2:
        return None
    noun = _noun_of(rng, _one_of(rng, shapes))
    if rng.random() < 0.06:
        noun = _wrong_noun(rng, shapes, color=rng.random() < 0.5, kind=True)
    among = noun.among(shapes)
    what = _pick(rng, ("the {}", "the {}", "the {}", "{}", "any {}")).format(noun.say(plural=len(among) > 1))
    if rng.random() < 0.2:
        base = _noun_of(rng, _one_of(rng, shapes))
        wanted = [shape for shape in base.among(shapes) if not noun.matches(shape)]
        way = _pick(rng, ("all the {} except {}", "all {} but {}", "the {} except {}"))
        return (way.format(base.say(plural=True), what), wanted) if wanted else None
    return _pick(rng, EXCEPT).format(what), [shape for shape in shapes if not noun.matches(shape)]


def _foreign(shapes: list[Shape], rng: Rng) -> Said:
    """Things of the wide world, alone, described in words of this one, or beside what is here."""
    thing = _pick(rng, FOREIGN)
    here = _noun_of(rng, _one_of(rng, shapes)).say()
    described = f"{_pick(rng, list(COLORS) + list(SIZES))} {thing}"
    placed = f"{thing} {_pick(rng, ('on the left', 'on the right', 'at the top', 'at the bottom', 'in the middle'))}"
    beside = f"{_pick(rng, BESIDE[_pick(rng, list(BESIDE))])} the"
    if rng.random() < 0.75:
        what = _pick(rng, (thing, thing, described, described, placed, f"largest {thing}", f"{thing} {beside} {here}"))
        return _pick(rng, ("the {}", "a {}", "{}", "all the {}", "two {}")).format(what), []
    return _pick(rng, (f"the {here} {beside} {thing}", f"the {here} of the {thing}", f"the {thing} with a {here}")), []


def _in_passing(text: str, rng: Rng) -> str:
    """Capitals, punctuation and a polite phrase change nothing."""
    choice = rng.random()
    if choice < 0.1:
        text = _pick(rng, POLITELY).format(text)
    if 0.07 < choice < 0.13:
        text += _pick(rng, HERE)
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
_WEIGHTS: Final = np.array([16, 9, 8, 11, 10, 14, 20, 12, 7, 4]) / 111
