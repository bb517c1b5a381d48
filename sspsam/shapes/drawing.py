"""Drawing scenes of the shapes world: seeded, with the exact mask of every shape."""

import colorsys
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Points = NDArray[np.float64]
Rng = np.random.Generator

# hue in degrees, saturation and value in percent: the middle of what goes by the name, and how far it may stray
COLORS: Final[Mapping[str, tuple[tuple[float, float, float], tuple[float, float, float]]]] = {
    "red": ((0, 86, 82), (8, 14, 18)),
    "green": ((125, 74, 66), (22, 26, 34)),
    "blue": ((226, 78, 78), (16, 22, 22)),
    "yellow": ((54, 84, 94), (7, 16, 6)),
    "purple": ((284, 70, 62), (17, 30, 22)),
    "orange": ((30, 91, 96), (9, 9, 4)),
    "white": ((0, 1.5, 97), (180, 1.5, 3)),
    "black": ((0, 12, 7), (180, 12, 7)),
    "pink": ((339, 43, 97), (14, 19, 3)),
    "cyan": ((184, 72, 91), (8, 28, 9)),
}
SMALL: Final = (0.08, 0.15)  # diameter over the shorter side of the picture
LARGE: Final = (0.22, 0.36)
_SAMPLES: Final = 4  # a side of a pixel is drawn with this many, for smooth edges
_VISIBLE: Final = 60.0  # least distance between the colours of a shape and of what lies behind it


def _regular(corners: int, turn: float = -90.0) -> Points:
    angles = np.radians(turn + 360.0 / corners * np.arange(corners))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _star(form: float) -> Points:
    points = np.repeat(_regular(5), 2, axis=0)
    points[1::2] = (0.44 + 0.09 * form) * _regular(5, -90.0 + 36.0)
    return points


def _cross(form: float) -> Points:
    one, ends = 0.32 + 0.07 * form, 1.0
    corners = [(-one, -ends), (one, -ends), (one, -one), (ends, -one), (ends, one), (one, one)]
    corners += [(one, ends), (-one, ends), (-one, one), (-ends, one), (-ends, -one), (-one, -one)]
    return np.array(corners)


def _heart(form: float) -> Points:
    t = np.linspace(0, 2 * math.pi, 60, endpoint=False)
    # the well-known heart curve, brought to about unit radius
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, (-y - 2.5) * (1 + 0.1 * form)], axis=1) / 16.5


def _ring(form: float) -> Points:
    """Outside clockwise, then inside the other way round: one polygon, whose seam has no width."""
    outside, inside = _regular(64), (0.55 + 0.12 * form) * _regular(64)
    return np.concatenate([outside, outside[:1], inside[:1], inside[::-1]])


# outlines in units of the radius; the form, from -1 to 1, is how thick, slender or high one is
OUTLINES: Final[Mapping[str, Callable[[float], Points]]] = {
    "circle": lambda form: _regular(64),
    "square": lambda form: _regular(4, 45.0) * 1.12,
    "triangle": lambda form: _regular(3) * (1.1, 1.1 + 0.12 * form) + (0, 0.15),
    "star": _star,
    "cross": _cross,
    "ring": _ring,
    "diamond": lambda form: _regular(4) * (0.76 + 0.2 * form, 1.06),
    "heart": _heart,
}


@dataclass(frozen=True, eq=False)
class Shape:
    """One shape of a scene.

    Args:
        kind: a name of `OUTLINES`.
        color: a name of `COLORS`.
        diameter: over the shorter side of the picture.
        center: x, y in pixels.
        mask: (h, w) what of it is visible.
    """

    kind: str
    color: str
    diameter: float
    center: tuple[float, float]
    mask: Mask

    @property
    def size(self) -> str | None:
        """`"small"`, `"large"`, or None in between."""
        return "small" if self.diameter <= SMALL[1] else "large" if self.diameter >= LARGE[0] else None

    @property
    def area(self) -> int:
        """Visible pixels."""
        return int(self.mask.sum())


@dataclass(frozen=True, eq=False)
class Scene:
    """A drawn picture and all that is in it: (h, w, 3) uint8 RGB, and its shapes."""

    pixels: Pixels
    shapes: tuple[Shape, ...]


