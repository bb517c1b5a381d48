"""Exact outlines of a mask along the edges of its pixels, with holes joined to their outer ring.

A vertex is a corner between pixels, x from 0 to w and y from 0 to h. An outline passes along the edges between
foreground and background with the foreground on its right, so that outer rings run clockwise on the screen and holes
counter-clockwise. The corners of all outlines that lie on one horizontal or vertical grid line, sorted, are in pairs
the ends of segments, which gives the successor of each corner without following any outline.

Pixels that touch at a corner only belong to one component (8-connected), so that its ring passes this corner twice.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sspsam.segmentation.runs import Integers, Runs
from sspsam.utils.arrays import Mask


@dataclass(frozen=True, eq=False)
class Rings:
    """Closed polygons, concatenated.

    Args:
        points: (N, 2) float64, x and y.
        fixed: (N,) bool, points that a simplification must keep: the first of each ring, and the ends of bridges.
        lengths: (R,) number of points of each ring.
    """

    points: NDArray[np.float64]
    fixed: NDArray[np.bool_]
    lengths: Integers

    @property
    def numbers(self) -> Integers:
        """Ring of each point: (N,)."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    def successors(self) -> Integers:
        """Return the index of the point after each point of the same ring: (N,)."""
        following = np.arange(1, len(self.points) + 1)
        ends = np.cumsum(self.lengths)
        following[ends - 1] = ends - self.lengths
        return following

    def areas(self) -> NDArray[np.float64]:
        """Return the signed area of each ring, positive if it runs clockwise on the screen: (R,)."""
        x, y = self.points.T
        after = self.points[self.successors()]
        # relative to the ring's first point, so that no digits cancel
        origin = self.points[np.repeat(np.cumsum(self.lengths) - self.lengths, self.lengths)]
        cross = (x - origin[:, 0]) * (after[:, 1] - origin[:, 1]) - (after[:, 0] - origin[:, 0]) * (y - origin[:, 1])
        return np.bincount(self.numbers, weights=cross, minlength=len(self.lengths)) / 2

    def select(self, chosen: NDArray[np.bool_]) -> "Rings":
        """Return the rings for which (R,) `chosen` is true."""
        of_points = np.repeat(chosen, self.lengths)
        return Rings(self.points[of_points], self.fixed[of_points], self.lengths[chosen])

    def without(self, dropped: NDArray[np.bool_]) -> "Rings":
        """Return the rings without the points for which (N,) `dropped` is true."""
        lengths = np.bincount(self.numbers[~dropped], minlength=len(self.lengths)).astype(np.int64)
        return Rings(self.points[~dropped], self.fixed[~dropped], lengths)

    def split(self) -> list[NDArray[np.float64]]:
        """Return the points of each ring: R arrays of (n, 2)."""
        return np.split(self.points, np.cumsum(self.lengths)[:-1]) if len(self.lengths) else []


@dataclass(frozen=True, eq=False)
class _Corners:
    """Corners of all outlines, sorted by y and x; where two pixels touch diagonally, there are two at one place.

    Args:
        x, y: (N,) place.
        side: (N,) 1 if the pixel below and to the right is foreground, or the pixel above and to the right is
            background; else -1.
        lower: (N,) bool, whether the corner is the upper end of a vertical segment although another corner at the same
            place is the lower end of one.
    """

    x: Integers
    y: Integers
    side: Integers
    lower: NDArray[np.bool_]


def outlines(mask: Mask) -> tuple[Rings, Rings]:
    """Trace an (h, w) mask.

    Returns:
        One ring for each 8-connected component, with a bridge, passed in both directions, to each of its holes; and
        the rings of all holes alone. Both are in the order of their topmost, leftmost points.
    """
    runs = Runs.of(mask)
    corners, stride = _corners(runs), mask.shape[1] + 2
    following, tops, bottoms = _successors(corners)
    starts, ring_lengths, order = _cycles(following.tolist(), range(len(following)))
    outer = corners.side[starts] > 0
    holes = _rings(corners.x, corners.y, order, ring_lengths, np.empty(0, np.int64)).select(~outer)
    x, y, following, fixed = _bridged(corners, runs, stride, following, tops, bottoms, starts[~outer])
    starts, ring_lengths, order = _cycles(following.tolist(), starts[outer].tolist())
    return _rings(x, y, order, ring_lengths, np.concatenate([starts, fixed])), holes


def _rings(x: Integers, y: Integers, order: Integers, lengths: Integers, fixed: Integers) -> Rings:
    """Return the rings of concatenated cycles, without points that repeat the one before."""
    is_fixed = np.zeros(len(x), dtype=np.bool_)
    is_fixed[fixed] = True
    rings = Rings(np.stack([x[order], y[order]], axis=1).astype(np.float64), is_fixed[order], lengths)
    following = rings.successors()
    repeated = (rings.points[following] == rings.points).all(axis=1)
    dropped = np.zeros(len(order), dtype=np.bool_)
    dropped[np.where(following[repeated] > np.flatnonzero(repeated), following[repeated], repeated.nonzero()[0])] = True
    return rings.without(dropped)


