"""Drawing of the second renderer: signed distances to outlines, antialiased by the distance of a pixel to the edge."""

import colorsys
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sspsam.utils.arrays import Mask

Floats = NDArray[np.floating[Any]]
Labels = NDArray[np.uint8]

# ranges of hue in degrees, saturation and value in percent
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
SIZES = {"small": (0.08, 0.15), "large": (0.22, 0.36)}  # diameter of the circumscribed circle / shorter image side


@dataclass(frozen=True)
class Thing:
    """A drawn shape.

    Args:
        color: a name of `COLORS`.
        shape: a name of `OUTLINES`.
        size: a name of `SIZES`.
        x: centre of the visible pixels, in pixels.
        y: the same, downwards.
        radius: of the circumscribed circle, in pixels.
        area: number of visible pixels.
    """

    color: str
    shape: str
    size: str
    x: float
    y: float
    radius: float
    area: int = 0


@dataclass(frozen=True)
class Scene:
    """A drawn image and its things.

    Args:
        image: (h, w, 3) uint8 RGB.
        labels: (h, w) index of the visible thing plus one; 0 for the background.
        things: in the order of their labels.
    """

    image: NDArray[np.uint8]
    labels: Labels
    things: tuple[Thing, ...]

    def mask(self, targets: Sequence[Thing]) -> Mask:
        """Return the (h, w) union of the masks of some things."""
        is_target = np.array([False] + [thing in targets for thing in self.things])
        mask: Mask = is_target[self.labels]
        return mask


# ---- signed distances to outlines inside the unit circle; y points down, negative distances are inside


def _star(x: Floats, y: Floats, inner: float = 0.42) -> Floats:
    fold, r = math.pi / 5, np.hypot(x, y)
    t = np.abs((np.arctan2(x, -y) + fold) % (2 * fold) - fold)  # maps all ten edges onto one
    across, along = inner * math.sin(fold), 1 - inner * math.cos(fold)
    return np.asarray(((r * np.cos(t) - 1) * across + r * np.sin(t) * along) / math.hypot(across, along))


def _heart(x: Floats, y: Floats) -> Floats:
    (cx, cy), r, tip = (0.41, -0.31), 0.49, 0.95
    turn = math.atan2(cx, tip - cy) + math.asin(r / math.hypot(cx, tip - cy))  # tangent from the tip to a disc
    side = np.abs(x) * math.cos(turn) + (y - tip) * math.sin(turn)
    slope = r * math.sin(turn) / (cx + r * math.cos(turn))  # the wedge ends where the tangent touches the disc
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
ATTRIBUTES = {"color": tuple(COLORS), "shape": tuple(OUTLINES), "size": tuple(SIZES)}


def _random_color(rng: Random, hue: Sequence[float], saturation: Sequence[float], value: Sequence[float]) -> Floats:
    """(3,) RGB from 0 to 255, drawn from ranges of hue, saturation and value."""
    h, s, v = (rng.uniform(*span) for span in (hue, saturation, value))
    return np.array(colorsys.hsv_to_rgb(h / 360 % 1, s / 100, v / 100), dtype=np.float32) * 255


def _color_difference(a: Floats, b: Floats) -> float:
    """Perceived difference of two sRGB colours: CIE76."""
    linear = (np.stack([a, b]) / 255) ** 2.2
    xyz = linear @ np.array([[0.434, 0.213, 0.018], [0.376, 0.715, 0.109], [0.190, 0.072, 0.873]])
    root = np.cbrt(xyz)
    lab = np.stack([116 * root[:, 1] - 16, 500 * (root[:, 0] - root[:, 1]), 200 * (root[:, 1] - root[:, 2])], axis=1)
    return float(np.linalg.norm(lab[0] - lab[1]))


def _background(rng: Random, height: int, width: int) -> tuple[Floats, list[Floats]]:
    """A (h, w, 3) background, and its colours, from which shapes must differ."""
    hue, value = rng.uniform(0, 360), rng.uniform(8, 100)
    saturation = rng.choice([6, 30, 75]) * rng.random()
    second_value = value + rng.uniform(7, 20) * (1 if value < 54 else -1)
    first = _random_color(rng, (hue, hue), (saturation, saturation), (value, value))
    second = _random_color(rng, (hue - 25, hue + 25), (saturation, saturation), (second_value, second_value))
    mix = _pattern(rng, height, width)
    if mix is None:
        second, mix = first, np.zeros((height, width), dtype=np.float32)
    return np.clip(first + (second - first) * mix[..., None], 0, 255), [first, (first + second) / 2, second]