def draw_scene(seed: int | Rng, size: tuple[int, int] | None = None, shapes: int | None = None) -> Scene:
    """Draw a scene.

    Args:
        seed: the same seed draws the same scene with the same versions of NumPy and Pillow.
        size: height and width in pixels; None: any from 160 to 1024, aspect up to 2.2:1.
        shapes: how many, as far as there is room; None: one to eight.

    Raises:
        ValueError: a side is shorter than 32 pixels, or fewer than no shapes are asked for.
    """
    if size is not None and min(size) < 32:
        raise ValueError(f"a scene is at least 32 x 32 pixels, not {size[1]} x {size[0]}")
    if shapes is not None and shapes < 0:
        raise ValueError(f"a scene has 0 shapes or more, not {shapes}")
    rng = np.random.default_rng(seed)
    height, width = size or any_size(rng)
    canvas = Image.fromarray(_background(rng, height, width))
    kinds, colors = _choice(rng, list(OUTLINES)), _choice(rng, list(COLORS))
    drawn: list[Shape] = []
    places: list[tuple[float, float, float]] = []
    for _ in range(int(rng.integers(1, 9)) if shapes is None else shapes):
        diameter = float(rng.uniform(*(SMALL if rng.random() < 0.5 else LARGE)))
        radius = diameter * min(height, width) / 2
        place = _free_place(rng, height, width, radius, places)
        if place is None:
            continue
        places.append((*place, radius))
        shape = _draw_shape(rng, canvas, str(rng.choice(kinds)), colors, place, diameter)
        drawn = [*(_hidden_behind(other, shape.mask) for other in drawn), shape]
    return Scene(np.asarray(canvas).copy(), tuple(shape for shape in drawn if shape.area))


def any_size(rng: Rng) -> tuple[int, int]:
    """Height and width of a picture of the world, in pixels."""
    long = int(np.exp(rng.uniform(math.log(200), math.log(1024))))
    short = max(160, round(long / rng.uniform(1.0, 2.2)))
    long = max(long, short)
    return (long, short) if rng.random() < 0.4 else (short, long)


def _free_place(
    rng: Rng, height: int, width: int, radius: float, places: list[tuple[float, float, float]]
) -> tuple[float, float] | None:
    """Mostly apart from the others; now and then overlapping one of them a little."""
    apart = 1.08 if rng.random() < 0.85 else 0.8
    for _ in range(40):
        x, y = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
        if all(math.hypot(x - a, y - b) > apart * (radius + r) for a, b, r in places):
            return float(x), float(y)
    return None


def _shade(rng: Rng, name: str) -> tuple[int, int, int]:
    middle, stray = COLORS[name]
    hue, saturation, value = (m + rng.uniform(-s, s) for m, s in zip(middle, stray, strict=True))
    rgb = colorsys.hsv_to_rgb((hue % 360) / 360, np.clip(saturation, 0, 100) / 100, np.clip(value, 0, 100) / 100)
    return tuple(round(255 * channel) for channel in rgb)  # type: ignore[return-value]  # three channels


def _choice(rng: Rng, names: list[str]) -> list[str]:
    """All of them, or a few: where colours or kinds recur, there is more to count and to tell apart."""
    return (
        names if rng.random() < 0.55 else [str(name) for name in rng.choice(names, rng.integers(1, 5), replace=False)]
    )


def _draw_shape(
    rng: Rng, canvas: Image.Image, kind: str, colors: list[str], place: tuple[float, float], diameter: float
) -> Shape:
    """Draw one shape onto the canvas, in a colour that can be told from what lies behind it."""
    radius = diameter * min(canvas.size) / 2
    alpha, corner = _cover(rng, kind, place, radius)
    inside = alpha > 127
    box = (*corner, corner[0] + alpha.shape[1], corner[1] + alpha.shape[0])
    behind = np.asarray(canvas.crop(box)).reshape(-1, 3)[::7].astype(float)
    for result_or_error in range(60):
        name = str(rng.choice(colors if result_or_error < 15 else list(COLORS)))
        shade = _shade(rng, name)
        if np.percentile(np.linalg.norm(behind - shade, axis=1), 10) > _VISIBLE:
            break
    cover = Image.fromarray(alpha)
    if rng.random() < 0.25:
        _draw_shadow(rng, canvas, cover, corner, radius)
    canvas.paste(shade, corner, cover)
    if rng.random() < 0.25:
        _draw_outline(rng, canvas, cover, corner, radius, shade)
    mask = np.zeros((canvas.height, canvas.width), dtype=np.bool_)
    _paste(mask, inside, corner)
    return Shape(kind, name, diameter, place, mask)


