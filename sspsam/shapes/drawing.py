"""Seeded drawing of scenes of the shapes world, with the exact mask of every shape."""

import colorsys
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from sspsam.shapes.outlines import OUTLINES

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Rng = np.random.Generator
Circle = tuple[float, float, float]  # x, y, radius in pixels

# (hue in degrees, saturation and value in percent), and the largest deviation of each
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
SMALL: Final = (0.08, 0.15)  # range of the diameter, divided by the shorter side of the image
LARGE: Final = (0.22, 0.36)
_SUPERSAMPLING: Final = 4  # samples per pixel side, for antialiased edges
_MIN_CONTRAST: Final = 60.0  # least RGB distance between a shape and the pixels behind it
_COLOR_ATTEMPTS: Final = 60
_PALETTE_ATTEMPTS: Final = 15  # after this many attempts a shape may take a colour outside the palette of its scene
_PLACE_ATTEMPTS: Final = 40


@dataclass(frozen=True, eq=False)
class Shape:
    """One shape of a scene.

    Args:
        kind: a name of `OUTLINES`.
        color: a name of `COLORS`.
        diameter: divided by the shorter side of the image.
        center: x, y in pixels.
        mask: (h, w) bool, the visible pixels of the shape.
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
        """Number of visible pixels."""
        return int(self.mask.sum())


@dataclass(frozen=True, eq=False)
class Scene:
    """A drawn image and its shapes.

    Args:
        pixels: (h, w, 3) uint8 RGB.
        shapes: all shapes with a visible pixel, back to front; their masks are disjoint.
    """

    pixels: Pixels
    shapes: tuple[Shape, ...]


def draw_scene(seed: int | Rng, size: tuple[int, int] | None = None, shapes: int | None = None) -> Scene:
    """Draw a scene.

    Args:
        seed: the same seed draws the same scene with the same versions of NumPy and Pillow.
        size: height and width in pixels; None: sides from 160 to 1024, aspect ratio up to 2.2:1.
        shapes: number of shapes, of which those without room are left out; None: one to eight.

    Returns:
        The image and its shapes.

    Raises:
        ValueError: a side is shorter than 32 pixels, or the number of shapes is negative.
    """
    if size is not None and min(size) < 32:
        raise ValueError(f"size: a scene is at least 32 x 32 pixels, not {size[1]} x {size[0]}; use a larger size")
    if shapes is not None and shapes < 0:
        raise ValueError(f"shapes: a scene has 0 shapes or more, not {shapes}")
    rng = np.random.default_rng(seed)
    height, width = size or random_size(rng)
    canvas = Image.fromarray(_background(rng, height, width))
    kinds, colors = _palette(rng, list(OUTLINES)), _palette(rng, list(COLORS))
    drawn: list[Shape] = []
    occupied: list[Circle] = []
    for _ in range(int(rng.integers(1, 9)) if shapes is None else shapes):
        diameter = float(rng.uniform(*(SMALL if rng.random() < 0.5 else LARGE)))
        radius = diameter * min(height, width) / 2
        center = _free_center(rng, height, width, radius, occupied)
        if center is None:
            continue
        occupied.append((*center, radius))
        shape = _draw_shape(rng, canvas, str(rng.choice(kinds)), colors, center, diameter)
        drawn = [*(replace(hidden, mask=hidden.mask & ~shape.mask) for hidden in drawn), shape]
    return Scene(np.asarray(canvas).copy(), tuple(shape for shape in drawn if shape.area))


def random_size(rng: Rng) -> tuple[int, int]:
    """Random height and width of a scene, in pixels."""
    long = int(np.exp(rng.uniform(math.log(200), math.log(1024))))
    short = max(160, round(long / rng.uniform(1.0, 2.2)))
    long = max(long, short)
    return (long, short) if rng.random() < 0.4 else (short, long)


def _free_center(
    rng: Rng, height: int, width: int, radius: float, occupied: list[Circle]
) -> tuple[float, float] | None:
    """Center of a circle that keeps its distance from all others or, with probability 0.15, may overlap them a little.

    None if no attempt finds room.
    """
    distance = 1.08 if rng.random() < 0.85 else 0.8  # in units of the sum of both radii
    for _ in range(_PLACE_ATTEMPTS):
        x, y = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
        if all(math.hypot(x - cx, y - cy) > distance * (radius + r) for cx, cy, r in occupied):
            return float(x), float(y)
    return None


def _shade(rng: Rng, name: str) -> tuple[int, int, int]:
    """Random RGB of a named colour."""
    middle, deviation = COLORS[name]
    hue, saturation, value = (m + rng.uniform(-d, d) for m, d in zip(middle, deviation, strict=True))
    red, green, blue = colorsys.hsv_to_rgb(
        (hue % 360) / 360, np.clip(saturation, 0, 100) / 100, np.clip(value, 0, 100) / 100
    )
    return round(255 * red), round(255 * green), round(255 * blue)


def _palette(rng: Rng, names: list[str]) -> list[str]:
    """All names, or one to four of them: repeated colours and kinds make counting and distinguishing harder."""
    return (
        names if rng.random() < 0.55 else [str(name) for name in rng.choice(names, rng.integers(1, 5), replace=False)]
    )


def _draw_shape(
    rng: Rng, canvas: Image.Image, kind: str, colors: list[str], center: tuple[float, float], diameter: float
) -> Shape:
    """Draw one shape onto the canvas, in a colour that contrasts with the pixels behind it."""
    radius = diameter * min(canvas.size) / 2
    alpha, corner = _coverage(rng, kind, center, radius)
    color, shade = _contrasting_color(rng, canvas, colors, corner, alpha.shape)
    stencil = Image.fromarray(alpha)
    if rng.random() < 0.25:
        _draw_shadow(rng, canvas, stencil, corner, radius)
    canvas.paste(shade, corner, stencil)
    if rng.random() < 0.25:
        _draw_border(rng, canvas, stencil, corner, radius, shade)
    mask = np.zeros((canvas.height, canvas.width), dtype=np.bool_)
    _paste_mask(mask, alpha > 127, corner)
    return Shape(kind, color, diameter, center, mask)


def _contrasting_color(
    rng: Rng, canvas: Image.Image, colors: list[str], corner: tuple[int, int], shape: tuple[int, ...]
) -> tuple[str, tuple[int, int, int]]:
    """Name and RGB of a random colour that contrasts with 90 % of a box of the canvas, if one of the attempts does."""
    box = (*corner, corner[0] + shape[1], corner[1] + shape[0])
    behind = np.asarray(canvas.crop(box)).reshape(-1, 3)[::7].astype(float)
    for attempt in range(_COLOR_ATTEMPTS):
        name = str(rng.choice(colors if attempt < _PALETTE_ATTEMPTS else list(COLORS)))
        shade = _shade(rng, name)
        if np.percentile(np.linalg.norm(behind - shade, axis=1), 10) > _MIN_CONTRAST:
            break
    return name, shade


def _coverage(rng: Rng, kind: str, center: tuple[float, float], radius: float) -> tuple[Pixels, tuple[int, int]]:
    """Coverage of each pixel by the shape, 0 to 255, in a box around it; and the box's top left corner."""
    turn = math.radians(rng.uniform(-14, 14))
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    reach = math.ceil(1.25 * radius) + 2
    corner = (int(center[0]) - reach, int(center[1]) - reach)
    center_in_box = np.array(center) - corner
    supersampled = Image.new("L", (2 * reach * _SUPERSAMPLING,) * 2)
    points = (OUTLINES[kind](rng.uniform(-1, 1)) @ rotation.T * radius + center_in_box) * _SUPERSAMPLING
    ImageDraw.Draw(supersampled).polygon([tuple(point) for point in points.tolist()], fill=255)
    return np.asarray(supersampled.reduce(_SUPERSAMPLING)), corner