def _pattern(rng: Random, height: int, width: int) -> Floats | None:
    """(h, w) weight of the second background colour, or None for a plain background."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    turn, period = rng.uniform(0, math.pi), rng.uniform(0.05, 0.16) * min(height, width)
    u, v = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    pattern = rng.choice(["plain", "gradient", "noisy", "striped", "checked"])
    if pattern == "gradient":
        return np.asarray((u - u.min()) / (u.max() - u.min()))
    if pattern == "noisy":
        noise = np.random.default_rng(rng.getrandbits(64)).standard_normal((height, width), dtype=np.float32)
        return np.asarray(0.5 + rng.uniform(0.2, 0.5) * noise)
    if pattern == "striped":
        return np.asarray(u % period < period / 2, dtype=np.float32)
    if pattern == "checked":
        return np.asarray((u % period < period / 2) ^ (v % period < period / 2), dtype=np.float32)
    return None


def _paint(rng: Random, canvas: Floats, labels: Labels, thing: Thing, color: Floats, index: int) -> None:
    """Draw a thing into `canvas` and `labels`; half a pixel on either side of the outline is blended."""
    radius, turn = thing.radius, math.radians(rng.uniform(-12, 12))
    softness, reach = max(2.0, 0.25 * radius), 1.4 * radius + 4
    top, left = max(0, int(thing.y - reach)), max(0, int(thing.x - reach))
    box = np.s_[top : int(thing.y + reach) + 1, left : int(thing.x + reach) + 1]
    pixels = canvas[box]  # a view
    y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]].astype(np.float32) + np.float32(0.5)
    x, y = x + left - thing.x, y + top - thing.y

    def distance(x: Floats, y: Floats) -> Floats:  # in pixels
        a, b = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
        return (OUTLINES[thing.shape](a / radius, b / radius) * radius).astype(np.float32)

    if rng.random() < 0.3:
        away = rng.uniform(0.08, 0.16) * radius
        shadow = np.clip(0.5 - distance(x - rng.choice([-away, away]), y - away) / softness, 0, 1)
        pixels *= 1 - rng.uniform(0.2, 0.4) * shadow[..., None]
    distances = distance(x, y)
    fill = _fill(rng, thing, color, distances)
    pixels += (fill - pixels) * np.clip(0.5 - distances, 0, 1)[..., None]
    labels[box][distances < 0] = index + 1


def _fill(rng: Random, thing: Thing, color: Floats, distances: Floats) -> Floats:
    """The colour of a thing or, with probability 0.3, (h, w, 3) with a lighter or darker rim inside the outline."""
    if rng.random() >= 0.3:
        return color
    is_lighter = thing.color == "black" or (thing.color not in ("white", "yellow") and rng.random() < 0.4)
    tone = color + (255 - color) * np.float32(0.45) if is_lighter else color * np.float32(0.5)
    rim = np.clip(0.5 + distances + max(1.0, rng.uniform(0.05, 0.1) * thing.radius), 0, 1)[..., None]
    return np.asarray(color + (tone - color) * rim)


def draw_scene(rng: Random) -> Scene:
    """Draw one to eight things, of which other things hide a small part at most."""
    aspect = math.exp(rng.uniform(0, math.log(2.15)))
    shorter = math.exp(rng.uniform(math.log(160), math.log(1024 / aspect)))
    height, width = (round(side) for side in rng.sample([shorter, shorter * aspect], 2))
    canvas, background_colors = _background(rng, height, width)
    labels = np.zeros((height, width), dtype=np.uint8)
    palette = {name: rng.sample(values, rng.randint(2, 5)) for name, values in ATTRIBUTES.items() if name != "size"}
    things: list[Thing] = []
    count = rng.randint(1, 8)
    for thing in _random_things(rng, palette, (height, width), 40 * count):
        shade = _random_color(rng, *COLORS[thing.color])
        has_room = _has_room(rng, thing, things)
        if has_room and all(_color_difference(shade, other) > 32 for other in background_colors):
            _paint(rng, canvas, labels, thing, shade, len(things))
            things.append(thing)
            if len(things) == count:
                break
    if not things:  # no colour of this palette contrasts with this background
        return draw_scene(rng)
    return Scene(np.rint(canvas).astype(np.uint8), labels, _with_visible_centers(things, labels))


def _random_things(
    rng: Random, palette: dict[str, list[str]], shape: tuple[int, int], attempts: int
) -> Iterator[Thing]:
    """Yield things at random places inside an image of a given height and width."""
    height, width = shape
    for _ in range(attempts):
        size = rng.choice(["small", "large"])
        radius = rng.uniform(*SIZES[size]) * min(height, width) / 2
        x, y = (rng.uniform(radius + 2, side - radius - 2) for side in (width, height))
        yield Thing(rng.choice(palette["color"]), rng.choice(palette["shape"]), size, x, y, radius)


def _has_room(rng: Random, thing: Thing, things: list[Thing]) -> bool:
    """Return True if a thing is apart from all others or, with probability 0.08, overlaps other colours a little."""
    overlap = rng.random() < 0.08
    for other in things:
        gap = math.dist((thing.x, thing.y), (other.x, other.y))
        small, large = sorted((thing.radius, other.radius))
        may_overlap = overlap and gap > large + 0.55 * small and thing.color != other.color
        if not (gap > small + large + 3 or may_overlap):
            return False
    return True


def _with_visible_centers(things: list[Thing], labels: Labels) -> tuple[Thing, ...]:
    """Set the centre and the area of every thing to those of its visible pixels."""
    rows, columns = np.nonzero(labels)
    ids = labels[rows, columns]
    areas = np.bincount(ids)
    x_sums, y_sums = np.bincount(ids, columns + 0.5), np.bincount(ids, rows + 0.5)
    return tuple(
        replace(thing, x=float(x_sums[i] / areas[i]), y=float(y_sums[i] / areas[i]), area=int(areas[i]))
        for i, thing in enumerate(things, start=1)
    )
