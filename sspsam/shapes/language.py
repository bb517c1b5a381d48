"""What can be said about a scene of the shapes world, and which shapes it means.

All matches are meant, whatever the article or number. A superlative or a place means the single extreme one, by visible
area or by centre. A relation compares centres along its axis. What does not hold means nothing.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from sspsam.shapes.drawing import COLORS, Rng, Shape
from sspsam.shapes.nouns import definite, new_noun, noun_of, one_of, pick, wrong_noun
from sspsam.shapes.parse import Parse
from sspsam.shapes.words import (
    BESIDE,
    COMPARATIVES,
    EXCEPT,
    FOREIGN,
    MIDDLE,
    NUMBERS,
    SIZES,
    at_the_end,
    in_the_corner,
    to_the_side,
)

_CLEAR: Final = 1.15  # how much larger the largest must be than the next, and how much further out the outermost
Said = tuple[str, list[Shape], Parse] | None


def _described(color: bool, kind: bool, size: bool = False) -> Callable[[list[Shape], Rng], Said]:
    def say(shapes: list[Shape], rng: Rng) -> Said:
        shape = one_of(rng, shapes)
        if rng.random() < 0.25:
            noun = wrong_noun(rng, shapes, color=color, kind=kind, size=size)
            return definite(rng, noun, rng.random() < 0.3), [], Parse("all", noun)
        if size and shape.size is None:
            return None
        word = shape.size if size else None
        noun = new_noun(rng, shape.kind if kind else None, shape.color if color else None, word)
        meant = noun.among(shapes)
        return definite(rng, noun, len(meant) > 1 or rng.random() < 0.1), meant, Parse("all", noun)

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
    noun = new_noun(rng, None) if rng.random() < 0.4 else noun_of(rng, one_of(rng, shapes))
    if rng.random() < 0.15:
        noun = wrong_noun(rng, shapes, color=rng.random() < 0.5, kind=True)
    word = pick(rng, ("largest", "biggest", "smallest", "smallest"))
    text = f"the {word} {noun.say()}"
    among, parse = noun.among(shapes), Parse("smallest" if word == "smallest" else "largest", noun)
    if not among:
        return text, [], parse
    if len(among) == 2 and rng.random() < 0.3:
        text = f"the {pick(rng, COMPARATIVES[word])} {noun.say()}"
    sign = -1 if word == "smallest" else 1
    found = _extreme(among, lambda s: sign * math.log(s.area), lambda a, b: a - b > math.log(_CLEAR))
    return (text, [found], parse) if found else None


Place = tuple[str, tuple[str, ...], Callable[[Shape], float]]  # operation, ways to say it, what is greatest there


def _placed(shapes: list[Shape], rng: Rng) -> Said:
    places: Sequence[Place] = (
        ("leftmost", (*to_the_side("left"), "the leftmost {}"), lambda s: -s.center[0]),
        ("rightmost", (*to_the_side("right"), "the rightmost {}"), lambda s: s.center[0]),
        (
            "topmost",
            (*at_the_end("top"), "the topmost {}", "the highest {}", "the uppermost {}"),
            lambda s: -s.center[1],
        ),
        ("lowest", (*at_the_end("bottom"), "the bottommost {}", "the lowest {}"), lambda s: s.center[1]),
        *_corners_and_middle(shapes),
    )
    operation, ways, value = places[int(rng.integers(len(places)))]
    noun = new_noun(rng, None) if rng.random() < 0.4 else noun_of(rng, one_of(rng, shapes))
    if rng.random() < 0.15:
        noun = wrong_noun(rng, shapes, color=rng.random() < 0.5, kind=True)
    text, among, parse = pick(rng, ways).format(noun.say()), noun.among(shapes), Parse(operation, noun)
    if not among:
        return text, [], parse
    gap = 0.05 * max(among[0].mask.shape)
    found = _extreme(among, value, lambda a, b: a - b > gap)
    return (text, [found], parse) if found else None


def _corners_and_middle(shapes: list[Shape]) -> list[Place]:
    height, width = shapes[0].mask.shape

    def near(x: float, y: float) -> Callable[[Shape], float]:
        return lambda s: -math.hypot(s.center[0] - x, s.center[1] - y)

    return [
        ("middle", MIDDLE, near(width / 2, height / 2)),
        ("top left", in_the_corner(("top", "upper"), "left"), near(0, 0)),
        ("top right", in_the_corner(("top", "upper"), "right"), near(width, 0)),
        ("bottom left", in_the_corner(("bottom", "lower"), "left"), near(0, height)),
        ("bottom right", in_the_corner(("bottom", "lower"), "right"), near(width, height)),
    ]


_RELATIONS: Final = {"left": "left of", "right": "right of", "above": "above", "below": "below", "next": "next to"}


def _related(shapes: list[Shape], rng: Rng) -> Said:
    """`the star left of the red circle`: which of the named lie so, seen from the one other that is named."""
    if len(shapes) < 2:
        return None
    anchor = one_of(rng, shapes)
    way = pick(rng, list(BESIDE))
    words = f"{pick(rng, BESIDE[way])} {pick(rng, ('the', 'the', 'the', 'a'))}"
    if rng.random() < 0.1:  # beside what is not there, nothing lies
        absent = wrong_noun(rng, shapes, color=rng.random() < 0.6, kind=True)
        noun = noun_of(rng, anchor)
        return f"the {noun.say()} {words} {absent.say()}", [], Parse(_RELATIONS[way], noun, absent)
    other = noun_of(rng, anchor, any_too=False)
    if len(other.among(shapes)) != 1:
        other = new_noun(rng, anchor.kind, anchor.color)
    if len(other.among(shapes)) != 1:
        return None
    rest = [shape for shape in shapes if shape is not anchor]
    noun = new_noun(rng, None) if rng.random() < 0.25 else noun_of(rng, one_of(rng, rest))
    if noun.matches(anchor) and noun.kind is not None and noun.color is None:
        return None  # "the star left of the red star" is meant of another star; that is said with its colour
    among, parse = noun.among(rest), Parse(_RELATIONS[way], noun, other)
    text = f"{pick(rng, ('the ', 'the ', 'a ', 'all ', ''))}{noun.say()} {words} {other.say()}"
    if way == "next":
        nearest = sorted(rest, key=lambda s: math.dist(s.center, anchor.center))
        clear = len(nearest) == 1 or math.dist(nearest[1].center, anchor.center) > 1.3 * math.dist(
            nearest[0].center, anchor.center
        )
        return (text, [nearest[0]], parse) if clear and among == [nearest[0]] else None
    axis, sign = {"left": (0, -1), "right": (0, 1), "above": (1, -1), "below": (1, 1)}[way]
    offsets = [sign * (shape.center[axis] - anchor.center[axis]) for shape in among]
    gap = 0.05 * max(anchor.mask.shape)
    if any(abs(offset) < gap for offset in offsets):
        return None  # nobody could tell
    return text, [shape for shape, offset in zip(among, offsets, strict=True) if offset > 0], parse


def _counted(shapes: list[Shape], rng: Rng) -> Said:
    choice = rng.random()
    if choice < 0.12:
        ways = ("everything", "all shapes", "all the shapes", "every shape", "all of them", "all objects")
        return pick(rng, ways), shapes, Parse("all", new_noun(rng, None))
    noun = noun_of(rng, one_of(rng, shapes))
    among = noun.among(shapes)
    if choice < 0.35:
        if rng.random() < 0.3:
            return f"every {noun.say()}", among, Parse("all", noun)
        return pick(rng, ("all the {}", "all {}")).format(noun.say(plural=True)), among, Parse("all", noun)
    count = len(among)
    if rng.random() < 0.45:  # wrong, and mostly nearly right
        count = count + int(rng.choice((-1, 1))) if rng.random() < 0.6 else int(rng.integers(2, 9))
    if not 2 <= count < len(NUMBERS):
        return None
    parse = Parse("exactly", noun, number=count)
    number = str(count) if rng.random() < 0.1 else NUMBERS[count]
    if count == 2 and len(among) == 2 and rng.random() < 0.2:
        return pick(rng, ("both {}", "both the {}", "both of the {}")).format(noun.say(plural=True)), among, parse
    text = pick(rng, ("{} {}", "{} {}", "the {} {}", "all {} {}", "exactly {} {}")).format(
        number, noun.say(plural=True)
    )
    return text, among if count == len(among) else [], parse


def _excluded(shapes: list[Shape], rng: Rng) -> Said:
    if len(shapes) < 2:
        return None
    base = noun_of(rng, one_of(rng, shapes)) if rng.random() < 0.35 else None
    # mostly a part of what it is taken from, or all of that
    noun = noun_of(rng, one_of(rng, base.among(shapes) if base and rng.random() < 0.6 else shapes))
    if rng.random() < 0.06:
        noun = wrong_noun(rng, shapes, color=rng.random() < 0.5, kind=True)
    left = [shape for shape in (base.among(shapes) if base else shapes) if not noun.matches(shape)]
    many = len(noun.among(shapes)) > 1
    what = pick(rng, ("the {}", "the {}", "the {}", "{}", "any {}")).format(noun.say(plural=many))
    if not base:
        return pick(rng, EXCEPT).format(what), left, Parse("except", new_noun(rng, None), noun)
    if (base.kind, base.color) == (noun.kind, noun.color):
        return None  # "all the rings but the rings"
    way = pick(rng, ("all the {} except {}", "all {} but {}", "the {} except {}"))
    return way.format(base.say(plural=True), what), left, Parse("except", base, noun)


def _foreign(shapes: list[Shape], rng: Rng) -> Said:
    """Things of the wide world, alone, described in words of this one, or beside what is here."""
    thing = pick(rng, FOREIGN)
    noun = noun_of(rng, one_of(rng, shapes))
    here = noun.say()
    described = f"{pick(rng, list(COLORS) + list(SIZES))} {thing}"
    placed = f"{thing} {pick(rng, ('on the left', 'on the right', 'at the top', 'at the bottom', 'in the middle'))}"
    beside = f"{pick(rng, BESIDE[pick(rng, list(BESIDE))])} the"
    if rng.random() < 0.75:
        what = pick(rng, (thing, thing, described, described, placed, f"largest {thing}", f"{thing} {beside} {here}"))
        return pick(rng, ("the {}", "a {}", "{}", "all the {}", "two {}")).format(what), [], Parse("foreign", None)
    text = pick(rng, (f"the {here} {beside} {thing}", f"the {here} of the {thing}", f"the {thing} with a {here}"))
    return text, [], Parse("foreign", None)


KINDS: Final[Mapping[str, Callable[[list[Shape], Rng], Said]]] = {
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
