"""A second program that draws the shapes world and asks about it, sharing nothing with the one that draws to train.

What was learnt from one program's pictures and words is measured on another's: outlines are signed distances here, and
colours, backgrounds, sentences and rules of meaning are written anew. Only what a person can decide is asked.
"""

import colorsys
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

# hue in degrees, saturation and value in percent: from, to
COLORS = {
    "red": ((-8, 5), (82, 100), (72, 96)),
    "green": ((98, 145), (60, 100), (45, 82)),
    "blue": ((215, 236), (75, 100), (58, 98)),
    "yellow": ((50, 59), (78, 100), (90, 100)),
    "purple": ((269, 288), (55, 88), (48, 76)),
    "orange": ((22, 34), (85, 100), (92, 100)),
    "white": ((0, 360), (0, 3), (95, 100)),
    "black": ((0, 360), (0, 30), (0, 11)),
    "pink": ((325, 345), (32, 56), (95, 100)),
    "cyan": ((176, 188), (68, 100), (84, 100)),
}
SIZES = {"small": (0.08, 0.15), "large": (0.22, 0.36)}  # diameter of the circle around a shape / the shorter side
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
WORLD = {"color": tuple(COLORS), "shape": tuple(NOUNS)[:-1], "size": tuple(SIZES)}
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
class Thing:
    """A drawn shape: `x y` the centre of its visible pixels, `area` their number, `radius` of the circle around it."""

    color: str
    shape: str
    size: str
    x: float
    y: float
    radius: float
    area: int = 0


@dataclass(frozen=True)
class Description:
    """What a noun phrase says of a thing; what it leaves open is empty."""

    color: str = ""
    shape: str = ""
    size: str = ""

    def fits(self, thing: Thing) -> bool:
        said = (self.color, thing.color), (self.shape, thing.shape), (self.size, thing.size)
        return all(wanted in ("", there) for wanted, there in said)

    def words(self, chance: Random, plural: bool = False) -> str:
        bare = not (self.color or self.size)
        noun = chance.choice(
            NOUNS[self.shape][: -1 if bare and not self.shape else None]
        )  # "two red ones", not "two ones"
        if plural:
            noun += "es" if noun.endswith(("s", "x")) else "s"
        size = chance.choice(["large", "large", "big"]) if self.size == "large" else self.size
        return " ".join(word for word in (size, self.color, noun) if word)


@dataclass(frozen=True)
class Scene:
    """`owner` is (h, w): the index of the thing seen at a pixel plus one, 0 for the background."""

    image: NDArray[np.uint8]
    owner: NDArray[np.uint8]
    things: tuple[Thing, ...]

    def matches(self, description: Description) -> list[Thing]:
        return [thing for thing in self.things if description.fits(thing)]

    def mask(self, meant: Sequence[Thing]) -> Mask:
        chosen = np.array([False] + [thing in meant for thing in self.things])
        seen: Mask = chosen[self.owner]
        return seen


# ---- drawing: signed distances to outlines inside the unit circle, y downwards, negative inside


def _star(x: Floats, y: Floats, inner: float = 0.42) -> Floats:
    fold, r = math.pi / 5, np.hypot(x, y)
    t = np.abs((np.arctan2(x, -y) + fold) % (2 * fold) - fold)  # all ten edges folded onto one
    across, along = inner * math.sin(fold), 1 - inner * math.cos(fold)
    return np.asarray(((r * np.cos(t) - 1) * across + r * np.sin(t) * along) / math.hypot(across, along))


def _heart(x: Floats, y: Floats) -> Floats:
    (cx, cy), r, tip = (0.41, -0.31), 0.49, 0.95
    turn = math.atan2(cx, tip - cy) + math.asin(r / math.hypot(cx, tip - cy))  # the tangent from the tip to a disc
    side = np.abs(x) * math.cos(turn) + (y - tip) * math.sin(turn)
    slope = r * math.sin(turn) / (cx + r * math.cos(turn))  # the wedge ends where the tangent touches
    wedge = np.maximum(side, (cy + slope * np.abs(x) - y) / math.hypot(1, slope))
    return np.asarray(np.minimum(np.hypot(np.abs(x) - cx, y - cy) - r, wedge))


