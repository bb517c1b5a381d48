"""Generators of expressions about a scene, one for each kind of expression, with their targets.

Targets are determined by centres and visible areas. A generator raises `AmbiguousDraw` if a person could not tell the
answer to its random draw without doubt.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, NamedTuple

from training.second_renderer.drawing import ATTRIBUTES, Scene, Thing

NOUNS: Final[Mapping[str, tuple[str, ...]]] = {
    "circle": ("circle", "circle", "disc", "disk"),
    "square": ("square", "square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "cross": ("cross", "cross", "plus sign"),
    "ring": ("ring",),
    "diamond": ("diamond",),
    "heart": ("heart",),
    "": ("shape", "object", "thing", "one"),
}
COUNTS: Final = ("two", "three", "four", "five", "six", "seven", "eight")
# objects that the shapes world lacks
FOREIGN: Final = (
    "dog cat man woman car tree house bird horse chair banana bottle bicycle table elephant boat shoe cow bear"
)
AREA_RATIO: Final = 1.15  # least ratio of two areas that differ clearly
PLACE_MARGIN: Final = 0.06  # least difference of two positions that differ clearly, divided by a side of the image


@dataclass(frozen=True)
class Description:
    """The attributes that a noun phrase names; an attribute that it leaves open is empty."""

    color: str = ""
    shape: str = ""
    size: str = ""

    def matches(self, thing: Thing) -> bool:
        """Return True if a thing has all attributes of the description."""
        pairs = (self.color, thing.color), (self.shape, thing.shape), (self.size, thing.size)
        return all(expected in ("", actual) for expected, actual in pairs)

    def among(self, scene: Scene) -> list[Thing]:
        """Return the things that the description matches."""
        return [thing for thing in scene.things if self.matches(thing)]

    def words(self, rng: Random, plural: bool = False) -> str:
        """Return size, colour and a random noun, without an article."""
        has_adjective = bool(self.color or self.size)
        nouns = NOUNS[self.shape]
        if not has_adjective and not self.shape:
            nouns = nouns[:-1]  # "two red ones", but not "two ones"
        noun = rng.choice(nouns)
        if plural:
            noun += "es" if noun.endswith(("s", "x")) else "s"
        size = rng.choice(["large", "large", "big"]) if self.size == "large" else self.size
        return " ".join(word for word in (size, self.color, noun) if word)


class Expression(NamedTuple):
    """A generated expression and its targets."""

    text: str
    targets: list[Thing]


Generator = Callable[[Scene, Random, bool], Expression]  # the third argument asks for an expression without a target


class AmbiguousDraw(Exception):  # noqa: N818, control flow and not an error
    """A random draw gave no expression that a person could answer without doubt; another draw may."""


def _describe(scene: Scene, rng: Random, names: Sequence[str], absent: bool) -> Description:
    """Describe a thing of the scene by the named attributes.

    If `absent`, describe no thing of the scene, in most cases with attributes that its things have.
    """
    for _ in range(20):
        thing = rng.choice(scene.things)
        values = {name: str(getattr(thing, name)) for name in names}
        if absent:
            from_scene = rng.random() < 0.7
            for name in names:
                options = [str(getattr(other, name)) for other in scene.things] if from_scene else ATTRIBUTES[name]
                values[name] = rng.choice(options)
        description = Description(**values)
        if bool(description.among(scene)) != absent:
            return description
    raise AmbiguousDraw


def _describe_some(scene: Scene, rng: Random, absent: bool) -> Description:
    """Describe a thing by its colour, its shape, both, or neither."""
    return _describe(scene, rng, rng.choice([(), ("shape",), ("color",), ("color", "shape")]), absent)


def _noun_phrase(
    description: Description, rng: Random, count: int, articles: Sequence[str] = ("the", "the", "a", "")
) -> str:
    """A noun phrase for `count` things; article and grammatical number do not affect the targets, so they vary."""
    plural = rng.random() < (0.3, 0.06, 0.7)[min(count, 2)]
    words = description.words(rng, plural)
    article = rng.choice(articles)
    if article == "a":
        article = rng.choice(["all", "all the"]) if plural else "an" if words[0] in "aeiou" else "a"
    return f"{article} {words}".strip()


def _clear_minimum(values: Sequence[float], margin: float) -> int:
    """Index of the smallest value, which must be smaller than all others by a margin."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    if len(order) > 1 and values[order[1]] - values[order[0]] < margin:
        raise AmbiguousDraw
    return order[0]


def _description(*names: str) -> Generator:
    """Return a generator of noun phrases that name the given attributes."""

    def generate(scene: Scene, rng: Random, no_target: bool) -> Expression:
        optional = [name for name in ("color", "shape") if "size" in names and rng.random() < 0.5]
        description = _describe(scene, rng, [*names, *optional], no_target)
        targets = description.among(scene)
        return Expression(_noun_phrase(description, rng, len(targets)), targets)

    return generate