def _cover(rng: Rng, kind: str, place: tuple[float, float], radius: float) -> tuple[Pixels, tuple[int, int]]:
    """How much of each pixel the shape covers, 0 to 255, in its own box; and the box's corner."""
    turn = math.radians(rng.uniform(-14, 14))
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    reach = math.ceil(1.25 * radius) + 2
    corner = (int(place[0]) - reach, int(place[1]) - reach)
    local = np.array(place) - corner
    fine = Image.new("L", (2 * reach * _SAMPLES,) * 2)
    pen = ImageDraw.Draw(fine)
    points = (OUTLINES[kind](rng.uniform(-1, 1)) @ rotation.T * radius + local) * _SAMPLES
    pen.polygon([tuple(point) for point in points.tolist()], fill=255)
    return np.asarray(fine.reduce(_SAMPLES)), corner


def _draw_shadow(rng: Rng, canvas: Image.Image, cover: Image.Image, corner: tuple[int, int], radius: float) -> None:
    soft = cover.filter(ImageFilter.GaussianBlur(0.12 * radius)).point(lambda value: int(0.45 * value))
    shift = max(1, round(0.12 * radius))
    canvas.paste((20, 20, 20), (corner[0] + shift * int(rng.choice([-1, 1])), corner[1] + shift), soft)


def _draw_outline(
    rng: Rng, canvas: Image.Image, cover: Image.Image, corner: tuple[int, int], radius: float, shade: tuple[int, ...]
) -> None:
    """A line just inside the edge, darker or lighter than the shape, so that its mask stays what it was."""
    line = max(1, round(0.05 * radius))
    inner = cover.filter(ImageFilter.MinFilter(2 * line + 1))
    edge = np.asarray(cover).astype(int) - np.asarray(inner)
    factor = 0.55 if sum(shade) > 250 or rng.random() < 0.5 else 1.6
    tint = tuple(min(255, round(channel * factor) + (30 if factor > 1 else 0)) for channel in shade)
    canvas.paste(tint, corner, Image.fromarray(edge.clip(0, 255).astype(np.uint8)))


def _paste(mask: Mask, part: Mask, corner: tuple[int, int]) -> None:
    x, y = corner
    top, left = max(0, y), max(0, x)
    bottom, right = min(mask.shape[0], y + part.shape[0]), min(mask.shape[1], x + part.shape[1])
    mask[top:bottom, left:right] = part[top - y : bottom - y, left - x : right - x]


def _hidden_behind(shape: Shape, front: Mask) -> Shape:
    return Shape(shape.kind, shape.color, shape.diameter, shape.center, shape.mask & ~front)


def _background(rng: Rng, height: int, width: int) -> Pixels:
    first, second = rng.uniform(0, 255, (2, 3))
    second = first + (second - first) * rng.uniform(0.1, 0.45)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    kind = rng.choice(["plain", "gradient", "noisy", "striped", "checked"])
    angle = rng.uniform(0, math.pi)
    along = x * math.cos(angle) + y * math.sin(angle)
    period = rng.uniform(0.03, 0.15) * min(height, width)
    if kind == "plain":
        share = np.zeros_like(x)
    elif kind == "gradient":
        share = (along - along.min()) / max(1e-6, float(np.ptp(along)))
    elif kind == "noisy":
        grain = rng.normal(0, 1, (height // 2 + 1, width // 2 + 1)).repeat(2, 0).repeat(2, 1)[:height, :width]
        share = 0.35 * grain
    elif kind == "striped":
        share = np.floor(along / period) % 2
    else:
        share = (np.floor(x / period) + np.floor(y / period)) % 2
    colors: NDArray[np.float64] = first + (second - first) * share[..., None]
    return colors.clip(0, 255).astype(np.uint8)
