"""Asking for the second renderer: words, and what they mean by centres and visible areas."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from training.second_renderer.drawing import WORLD, Mask, Scene, Thing, draw_scene

NOUNS = {
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
COUNTS = ("two", "three", "four", "five", "six", "seven", "eight")
ELSEWHERE = "dog cat man woman car tree house bird horse chair banana bottle bicycle table elephant boat shoe cow bear"
AREA_MARGIN, PLACE_MARGIN = 1.15, 0.06  # what makes a difference clear: a ratio of areas, a part of the picture's side
EMPTY_SHARE = 0.18  # of the questions of every kind but "foreign", all of which have no target


@dataclass
class Asked:
    """An expression, its kind, and what it means: (h, w), True on the visible pixels of all that is meant."""

    text: str
    kind: str
    mask: Mask

    @property
    def no_target(self) -> bool:
        """Nothing in the picture is meant."""
        return not self.mask.any()


@dataclass(frozen=True)
class Description:
    """What a noun phrase says of a thing; what it leaves open is empty."""

    color: str = ""
    shape: str = ""
    size: str = ""

    def fits(self, thing: Thing) -> bool:
        said = (self.color, thing.color), (self.shape, thing.shape), (self.size, thing.size)
        return all(wanted in ("", there) for wanted, there in said)

    def among(self, scene: Scene) -> list[Thing]:
        return [thing for thing in scene.things if self.fits(thing)]

    def words(self, chance: Random, plural: bool = False) -> str:
        bare = not (self.color or self.size)
        noun = chance.choice(
            NOUNS[self.shape][: -1 if bare and not self.shape else None]
        )  # "two red ones", not "two ones"
        if plural:
            noun += "es" if noun.endswith(("s", "x")) else "s"
        size = chance.choice(["large", "large", "big"]) if self.size == "large" else self.size
        return " ".join(word for word in (size, self.color, noun) if word)


Question = tuple[str, list[Thing]]
Asker = Callable[[Scene, Random, bool], Question]


class Undecided(Exception):  # noqa: N818, not a failure
    """Nothing fair to ask came of this draw; another may do."""


def _describe(scene: Scene, chance: Random, names: Sequence[str], absent: bool) -> Description:
    """Describe something in the scene or, mostly with the words for what is there, something that is not."""
    for _ in range(20):
        one = chance.choice(scene.things)
        values = {name: str(getattr(one, name)) for name in names}
        if absent:
            there = chance.random() < 0.7
            for name in names:
                options = [str(getattr(thing, name)) for thing in scene.things] if there else WORLD[name]
                values[name] = chance.choice(options)
        description = Description(**values)
        if bool(description.among(scene)) != absent:
            return description
    raise Undecided


def _some(scene: Scene, chance: Random, absent: bool) -> Description:
    return _describe(scene, chance, chance.choice([(), ("shape",), ("color",), ("color", "shape")]), absent)


def _named(
    description: Description, chance: Random, count: int, articles: Sequence[str] = ("the", "the", "a", "")
) -> str:
    """A noun phrase for `count` things; article and grammatical number bind nothing, so they may differ from it."""
    plural = chance.random() < (0.3, 0.06, 0.7)[min(count, 2)]
    words = description.words(chance, plural)
    article = chance.choice(articles)
    if article == "a":
        article = chance.choice(["all", "all the"]) if plural else "an" if words[0] in "aeiou" else "a"
    return f"{article} {words}".strip()


def _first(ranks: Sequence[float], margin: float) -> int:
    """The index of the clearly smallest."""
    order = sorted(range(len(ranks)), key=lambda i: ranks[i])
    if len(order) > 1 and ranks[order[1]] - ranks[order[0]] < margin:
        raise Undecided
    return order[0]


def _plain(*names: str) -> Asker:
    def ask(scene: Scene, chance: Random, empty: bool) -> Question:
        free = [name for name in ("color", "shape") if "size" in names and chance.random() < 0.5]
        description = _describe(scene, chance, [*names, *free], empty)
        meant = description.among(scene)
        return _named(description, chance, len(meant)), meant

    return ask


def _superlative(scene: Scene, chance: Random, empty: bool) -> Question:
    description = _some(scene, chance, empty)
    word = chance.choice(["largest", "biggest", "smallest"])
    text = chance.choice(["the ", "the ", ""]) + f"{word} {description.words(chance)}"
    if empty:
        return text, []
    candidates = description.among(scene)
    sign = 1 if word == "smallest" else -1
    return text, [candidates[_first([sign * math.log(t.area) for t in candidates], math.log(AREA_MARGIN))]]


# the point of the picture that is meant, None where an axis does not count; how far off it, in sides, is too far:
# "on the left" says that it is on the left, which "leftmost" does not
PLACES: dict[str, tuple[float | None, float | None, float]] = {
    "leftmost {}": (0, None, 1),
    "rightmost {}": (1, None, 1),
    "topmost {}": (None, 0, 1),
    "lowest {}": (None, 1, 1),
    "{} on the left": (0, None, 0.46),
    "{} on the right": (1, None, 0.46),
    "{} at the top": (None, 0, 0.46),
    "{} at the bottom": (None, 1, 0.46),
    "{} in the middle": (0.5, 0.5, 0.2),
    "{} in the top left corner": (0, 0, 0.35),
    "{} in the top right corner": (1, 0, 0.35),
    "{} in the bottom left corner": (0, 1, 0.35),
    "{} in the bottom right corner": (1, 1, 0.35),
}


def _place(scene: Scene, chance: Random, empty: bool) -> Question:
    description = _some(scene, chance, empty)
    form, (px, py, limit) = chance.choice(list(PLACES.items()))
    text = chance.choice(["the ", "the ", ""]) + form.format(description.words(chance))
    if empty:
        return text, []
    candidates = description.among(scene)
    height, width = scene.owner.shape
    dx = [0.0 if px is None else abs(t.x / width - px) for t in candidates]
    dy = [0.0 if py is None else abs(t.y / height - py) for t in candidates]
    best = _first(list(map(math.hypot, dx, dy)), PLACE_MARGIN)
    # in the picture's own proportions and in pixels: where the two disagree nobody could tell
    long, high = width / min(height, width), height / min(height, width)
    in_pixels = _first([math.hypot(a * long, b * high) for a, b in zip(dx, dy, strict=True)], PLACE_MARGIN)
    if best != in_pixels or max(dx[best], dy[best]) > limit:
        raise Undecided
    return text, [candidates[best]]


# axis, and the sign of the anchor's coordinate less the other's
RELATIONS = {"left of": (0, 1), "to the left of": (0, 1), "right of": (0, -1), "to the right of": (0, -1)}
RELATIONS |= {"above": (1, 1), "below": (1, -1)}


def _relation(scene: Scene, chance: Random, empty: bool) -> Question:
    missing = chance.choice(["", "", "", "", "described", "anchor"]) if empty else ""
    description = _some(scene, chance, missing == "described")
    anchoring = _describe(scene, chance, chance.choice([("shape",), ("color", "shape")]), missing == "anchor")
    anchors, candidates = anchoring.among(scene), description.among(scene)
    alike = description.shape == anchoring.shape and ("" in (a := {description.color, anchoring.color}) or len(a) == 1)
    if alike or len(anchors) > 1:
        raise Undecided
    word = chance.choice([*RELATIONS, "above", "below", "next to", "next to"])
    meant: list[Thing] = []
    if not missing:
        meant = (_beside if word == "next to" else _along)(scene, candidates, anchors[0], word)
    return f"{_named(description, chance, len(meant))} {word} {_named(anchoring, chance, 1, ['the'])}", meant


def _along(scene: Scene, candidates: list[Thing], anchor: Thing, word: str) -> list[Thing]:
    axis, sign = RELATIONS[word]
    ahead = [(t, sign * (anchor.y - t.y if axis else anchor.x - t.x)) for t in candidates if t != anchor]
    if any(abs(d) < PLACE_MARGIN * scene.owner.shape[1 - axis] for _, d in ahead):
        raise Undecided
    return [t for t, d in ahead if d > 0]


def _beside(scene: Scene, candidates: list[Thing], anchor: Thing, word: str) -> list[Thing]:
    """The nearest of all things, by centres and by the gap between, when it is near and one of the candidates."""
    others, shorter = [thing for thing in scene.things if thing != anchor], min(scene.owner.shape)
    if not others:
        raise Undecided
    centers = [math.dist((t.x, t.y), (anchor.x, anchor.y)) for t in others]
    gaps = [d - t.radius - anchor.radius for d, t in zip(centers, others, strict=True)]
    best = _first([math.log(d) for d in centers], math.log(1.35))
    if best != _first(gaps, PLACE_MARGIN * shorter) or gaps[best] > 0.3 * shorter or others[best] not in candidates:
        raise Undecided
    return [others[best]]


def _number(scene: Scene, chance: Random, empty: bool) -> Question:
    if not empty and chance.random() < 0.15:
        whole = chance.choice(["everything", "everything in the picture", "all shapes", "all the objects"])
        return whole, list(scene.things)
    absent = empty and chance.random() < 0.15
    description = _some(scene, chance, absent)
    meant, words = description.among(scene), description.words(chance, plural=True)
    if absent or (not empty and len(meant) > 1 and chance.random() < 0.35):
        return chance.choice(["all the ", "all "]) + words, meant
    wrong = chance.randint(2, 8) if chance.random() < 0.4 else len(meant) + chance.choice([-1, 1])
    count = wrong if empty else len(meant)
    if not 2 <= count <= 8:
        raise Undecided
    return chance.choice(["", "", "the "]) + f"{COUNTS[count - 2]} {words}", meant if count == len(meant) else []


def _exclusion(scene: Scene, chance: Random, empty: bool) -> Question:
    whole = chance.choice(["everything", "everything", "all the shapes", "all objects"])
    names: Sequence[str] = chance.choice([("shape",), ("shape",), ("color", "shape"), ("color",)])
    inside = scene
    if chance.random() < (0.85 if empty else 0.3):  # "all the red shapes except the circle"
        kept, *names = chance.sample(["color", "shape"], 2)
        domain = _describe(scene, chance, [kept], absent=False)
        whole = "all the " + domain.words(chance, plural=True)
        inside = Scene(scene.image, scene.owner, tuple(domain.among(scene)))
    description = _describe(inside, chance, names, absent=False)
    out = description.among(inside)
    text = f"{whole} {chance.choice(['except', 'except', 'except for', 'but'])}"
    return f"{text} {_named(description, chance, len(out), ['the'])}", [t for t in inside.things if t not in out]


def _foreign(scene: Scene, chance: Random, empty: bool) -> Question:
    if chance.random() < 0.15:
        return _named(_describe(scene, chance, ("color", "shape"), absent=True), chance, 0), []
    forms = ["{a} {noun}", "the {noun}", "{color} {noun}", "the {color} {noun}", "all the {nouns}", "two {nouns}"]
    forms += ["the {noun} on the left", "the {noun} in the middle", "the largest {noun}", "the small {noun}"]
    forms += ["the {noun} next to the {there}", "the {noun} below the {there}", "the {there} above the {noun}"]
    noun, one = chance.choice(ELSEWHERE.split()), chance.choice(scene.things)
    words = {"noun": noun, "nouns": (noun + "s").replace("mans", "men"), "a": "an" if noun[0] in "aeiou" else "a"}
    there = Description(one.color, one.shape).words(chance)
    return chance.choice(forms).format(**words, color=chance.choice(WORLD["color"]), there=there), []


ASKERS: dict[str, Asker] = {
    "color and shape": _plain("color", "shape"),
    "shape": _plain("shape"),
    "color": _plain("color"),
    "size": _plain("size"),
    "superlative": _superlative,
    "place": _place,
    "relation": _relation,
    "number": _number,
    "exclusion": _exclusion,
    "foreign": _foreign,
}
POLITE = ["please show me {}", "{}, please", "could you find {}?", "can you mark {}, please?", "please select {}"]


def _dress(text: str, chance: Random) -> str:
    if chance.random() < 0.15:
        text = chance.choice(POLITE).format(text)
    if chance.random() < 0.25:
        text = text[0].upper() + text[1:] if chance.random() < 0.85 else text.upper()
    return text + chance.choice("...!") if chance.random() < 0.15 and text[-1] != "?" else text


def scenes_and_questions(seed: int, count: int, questions: int) -> Iterator[tuple[NDArray[np.uint8], list[Asked]]]:
    """Draw scenes and ask about them.

    Args:
        seed: what everything follows from; scene i of a seed does not depend on `count`.
        count: number of scenes.
        questions: number of different expressions for each scene; their kinds are drawn evenly.

    Yields:
        An (h, w, 3) uint8 RGB picture and the expressions about it.
    """
    for index in range(count):
        chance = Random(f"second renderer {seed} {index}")
        scene = draw_scene(chance)
        asked: dict[str, Asked] = {}
        while len(asked) < questions:
            kind = chance.choice(list(ASKERS))
            empty = kind == "foreign" or chance.random() < EMPTY_SHARE
            for _ in range(12):  # so that kinds in which less can be asked are asked about as often
                with suppress(Undecided):
                    text, meant = ASKERS[kind](scene, chance, empty)
                    if bool(meant) != empty:
                        text = _dress(text, chance)
                        asked.setdefault(text, Asked(text, kind, scene.mask(meant)))
                        break
        yield scene.image, list(asked.values())