def _superlative(scene: Scene, rng: Random, no_target: bool) -> Expression:
    description = _describe_some(scene, rng, no_target)
    word = rng.choice(["largest", "biggest", "smallest"])
    text = rng.choice(["the ", "the ", ""]) + f"{word} {description.words(rng)}"
    if no_target:
        return Expression(text, [])
    candidates = description.among(scene)
    sign = 1 if word == "smallest" else -1
    best = _clear_minimum([sign * math.log(thing.area) for thing in candidates], math.log(AREA_RATIO))
    return Expression(text, [candidates[best]])


class Place(NamedTuple):
    """A place in the image.

    Args:
        x: coordinate of the place, as a fraction of the width; None if the place is a whole row.
        y: the same, of the height; None if the place is a whole column.
        limit: largest distance of a target along an axis, as a fraction: a target "on the left" must lie in the left
            half, one that is "leftmost" need not.
    """

    x: float | None
    y: float | None
    limit: float


PLACES: Final[Mapping[str, Place]] = {
    "leftmost {}": Place(0, None, 1),
    "rightmost {}": Place(1, None, 1),
    "topmost {}": Place(None, 0, 1),
    "lowest {}": Place(None, 1, 1),
    "{} on the left": Place(0, None, 0.46),
    "{} on the right": Place(1, None, 0.46),
    "{} at the top": Place(None, 0, 0.46),
    "{} at the bottom": Place(None, 1, 0.46),
    "{} in the middle": Place(0.5, 0.5, 0.2),
    "{} in the top left corner": Place(0, 0, 0.35),
    "{} in the top right corner": Place(1, 0, 0.35),
    "{} in the bottom left corner": Place(0, 1, 0.35),
    "{} in the bottom right corner": Place(1, 1, 0.35),
}


def _placed(scene: Scene, rng: Random, no_target: bool) -> Expression:
    description = _describe_some(scene, rng, no_target)
    template, place = rng.choice(list(PLACES.items()))
    text = rng.choice(["the ", "the ", ""]) + template.format(description.words(rng))
    if no_target:
        return Expression(text, [])
    candidates = description.among(scene)
    return Expression(text, [candidates[_index_nearest_place(scene, candidates, place)]])


def _index_nearest_place(scene: Scene, candidates: list[Thing], place: Place) -> int:
    height, width = scene.labels.shape
    dx = [0.0 if place.x is None else abs(thing.x / width - place.x) for thing in candidates]
    dy = [0.0 if place.y is None else abs(thing.y / height - place.y) for thing in candidates]
    best = _clear_minimum(list(map(math.hypot, dx, dy)), PLACE_MARGIN)
    # distances as fractions of the sides, and distances in pixels: if the two disagree, the expression is ambiguous
    x_scale, y_scale = width / min(height, width), height / min(height, width)
    in_pixels = [math.hypot(a * x_scale, b * y_scale) for a, b in zip(dx, dy, strict=True)]
    if best != _clear_minimum(in_pixels, PLACE_MARGIN) or max(dx[best], dy[best]) > place.limit:
        raise AmbiguousDraw
    return best


# axis, and the sign of (coordinate of the landmark - coordinate of a target)
RELATIONS: Final[Mapping[str, tuple[int, int]]] = {
    "left of": (0, 1),
    "to the left of": (0, 1),
    "right of": (0, -1),
    "to the right of": (0, -1),
    "above": (1, 1),
    "below": (1, -1),
}


def _relation(scene: Scene, rng: Random, no_target: bool) -> Expression:
    absent = rng.choice(["", "", "", "", "described", "anchor"]) if no_target else ""
    description = _describe_some(scene, rng, absent == "described")
    landmark_names = rng.choice([("shape",), ("color", "shape")])
    landmark_description = _describe(scene, rng, landmark_names, absent == "anchor")
    landmarks, candidates = landmark_description.among(scene), description.among(scene)
    colors = {description.color, landmark_description.color}
    may_be_same = description.shape == landmark_description.shape and ("" in colors or len(colors) == 1)
    if may_be_same or len(landmarks) > 1:
        raise AmbiguousDraw
    relation = rng.choice([*RELATIONS, "above", "below", "next to", "next to"])
    targets: list[Thing] = []
    if not absent:
        targets = _related(scene, candidates, landmarks[0], relation)
    phrase = _noun_phrase(description, rng, len(targets))
    return Expression(f"{phrase} {relation} {_noun_phrase(landmark_description, rng, 1, ['the'])}", targets)


