"""Outlines with fewer points: staircases become slanted lines, then Douglas and Peucker's algorithm."""

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sspsam.segmentation.outlines import Rings
from sspsam.segmentation.runs import Integers

COLUMNS: Final = 1 << 31  # more than the columns of any mask
Trial = Callable[[NDArray[np.bool_], float], tuple[Rings, NDArray[np.bool_]]]
_FEWEST_POINTS: Final = 3
# pycocotools rounds vertices to a fifth of a pixel, which moves them by a tenth
_DISPLACEMENTS: Final = ((0.1, 0.1), (0.1, -0.1), (-0.1, 0.1), (-0.1, -0.1))


def simplified(rings: Rings, tolerance: float) -> list[NDArray[np.float64]]:
    """Simplify exact outlines, each with the largest tolerance that suits it.

    For outlines that are small or thin the tolerance is halved, three times or down to one pixel, until at most
    2 * `tolerance` percent of the area, and at most half of it, change; else they stay exact. So do outlines of what is
    less than two pixels wide.

    Args:
        rings: of `outlines`.
        tolerance: largest distance of a dropped point from the new outline, in pixels.

    Returns:
        The points of each ring: (n, 2) float64.
    """
    areas = rings.areas()
    tolerance = min(tolerance, float(COLUMNS))
    allowed = min(0.02 * tolerance, 0.5) * areas

    def trial(chosen: NDArray[np.bool_], tolerance: float) -> tuple[Rings, NDArray[np.bool_]]:
        exact = rings.select(chosen)
        candidates = douglas_peucker(_without_steps(exact), tolerance)
        good = _changed_pixels(exact, candidates) <= allowed[chosen]
        return candidates, good & (candidates.lengths >= _FEWEST_POINTS)

    return coarsest_rings(rings, areas >= perimeters(rings), tolerance, trial)


def coarsest_rings(
    rings: Rings, pending: NDArray[np.bool_], tolerance: float, trial: Trial
) -> list[NDArray[np.float64]]:
    """Return the points of each ring, simplified with the largest of some tolerances that is good for this ring.

    Args:
        rings: the result where no tolerance is good.
        pending: (R,) bool, the rings to simplify.
        tolerance: the first, in pixels; it is halved three times or down to one pixel.
        trial: returns, for (R,) bool of the chosen rings and a tolerance, the simplified rings, and (chosen,) bool of
            those that are good.
    """
    result = rings.split()
    for halvings in range(max(4, 1 + math.ceil(math.log2(tolerance))) if tolerance > 0 else 0):
        if not pending.any():
            break
        candidates, good = trial(pending, tolerance / 2**halvings)
        numbers = np.flatnonzero(pending)
        for number, points, accepted in zip(numbers, candidates.split(), good, strict=True):
            if accepted:
                result[number] = points
        pending = pending.copy()
        pending[numbers[good]] = False
    return result


def perimeters(rings: Rings) -> NDArray[np.float64]:
    """Return the length of each exact outline: (R,)."""
    lengths = np.abs(rings.points[rings.successors()] - rings.points).sum(axis=1)
    return np.bincount(rings.numbers, weights=lengths, minlength=len(rings.lengths)).astype(np.float64)


def _without_steps(rings: Rings) -> Rings:
    """Replace each step, a segment of one pixel that turns back to the direction before, by its midpoint."""
    after = rings.successors()
    direction = rings.points[after] - rings.points  # (N, 2)
    before = np.empty_like(direction)
    before[after] = direction
    turn = before[:, 0] * direction[:, 1] - before[:, 1] * direction[:, 0]
    step = (np.abs(direction).sum(axis=1) == 1) & (turn * turn[after] < 0) & ~(rings.fixed | rings.fixed[after])
    in_step = step.copy()
    in_step[after[step]] = True
    kept = np.stack([~in_step, step], axis=1).ravel()
    points = np.stack([rings.points, rings.points + direction / 2], axis=1).reshape(-1, 2)
    fixed = np.stack([rings.fixed, np.zeros_like(step)], axis=1).ravel()
    numbers = np.repeat(rings.numbers, 2)[kept]
    return Rings(points[kept], fixed[kept], np.bincount(numbers, minlength=len(rings.lengths)).astype(np.int64))