def _cross(x: Floats, y: Floats, long: float = 0.94, wide: float = 0.31) -> Floats:
    a, b = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(a - long, b - wide), np.maximum(b - long, a - wide))


OUTLINES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "circle": lambda x, y: np.hypot(x, y) - 1,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) - math.sqrt(0.5),
    "triangle": lambda x, y: np.maximum(y - 0.5, np.abs(x) * math.sqrt(0.75) - y / 2 - 0.5),
    "star": _star,
    "cross": _cross,
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.79) - 0.21,
    "diamond": lambda x, y: (np.abs(x) / 0.68 + np.abs(y) - 1) / math.hypot(1 / 0.68, 1),
    "heart": _heart,
}


def _color(chance: Random, hue: Sequence[float], saturation: Sequence[float], value: Sequence[float]) -> Floats:
    h, s, v = (chance.uniform(*span) for span in (hue, saturation, value))
    return np.array(colorsys.hsv_to_rgb(h / 360 % 1, s / 100, v / 100), dtype=np.float32) * 255


def _difference(a: Floats, b: Floats) -> float:
    """How different two sRGB colours look: CIE76."""
    linear = (np.stack([a, b]) / 255) ** 2.2
    xyz = linear @ np.array([[0.434, 0.213, 0.018], [0.376, 0.715, 0.109], [0.190, 0.072, 0.873]])
    root = np.cbrt(xyz)
    lab = np.stack([116 * root[:, 1] - 16, 500 * (root[:, 0] - root[:, 1]), 200 * (root[:, 1] - root[:, 2])], axis=1)
    return float(np.linalg.norm(lab[0] - lab[1]))


def _background(chance: Random, height: int, width: int) -> tuple[Floats, list[Floats]]:
    """A (h, w, 3) background and the tones that shapes must stand out from."""
    hue, value = chance.uniform(0, 360), chance.uniform(8, 100)
    saturation = chance.choice([6, 30, 75]) * chance.random()
    other = value + chance.uniform(7, 20) * (1 if value < 54 else -1)
    one = _color(chance, (hue, hue), (saturation, saturation), (value, value))
    two = _color(chance, (hue - 25, hue + 25), (saturation, saturation), (other, other))
    y, x = np.mgrid[:height, :width].astype(np.float32)
    turn, period = chance.uniform(0, math.pi), chance.uniform(0.05, 0.16) * min(height, width)
    u, v = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    kind = chance.choice(["plain", "gradient", "noisy", "striped", "checked"])
    if kind == "gradient":
        mix = (u - u.min()) / (u.max() - u.min())
    elif kind == "noisy":
        noise = np.random.default_rng(chance.getrandbits(64)).standard_normal((height, width), dtype=np.float32)
        mix = 0.5 + chance.uniform(0.2, 0.5) * noise
    elif kind == "striped":
        mix = np.float32(u % period < period / 2)
    elif kind == "checked":
        mix = np.float32((u % period < period / 2) ^ (v % period < period / 2))
    else:
        two, mix = one, np.zeros_like(u)
    return np.clip(one + (two - one) * mix[..., None], 0, 255), [one, (one + two) / 2, two]