def _draw_shadow(rng: Rng, canvas: Image.Image, stencil: Image.Image, corner: tuple[int, int], radius: float) -> None:
    blurred = stencil.filter(ImageFilter.GaussianBlur(0.12 * radius)).point(lambda value: int(0.45 * value))
    shift = max(1, round(0.12 * radius))
    canvas.paste((20, 20, 20), (corner[0] + shift * int(rng.choice([-1, 1])), corner[1] + shift), blurred)


def _draw_border(
    rng: Rng, canvas: Image.Image, stencil: Image.Image, corner: tuple[int, int], radius: float, shade: tuple[int, ...]
) -> None:
    """Draw a darker or lighter line just inside the edge, which leaves the mask of the shape unchanged."""
    line = max(1, round(0.05 * radius))
    eroded = stencil.filter(ImageFilter.MinFilter(2 * line + 1))
    edge = np.asarray(stencil).astype(int) - np.asarray(eroded)
    factor = 0.55 if sum(shade) > 250 or rng.random() < 0.5 else 1.6
    tint = tuple(min(255, round(channel * factor) + (30 if factor > 1 else 0)) for channel in shade)
    canvas.paste(tint, corner, Image.fromarray(edge.clip(0, 255).astype(np.uint8)))


def _paste_mask(mask: Mask, box: Mask, corner: tuple[int, int]) -> None:
    """Copy a box into a mask at a corner that may lie outside of it."""
    x, y = corner
    top, left = max(0, y), max(0, x)
    bottom, right = min(mask.shape[0], y + box.shape[0]), min(mask.shape[1], x + box.shape[1])
    mask[top:bottom, left:right] = box[top - y : bottom - y, left - x : right - x]


def _background(rng: Rng, height: int, width: int) -> Pixels:
    """A plain, gradient, noisy, striped or checked background of two similar colours, (h, w, 3)."""
    first, second = rng.uniform(0, 255, (2, 3))
    second = first + (second - first) * rng.uniform(0.1, 0.45)
    blend = _blend(rng, height, width)
    colors: NDArray[np.float64] = first + (second - first) * blend[..., None]
    return colors.clip(0, 255).astype(np.uint8)


def _blend(rng: Rng, height: int, width: int) -> NDArray[np.float64]:
    """Weight of the second background colour at each pixel, (h, w)."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    pattern = rng.choice(["plain", "gradient", "noisy", "striped", "checked"])
    angle = rng.uniform(0, math.pi)
    along = x * math.cos(angle) + y * math.sin(angle)
    period = rng.uniform(0.03, 0.15) * min(height, width)
    if pattern == "plain":
        blend = np.zeros_like(x)
    elif pattern == "gradient":
        blend = (along - along.min()) / max(1e-6, float(np.ptp(along)))
    elif pattern == "noisy":
        noise = rng.normal(0, 1, (height // 2 + 1, width // 2 + 1)).repeat(2, 0).repeat(2, 1)[:height, :width]
        blend = 0.35 * noise
    elif pattern == "striped":
        blend = np.floor(along / period) % 2
    else:
        blend = (np.floor(x / period) + np.floor(y / period)) % 2
    return np.asarray(blend, dtype=np.float64)
