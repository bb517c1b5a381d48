"""Outlines of the eight kinds of shapes, as polygons in units of the radius; y points down."""

import math
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]  # (N, 2) x, y


def _regular_polygon(corners: int, first_angle: float = -90.0) -> Points:
    """Corners on the unit circle, the first one at `first_angle` degrees."""
    angles = np.radians(first_angle + 360.0 / corners * np.arange(corners))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _star(form: float) -> Points:
    points = np.repeat(_regular_polygon(5), 2, axis=0)
    points[1::2] = (0.44 + 0.09 * form) * _regular_polygon(5, -90.0 + 36.0)
    return points


def _cross(form: float) -> Points:
    half, end = 0.32 + 0.07 * form, 1.0  # half the width of a bar, and half its length
    corners = [(-half, -end), (half, -end), (half, -half), (end, -half), (end, half), (half, half)]
    corners += [(half, end), (-half, end), (-half, half), (-end, half), (-end, -half), (-half, -half)]
    return np.array(corners)


def _heart(form: float) -> Points:
    t = np.linspace(0, 2 * math.pi, 60, endpoint=False)
    # the common parametric heart curve, scaled to about unit radius
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, (-y - 2.5) * (1 + 0.1 * form)], axis=1) / 16.5


def _ring(form: float) -> Points:
    """One polygon: the outer circle clockwise, then the inner circle counterclockwise, joined by a zero-width seam."""
    outer, inner = _regular_polygon(64), (0.55 + 0.12 * form) * _regular_polygon(64)
    return np.concatenate([outer, outer[:1], inner[:1], inner[::-1]])


# the argument, the form, is a number from -1 to 1 that varies thickness, width or height
OUTLINES: Final[Mapping[str, Callable[[float], Points]]] = {
    "circle": lambda form: _regular_polygon(64),
    "square": lambda form: _regular_polygon(4, 45.0) * 1.12,
    "triangle": lambda form: _regular_polygon(3) * (1.1, 1.1 + 0.12 * form) + (0, 0.15),
    "star": _star,
    "cross": _cross,
    "ring": _ring,
    "diamond": lambda form: _regular_polygon(4) * (0.76 + 0.2 * form, 1.06),
    "heart": _heart,
}
