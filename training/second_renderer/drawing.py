"""Drawing for the second renderer: signed distances to outlines, blended by how far a pixel lies inside."""

import colorsys
import math
from collections.abc import Callable, Sequence
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
class Scene:
    """`owner` is (h, w): the index of the thing seen at a pixel plus one, 0 for the background."""

    image: NDArray[np.uint8]
    owner: NDArray[np.uint8]
    things: tuple[Thing, ...]

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
WORLD = {"color": tuple(COLORS), "shape": tuple(OUTLINES), "size": tuple(SIZES)}


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