def _related(scene: Scene, candidates: list[Thing], landmark: Thing, relation: str) -> list[Thing]:
    if relation == "next to":
        return [_nearest(scene, candidates, landmark)]
    axis, sign = RELATIONS[relation]
    offsets = [
        (thing, sign * (landmark.y - thing.y if axis else landmark.x - thing.x))
        for thing in candidates
        if thing != landmark
    ]
    if any(abs(offset) < PLACE_MARGIN * scene.labels.shape[1 - axis] for _, offset in offsets):
        raise AmbiguousDraw
    return [thing for thing, offset in offsets if offset > 0]


def _nearest(scene: Scene, candidates: list[Thing], landmark: Thing) -> Thing:
    """Nearest of all things, both by centres and by the gap between outlines; it must be close, and a candidate."""
    others, shorter = [thing for thing in scene.things if thing != landmark], min(scene.labels.shape)
    if not others:
        raise AmbiguousDraw
    distances = [math.dist((thing.x, thing.y), (landmark.x, landmark.y)) for thing in others]
    gaps = [distance - thing.radius - landmark.radius for distance, thing in zip(distances, others, strict=True)]
    best = _clear_minimum([math.log(distance) for distance in distances], math.log(1.35))
    is_nearest_by_gap = best == _clear_minimum(gaps, PLACE_MARGIN * shorter)
    if not is_nearest_by_gap or gaps[best] > 0.3 * shorter or others[best] not in candidates:
        raise AmbiguousDraw
    return others[best]


def _number(scene: Scene, rng: Random, no_target: bool) -> Expression:
    if not no_target and rng.random() < 0.15:
        text = rng.choice(["everything", "everything in the picture", "all shapes", "all the objects"])
        return Expression(text, list(scene.things))
    absent = no_target and rng.random() < 0.15
    description = _describe_some(scene, rng, absent)
    candidates, words = description.among(scene), description.words(rng, plural=True)
    if absent or (not no_target and len(candidates) > 1 and rng.random() < 0.35):
        return Expression(rng.choice(["all the ", "all "]) + words, candidates)
    wrong_count = rng.randint(2, 8) if rng.random() < 0.4 else len(candidates) + rng.choice([-1, 1])
    count = wrong_count if no_target else len(candidates)
    if not 2 <= count <= 8:
        raise AmbiguousDraw
    text = rng.choice(["", "", "the "]) + f"{COUNTS[count - 2]} {words}"
    return Expression(text, candidates if count == len(candidates) else [])


def _exclusion(scene: Scene, rng: Random, no_target: bool) -> Expression:
    base_words = rng.choice(["everything", "everything", "all the shapes", "all objects"])
    names: Sequence[str] = rng.choice([("shape",), ("shape",), ("color", "shape"), ("color",)])
    base = scene
    if rng.random() < (0.85 if no_target else 0.3):  # "all the red shapes except the circle"
        base_name, *names = rng.sample(["color", "shape"], 2)
        base_description = _describe(scene, rng, [base_name], absent=False)
        base_words = "all the " + base_description.words(rng, plural=True)
        base = Scene(scene.image, scene.labels, tuple(base_description.among(scene)))
    description = _describe(base, rng, names, absent=False)
    excluded = description.among(base)
    text = f"{base_words} {rng.choice(['except', 'except', 'except for', 'but'])}"
    text = f"{text} {_noun_phrase(description, rng, len(excluded), ['the'])}"
    return Expression(text, [thing for thing in base.things if thing not in excluded])


def _foreign(scene: Scene, rng: Random, no_target: bool) -> Expression:
    """Name an object that the shapes world lacks or, with probability 0.15, an absent shape."""
    if rng.random() < 0.15:
        return Expression(_noun_phrase(_describe(scene, rng, ("color", "shape"), absent=True), rng, 0), [])
    forms = ["{a} {noun}", "the {noun}", "{color} {noun}", "the {color} {noun}", "all the {nouns}", "two {nouns}"]
    forms += ["the {noun} on the left", "the {noun} in the middle", "the largest {noun}", "the small {noun}"]
    forms += ["the {noun} next to the {shape}", "the {noun} below the {shape}", "the {shape} above the {noun}"]
    noun, thing = rng.choice(FOREIGN.split()), rng.choice(scene.things)
    words = {"noun": noun, "nouns": (noun + "s").replace("mans", "men"), "a": "an" if noun[0] in "aeiou" else "a"}
    shape = Description(thing.color, thing.shape).words(rng)
    return Expression(rng.choice(forms).format(**words, color=rng.choice(ATTRIBUTES["color"]), shape=shape), [])


GENERATORS: Final[Mapping[str, Generator]] = {
    "color and shape": _description("color", "shape"),
    "shape": _description("shape"),
    "color": _description("color"),
    "size": _description("size"),
    "superlative": _superlative,
    "place": _placed,
    "relation": _relation,
    "number": _number,
    "exclusion": _exclusion,
    "foreign": _foreign,
}