def _paint(chance: Random, canvas: Floats, owner: NDArray[np.uint8], thing: Thing, color: Floats, index: int) -> None:
    """Draw a thing into `canvas` and `owner`; half a pixel either side of the outline is blended."""
    radius, turn = thing.radius, math.radians(chance.uniform(-12, 12))
    soft, reach = max(2.0, 0.25 * radius), 1.4 * radius + 4
    top, left = max(0, int(thing.y - reach)), max(0, int(thing.x - reach))
    part = np.s_[top : int(thing.y + reach) + 1, left : int(thing.x + reach) + 1]
    seen = canvas[part]
    y, x = np.mgrid[: seen.shape[0], : seen.shape[1]].astype(np.float32) + np.float32(0.5)
    x, y = x + left - thing.x, y + top - thing.y

    def distance(x: Floats, y: Floats) -> Floats:  # in pixels
        a, b = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
        return (OUTLINES[thing.shape](a / radius, b / radius) * radius).astype(np.float32)

    if chance.random() < 0.3:
        away = chance.uniform(0.08, 0.16) * radius
        shadow = np.clip(0.5 - distance(x - chance.choice([-away, away]), y - away) / soft, 0, 1)
        seen *= 1 - chance.uniform(0.2, 0.4) * shadow[..., None]
    d = distance(x, y)
    fill: Floats = color
    if chance.random() < 0.3:
        lighter = thing.color == "black" or (thing.color not in ("white", "yellow") and chance.random() < 0.4)
        tone = color + (255 - color) * np.float32(0.45) if lighter else color * np.float32(0.5)
        rim = np.clip(0.5 + d + max(1.0, chance.uniform(0.05, 0.1) * radius), 0, 1)[..., None]
        fill = color + (tone - color) * rim
    seen += (fill - seen) * np.clip(0.5 - d, 0, 1)[..., None]
    owner[part][d < 0] = index + 1


def draw_scene(chance: Random) -> Scene:
    """Draw one to eight things, no more than a little of any of them hidden."""
    aspect = math.exp(chance.uniform(0, math.log(2.15)))
    shorter = math.exp(chance.uniform(math.log(160), math.log(1024 / aspect)))
    height, width = (round(side) for side in chance.sample([shorter, shorter * aspect], 2))
    canvas, tones = _background(chance, height, width)
    owner = np.zeros((height, width), dtype=np.uint8)
    palette = {name: chance.sample(options, chance.randint(2, 5)) for name, options in WORLD.items() if name != "size"}
    things: list[Thing] = []
    wanted = chance.randint(1, 8)
    for _ in range(40 * wanted):
        size = chance.choice(["small", "large"])
        radius = chance.uniform(*SIZES[size]) * min(height, width) / 2
        x, y = (chance.uniform(radius + 2, side - radius - 2) for side in (width, height))
        thing = Thing(chance.choice(palette["color"]), chance.choice(palette["shape"]), size, x, y, radius)
        shade = _color(chance, *COLORS[thing.color])
        gaps = [(math.dist((x, y), (o.x, o.y)), sorted((radius, o.radius)), o.color) for o in things]
        overlap = chance.random() < 0.08
        clear = all(
            gap > small + large + 3 or (overlap and gap > large + 0.55 * small and color != thing.color)
            for gap, (small, large), color in gaps
        )
        if clear and all(_difference(shade, tone) > 32 for tone in tones):
            _paint(chance, canvas, owner, thing, shade, len(things))
            things.append(thing)
            if len(things) == wanted:
                break
    if not things:  # nothing of this palette shows on this background
        return draw_scene(chance)
    rows, columns = np.nonzero(owner)
    ids = owner[rows, columns]
    areas = np.bincount(ids)
    sums = np.bincount(ids, columns + 0.5), np.bincount(ids, rows + 0.5)
    seen = [
        replace(thing, x=float(sums[0][i] / areas[i]), y=float(sums[1][i] / areas[i]), area=int(areas[i]))
        for i, thing in enumerate(things, start=1)
    ]
    return Scene(np.rint(canvas).astype(np.uint8), owner, tuple(seen))


# ---- asking: every asker returns words and what they mean, and raises Undecided where a person could not tell

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
        if bool(scene.matches(description)) != absent:
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
        meant = scene.matches(description)
        return _named(description, chance, len(meant)), meant

    return ask


def _superlative(scene: Scene, chance: Random, empty: bool) -> Question:
    description = _some(scene, chance, empty)
    word = chance.choice(["largest", "biggest", "smallest"])
    text = chance.choice(["the ", "the ", ""]) + f"{word} {description.words(chance)}"
    if empty:
        return text, []
    candidates = scene.matches(description)
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
    candidates = scene.matches(description)
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
    anchors, candidates = scene.matches(anchoring), scene.matches(description)
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
    meant, words = scene.matches(description), description.words(chance, plural=True)
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
        inside = Scene(scene.image, scene.owner, tuple(scene.matches(domain)))
    description = _describe(inside, chance, names, absent=False)
    out = inside.matches(description)
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