def douglas_peucker(rings: Rings, tolerance: float) -> Rings:
    """Drop points that are at most `tolerance` from the line between their kept neighbours; fixed points stay."""
    ends = np.cumsum(rings.lengths)
    closed = np.insert(rings.points, ends, rings.points[ends - rings.lengths], axis=0)  # each ring's first point again
    kept = np.insert(rings.fixed, ends, True)
    added = ends + np.arange(len(ends))  # indices of the repeated points
    while True:
        corners = np.flatnonzero(kept)
        segment = np.minimum(np.cumsum(kept) - 1, len(corners) - 2)
        distance = _distances(closed, closed[corners[segment]], closed[corners[segment + 1]])
        farthest = np.maximum.reduceat(distance, corners)[np.cumsum(kept) - 1]
        candidates = np.flatnonzero((distance > tolerance) & (distance == farthest))
        if not len(candidates):
            break
        kept[candidates[np.unique(segment[candidates], return_index=True)[1]]] = True
    return rings.without(~np.delete(kept, added))


def _distances(
    points: NDArray[np.float64], starts: NDArray[np.float64], ends: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the distance of each of (N, 2) points from its own segment: (N,)."""
    chord, offset = ends - starts, points - starts
    length = (chord**2).sum(axis=1)
    along = np.clip((offset * chord).sum(axis=1) / np.where(length > 0, length, 1), 0, 1)
    distance: NDArray[np.float64] = np.hypot(*(offset - along[:, None] * chord).T)
    return distance


def _changed_pixels(exact: Rings, simple: Rings) -> Integers:
    """Count, for each ring, the pixels that are inside only one of two outlines: (R,).

    The count is the largest of four, for the simple outlines displaced diagonally by the rounding of pycocotools, since
    programs that fill polygons differ by such rounding.
    """
    numbers = np.concatenate([exact.numbers, simple.numbers])
    after = np.concatenate([exact.successors(), simple.successors() + len(exact.points)])
    height = int(exact.points[:, 1].max()) + 1
    worst = np.zeros(len(exact.lengths), dtype=np.int64)
    for displacement in _DISPLACEMENTS:
        # together, two outlines enclose what is inside exactly one of them
        points = np.concatenate([exact.points, simple.points + displacement])
        keys, starts, stops = filled_runs(points, points[after], numbers, height)
        changed = np.bincount(keys, weights=stops - starts, minlength=len(worst))
        worst = np.maximum(worst, changed.astype(np.int64))
    return worst


def filled_runs(
    starts: NDArray[np.float64], ends: NDArray[np.float64], polygons: Integers, height: int
) -> tuple[Integers, Integers, Integers]:
    """Fill polygons by the even-odd rule: a pixel is inside if its centre is.

    Args:
        starts, ends: (N, 2) both ends of each edge, x and y.
        polygons: (N,) polygon of each edge.
        height: number of rows.

    Returns:
        Polygon, start and stop of each run of pixels; start and stop are row * COLUMNS + column.
    """
    upper, lower = np.minimum(starts[:, 1], ends[:, 1]), np.maximum(starts[:, 1], ends[:, 1])
    # the rows whose centres the edge crosses
    first, last = (np.ceil(np.clip(side, 0, height) - 0.5).astype(np.int64) for side in (upper, lower))
    edge = np.repeat(np.arange(len(starts)), last - first)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(last - first) - last, last - first)
    (x0, y0), (x1, y1) = starts[edge].T, ends[edge].T
    crossing = x0 + (row + 0.5 - y0) * (x1 - x0) / (y1 - y0)
    place = row * COLUMNS + np.ceil(np.clip(crossing, 0, COLUMNS - 1) - 0.5).astype(np.int64)
    order = np.lexsort((place, polygons[edge]))
    place = place[order]
    return polygons[edge][order][::2], place[::2], place[1::2]