def _corners(runs: Runs) -> _Corners:
    """Return the corners of the outlines of a mask with these runs."""
    stride = max(2, int(runs.stops.max(initial=0)) + 2)
    # vertical unit edges between foreground and background, sorted; foreground begins or ends there, in turn
    edges = (np.stack([runs.starts, runs.stops], axis=1) + runs.rows[:, None] * stride).ravel()
    sides = np.tile(np.array([1, -1]), len(runs.rows))
    above = edges + stride  # the lower ends
    both, of_lower, of_upper = np.intersect1d(edges, above, assume_unique=True, return_indices=True)
    diagonal = sides[of_lower] != sides[of_upper]
    upper_only, lower_only = np.ones((2, len(edges)), dtype=np.bool_)
    upper_only[of_upper] = lower_only[of_lower] = False
    touching, touching_side = both[diagonal], sides[of_lower[diagonal]]
    places = np.concatenate([edges[lower_only], above[upper_only], touching, touching])
    side = np.concatenate([sides[lower_only], -sides[upper_only], touching_side, touching_side])
    plain, pairs = np.zeros(int(lower_only.sum() + upper_only.sum()), np.int64), np.ones_like(touching)
    # of two corners at one place, the first ends the segment on the left, the second begins that on the right
    right = np.concatenate([plain, 0 * pairs, pairs])
    lower = np.concatenate([plain, touching_side > 0, touching_side < 0]).astype(np.bool_)
    order = np.argsort(2 * places + right, kind="stable")
    y, x = np.divmod(places[order], stride)
    return _Corners(x, y, side[order], lower[order])


def _successors(corners: _Corners) -> tuple[Integers, Integers, Integers]:
    """Return the corner that follows each corner, and the upper and lower corners of all vertical segments.

    The vertical segments are sorted by x and y.
    """
    following = np.empty(len(corners.x), dtype=np.int64)
    left, right = np.arange(len(following)).reshape(-1, 2).T
    forward = corners.side[left] > 0
    following[np.where(forward, left, right)] = np.where(forward, right, left)
    vertical = np.lexsort((corners.lower, corners.y, corners.x))
    tops, bottoms = vertical.reshape(-1, 2).T
    upward = corners.side[tops] > 0
    following[np.where(upward, bottoms, tops)] = np.where(upward, tops, bottoms)
    return following, tops, bottoms


def _cycles(following: list[int], starts: Iterable[int]) -> tuple[Integers, Integers, Integers]:
    """Follow the cycles of a permutation from each start that is in no earlier cycle.

    Returns:
        The start of each cycle, its length, and the elements of all cycles in order.
    """
    seen = bytearray(len(following))
    first: list[int] = []
    lengths: list[int] = []
    order: list[int] = []
    for start in starts:
        if seen[start]:
            continue
        before, element = len(order), start
        while not seen[element]:
            seen[element] = 1
            order.append(element)
            element = following[element]
        first.append(start)
        lengths.append(len(order) - before)
    return np.array(first, np.int64), np.array(lengths, np.int64), np.array(order, np.int64)


def _bridged(
    corners: _Corners,
    runs: Runs,
    stride: int,
    following: Integers,
    tops: Integers,
    bottoms: Integers,
    holes: Integers,
) -> tuple[Integers, Integers, Integers, Integers]:
    """Join each hole to the ring on its left, by a bridge from its topmost, leftmost corner along the grid line.

    The ring on the left is the outer ring, or a hole that begins further up or left; so all holes reach the outer one.

    Returns:
        x, y and successors of all corners and of the new ones, and the indices of the corners of bridges.
    """
    x, y = corners.x[holes], corners.y[holes]
    # the run of foreground that ends at the hole begins at an upward segment
    run = np.searchsorted(runs.rows * stride + runs.stops, y * stride + x)
    start = runs.starts[run]
    height = int(corners.y.max(initial=0)) + 1
    segment = np.searchsorted(corners.x[tops] * height + corners.y[tops], start * height + y, side="right") - 1
    order = np.lexsort((-y, segment))  # along the segment, upward
    holes, x, y, start, segment = holes[order], x[order], y[order], start[order], segment[order]
    # bottom -> entry -> hole ... -> (the hole's start again) back -> leave -> the next entry or the top
    entry, back, leave = len(corners.x) + np.arange(3 * len(holes)).reshape(3, -1)
    before = np.empty_like(following)
    before[following] = np.arange(len(following))
    result = np.concatenate([following, holes, leave, tops[segment]])
    result[before[holes]] = back
    begins = np.ones(len(holes), dtype=np.bool_)
    begins[1:] = segment[1:] != segment[:-1]
    result[bottoms[segment[begins]]] = entry[begins]
    result[leave[:-1][~begins[1:]]] = entry[1:][~begins[1:]]
    return (
        np.concatenate([corners.x, start, x, start]),
        np.concatenate([corners.y, y, y, y]),
        result,
        np.concatenate([holes, entry, back, leave]),
    )
