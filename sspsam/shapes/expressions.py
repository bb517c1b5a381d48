"""Generators of expressions about a scene of the shapes world, one for each kind of expression, with their targets.

The targets are all shapes that match, whatever the article or the grammatical number. A superlative or a place has the
single extreme shape as its target, by visible area or by centre. A relation compares centres along its axis. An
expression that does not hold has no target. A generator returns None if its random draw would be ambiguous.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from sspsam.shapes.drawing import COLORS, Rng, Shape
from sspsam.shapes.nouns import Noun, absent_noun, matching_noun, new_noun, noun_phrase, random_shape, random_text
from sspsam.shapes.parse import Parse
from sspsam.shapes.words import (
    COMPARATIVES,
    EXCEPT_TEMPLATES,
    FOREIGN,
    MIDDLE_TEMPLATES,
    NUMBERS,
    RELATIONS,
    SIZES,
    corner_templates,
    end_templates,
    side_templates,
)

_AREA_RATIO: Final = 1.15  # least ratio of the areas of the largest shape and the next
_PLACE_MARGIN: Final = 0.05  # least difference of two positions, divided by the longer side of the image
_NEAREST_RATIO: Final = 1.3  # least ratio of the distances of the second nearest shape and the nearest


class Expression(NamedTuple):
    """A generated expression: its text, its target shapes, and its structure."""

    text: str
    targets: list[Shape]
    parse: Parse


Generator = Callable[[list[Shape], Rng], Expression | None]


def _description(color: bool, kind: bool, size: bool = False) -> Generator:
    """Return a generator of noun phrases that name the given attributes."""

    def generate(shapes: list[Shape], rng: Rng) -> Expression | None:
        shape = random_shape(rng, shapes)
        if rng.random() < 0.25:
            noun = absent_noun(rng, shapes, color=color, kind=kind, size=size)
            return Expression(noun_phrase(rng, noun, rng.random() < 0.3), [], Parse("all", noun))
        if size and shape.size is None:
            return None
        size_name = shape.size if size else None
        noun = new_noun(rng, shape.kind if kind else None, shape.color if color else None, size_name)
        targets = noun.among(shapes)
        text = noun_phrase(rng, noun, len(targets) > 1 or rng.random() < 0.1)
        return Expression(text, targets, Parse("all", noun))

    return generate


def _sized(shapes: list[Shape], rng: Rng) -> Expression | None:
    color, kind = rng.random() < 0.4, rng.random() < 0.7
    return _description(color, kind, size=True)(shapes, rng)


def _candidate_noun(rng: Rng, shapes: list[Shape]) -> Noun:
    """Return the noun of a superlative or of a place: with probability 0.15 it describes no shape."""
    noun = new_noun(rng, None) if rng.random() < 0.4 else matching_noun(rng, random_shape(rng, shapes))
    if rng.random() < 0.15:
        noun = absent_noun(rng, shapes, color=rng.random() < 0.5, kind=True)
    return noun


def _clear_maximum(shapes: list[Shape], value: Callable[[Shape], float], margin: float) -> Shape | None:
    """Return the shape with the greatest value, or None if the next one is not lower by more than a margin."""
    ranked = sorted(shapes, key=value, reverse=True)
    if len(ranked) == 1 or value(ranked[0]) - value(ranked[1]) > margin:
        return ranked[0]
    return None


def _superlative(shapes: list[Shape], rng: Rng) -> Expression | None:
    noun = _candidate_noun(rng, shapes)
    word = random_text(rng, ("largest", "biggest", "smallest", "smallest"))
    text = f"the {word} {noun.say()}"
    candidates, parse = noun.among(shapes), Parse("smallest" if word == "smallest" else "largest", noun)
    if not candidates:
        return Expression(text, [], parse)
    if len(candidates) == 2 and rng.random() < 0.3:
        text = f"the {random_text(rng, COMPARATIVES[word])} {noun.say()}"
    sign = -1 if word == "smallest" else 1
    target = _clear_maximum(candidates, lambda shape: sign * math.log(shape.area), math.log(_AREA_RATIO))
    return Expression(text, [target], parse) if target else None


class _Place(NamedTuple):
    operation: str
    templates: tuple[str, ...]
    value: Callable[[Shape], float]  # greatest for the target


def _placed(shapes: list[Shape], rng: Rng) -> Expression | None:
    places = (*_edges(), *_corners_and_middle(shapes))
    place = places[int(rng.integers(len(places)))]
    noun = _candidate_noun(rng, shapes)
    text = random_text(rng, place.templates).format(noun.say())
    candidates, parse = noun.among(shapes), Parse(place.operation, noun)
    if not candidates:
        return Expression(text, [], parse)
    target = _clear_maximum(candidates, place.value, _PLACE_MARGIN * max(candidates[0].mask.shape))
    return Expression(text, [target], parse) if target else None


def _edges() -> Sequence[_Place]:
    top = (*end_templates("top"), "the topmost {}", "the highest {}", "the uppermost {}")
    bottom = (*end_templates("bottom"), "the bottommost {}", "the lowest {}")
    return [
        _Place("leftmost", (*side_templates("left"), "the leftmost {}"), lambda shape: -shape.center[0]),
        _Place("rightmost", (*side_templates("right"), "the rightmost {}"), lambda shape: shape.center[0]),
        _Place("topmost", top, lambda shape: -shape.center[1]),
        _Place("lowest", bottom, lambda shape: shape.center[1]),
    ]


def _corners_and_middle(shapes: list[Shape]) -> Sequence[_Place]:
    height, width = shapes[0].mask.shape

    def nearness(x: float, y: float) -> Callable[[Shape], float]:
        return lambda shape: -math.hypot(shape.center[0] - x, shape.center[1] - y)

    return [
        _Place("middle", MIDDLE_TEMPLATES, nearness(width / 2, height / 2)),
        _Place("top left", corner_templates(("top", "upper"), "left"), nearness(0, 0)),
        _Place("top right", corner_templates(("top", "upper"), "right"), nearness(width, 0)),
        _Place("bottom left", corner_templates(("bottom", "lower"), "left"), nearness(0, height)),
        _Place("bottom right", corner_templates(("bottom", "lower"), "right"), nearness(width, height)),
    ]


_RELATION_OPERATIONS: Final = {
    "left": "left of",
    "right": "right of",
    "above": "above",
    "below": "below",
    "next": "next to",
}
_RELATION_AXES: Final = {"left": (0, -1), "right": (0, 1), "above": (1, -1), "below": (1, 1)}  # axis, sign of offset


def _relation(shapes: list[Shape], rng: Rng) -> Expression | None:
    """`the star left of the red circle`: the described shapes on that side of the single landmark."""
    if len(shapes) < 2:
        return None
    landmark = random_shape(rng, shapes)
    relation = random_text(rng, list(RELATIONS))
    words = f"{random_text(rng, RELATIONS[relation])} {random_text(rng, ('the', 'the', 'the', 'a'))}"
    operation = _RELATION_OPERATIONS[relation]
    if rng.random() < 0.1:  # no shape is beside an absent landmark
        absent = absent_noun(rng, shapes, color=rng.random() < 0.6, kind=True)
        noun = matching_noun(rng, landmark)
        return Expression(f"the {noun.say()} {words} {absent.say()}", [], Parse(operation, noun, absent))
    landmark_noun = _unique_noun(rng, landmark, shapes)
    if landmark_noun is None:
        return None
    others = [shape for shape in shapes if shape is not landmark]
    noun = new_noun(rng, None) if rng.random() < 0.25 else matching_noun(rng, random_shape(rng, others))
    if noun.matches(landmark) and noun.kind is not None and noun.color is None:
        return None  # "the star left of the red star" is unclear unless the first star is named with its colour
    article = random_text(rng, ("the ", "the ", "a ", "all ", ""))
    targets = _related(noun.among(others), others, landmark, relation)
    if targets is None:
        return None
    text = f"{article}{noun.say()} {words} {landmark_noun.say()}"
    return Expression(text, targets, Parse(operation, noun, landmark_noun))


def _unique_noun(rng: Rng, shape: Shape, shapes: list[Shape]) -> Noun | None:
    """Return a noun that describes this shape and no other, or None if neither of two attempts does."""
    noun = matching_noun(rng, shape, kind_optional=False)
    if len(noun.among(shapes)) != 1:
        noun = new_noun(rng, shape.kind, shape.color)
    return noun if len(noun.among(shapes)) == 1 else None


def _related(candidates: list[Shape], others: list[Shape], landmark: Shape, relation: str) -> list[Shape] | None:
    """Return the candidates in a relation to the landmark, or None if that is ambiguous."""
    if relation == "next":
        return _nearest(candidates, others, landmark)
    axis, sign = _RELATION_AXES[relation]
    offsets = [sign * (shape.center[axis] - landmark.center[axis]) for shape in candidates]
    if any(abs(offset) < _PLACE_MARGIN * max(landmark.mask.shape) for offset in offsets):
        return None
    return [shape for shape, offset in zip(candidates, offsets, strict=True) if offset > 0]


def _nearest(candidates: list[Shape], others: list[Shape], landmark: Shape) -> list[Shape] | None:
    """Return the shape nearest to the landmark if that is clear and it is the only candidate, else None."""
    ranked = sorted(others, key=lambda shape: math.dist(shape.center, landmark.center))
    distances = [math.dist(shape.center, landmark.center) for shape in ranked[:2]]
    is_clear = len(distances) == 1 or distances[1] > _NEAREST_RATIO * distances[0]
    return candidates if is_clear and candidates == [ranked[0]] else None


def _number(shapes: list[Shape], rng: Rng) -> Expression | None:
    choice = rng.random()
    if choice < 0.12:
        texts = ("everything", "all shapes", "all the shapes", "every shape", "all of them", "all objects")
        return Expression(random_text(rng, texts), shapes, Parse("all", new_noun(rng, None)))
    noun = matching_noun(rng, random_shape(rng, shapes))
    candidates = noun.among(shapes)
    if choice < 0.35:
        if rng.random() < 0.3:
            return Expression(f"every {noun.say()}", candidates, Parse("all", noun))
        template = random_text(rng, ("all the {}", "all {}"))
        return Expression(template.format(noun.say(plural=True)), candidates, Parse("all", noun))
    return _exact_number(noun, candidates, rng)


def _exact_number(noun: Noun, candidates: list[Shape], rng: Rng) -> Expression | None:
    """`three red stars`: all candidates if their number is right, else no target."""
    count = len(candidates)
    if rng.random() < 0.45:  # a wrong number, in most cases off by one
        count = count + int(rng.choice((-1, 1))) if rng.random() < 0.6 else int(rng.integers(2, 9))
    if not 2 <= count < len(NUMBERS):
        return None
    parse, plural = Parse("exactly", noun, number=count), noun.say(plural=True)
    number = str(count) if rng.random() < 0.1 else NUMBERS[count]
    if count == 2 and len(candidates) == 2 and rng.random() < 0.2:
        text = random_text(rng, ("both {}", "both the {}", "both of the {}")).format(plural)
        return Expression(text, candidates, parse)
    templates = ("{} {}", "{} {}", "the {} {}", "all {} {}", "exactly {} {}")
    text = random_text(rng, templates).format(number, plural)
    return Expression(text, candidates if count == len(candidates) else [], parse)


def _exclusion(shapes: list[Shape], rng: Rng) -> Expression | None:
    """`everything except the star`, or `all the red shapes except the star`: the base without the excluded shapes."""
    if len(shapes) < 2:
        return None
    base = matching_noun(rng, random_shape(rng, shapes)) if rng.random() < 0.35 else None
    # the excluded noun mostly describes some or all shapes of the base
    excluded = matching_noun(rng, random_shape(rng, base.among(shapes) if base and rng.random() < 0.6 else shapes))
    if rng.random() < 0.06:
        excluded = absent_noun(rng, shapes, color=rng.random() < 0.5, kind=True)
    targets = [shape for shape in (base.among(shapes) if base else shapes) if not excluded.matches(shape)]
    plural = len(excluded.among(shapes)) > 1
    phrase = random_text(rng, ("the {}", "the {}", "the {}", "{}", "any {}")).format(excluded.say(plural=plural))
    if not base:
        text = random_text(rng, EXCEPT_TEMPLATES).format(phrase)
        return Expression(text, targets, Parse("except", new_noun(rng, None), excluded))
    if (base.kind, base.color) == (excluded.kind, excluded.color):
        return None  # "all the rings but the rings"
    template = random_text(rng, ("all the {} except {}", "all {} but {}", "the {} except {}"))
    return Expression(template.format(base.say(plural=True), phrase), targets, Parse("except", base, excluded))


def _foreign(shapes: list[Shape], rng: Rng) -> Expression:
    """Name an object that the shapes world lacks: alone, described with the world's words, or beside a shape."""
    thing = random_text(rng, FOREIGN)
    shape = matching_noun(rng, random_shape(rng, shapes)).say()
    described = f"{random_text(rng, list(COLORS) + list(SIZES))} {thing}"
    places = ("on the left", "on the right", "at the top", "at the bottom", "in the middle")
    placed = f"{thing} {random_text(rng, places)}"
    relation = f"{random_text(rng, RELATIONS[random_text(rng, list(RELATIONS))])} the"
    if rng.random() < 0.75:
        phrases = (thing, thing, described, described, placed, f"largest {thing}", f"{thing} {relation} {shape}")
        phrase = random_text(rng, phrases)
        text = random_text(rng, ("the {}", "a {}", "{}", "all the {}", "two {}")).format(phrase)
    else:
        texts = (f"the {shape} {relation} {thing}", f"the {shape} of the {thing}", f"the {thing} with a {shape}")
        text = random_text(rng, texts)
    return Expression(text, [], Parse("foreign", None))


KINDS: Final[Mapping[str, Generator]] = {
    "color and shape": _description(color=True, kind=True),
    "shape": _description(color=False, kind=True),
    "color": _description(color=True, kind=False),
    "size": _sized,
    "superlative": _superlative,
    "place": _placed,
    "relation": _relation,
    "number": _number,
    "exclusion": _exclusion,
    "foreign": _foreign,
}
