"""Outlines through the outermost pixels of a mask, for programs that fill polygons as OpenCV and Pillow do.

Such programs take whole numbers as corners, the number of a pixel's column and row, and fill the pixels on the outline
too. Some cut coordinates off to whole numbers (Ultralytics, LabelMe), others round them (supervision); both read
corners at 0.499 of a pixel alike. A program that fills the pixels whose centres are inside, such as pycocotools, needs
the outlines of `sspsam.segmentation.polygons` instead. No corners suit it together with a program that rounds: the last
column c of a mask needs a corner at c + 0.5 or more, and more than that, or half where c is odd, is rounded to c + 1.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sspsam.segmentation.outlines import Rings, outlines
from sspsam.segmentation.runs import Integers
from sspsam.segmentation.simplification import COLUMNS, coarsest_rings, douglas_peucker, filled_runs, perimeters
from sspsam.utils.arrays import Mask

_PixelRuns = tuple[Integers, Integers, Integers]  # ring, start and stop of each, as `filled_runs` returns them
# of a corner, from the left and upper edge of its pixel: nearly the centre, since Ultralytics divides outlines into
# 1000 points before it cuts these off, and less than 0.5, which would be rounded up
_PLACE_IN_PIXEL: Final = 0.499
_TOLERANCE: Final = 1.0  # pixels; an outline of whole numbers deviates from a straight edge by up to 1
_CHANGED: Final = 0.005  # largest share of a component's pixels; programs draw slanted lines in slightly different ways
_FRACTION: Final = 16  # bits of OpenCV's coordinates after the point
# corners of an outline that has one or two pixels only, so that it encloses an area
_WIDE: Final = np.array([[0.1, 0.1], [0.499, 0.1], [0.499, 0.499], [0.1, 0.499]])


def pixel_outlines(mask: Mask, *, simplify: bool = True) -> list[NDArray[np.float64]]:
    """Return one polygon for each 8-connected component of a mask, from the largest to the smallest.

    A hole is joined to the outer ring by a bridge through pixels of the mask.

    Args:
        mask: (h, w) bool.
        simplify: whether to drop corners, by which at most half a percent of a component's pixels change. Components
            less than two pixels wide keep all of them.

    Returns:
        (n, 2) corners of each polygon, x and y, n >= 3: the number of a pixel's column and row, and a fraction of less
        than 0.5, so that both rounding and cutting off give the number.
    """
    rings, _ = outlines(mask)
    if not len(rings.lengths):
        return []
    paths = _pixel_paths(mask, rings)
    areas = rings.areas()

    def trial(chosen: NDArray[np.bool_], tolerance: float) -> tuple[Rings, NDArray[np.bool_]]:
        candidates = douglas_peucker(paths.select(chosen), tolerance)
        return candidates, _changed_pixels(rings.select(chosen), candidates) <= _CHANGED * areas[chosen]

    polygons = coarsest_rings(paths, simplify & (areas >= perimeters(rings)), _TOLERANCE, trial)
    return [_polygon(polygons[number]) for number in np.argsort(-areas, kind="stable")]


def _polygon(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the corners of a polygon through (n, 2) pixels."""
    if len(pixels) > 2:
        return pixels + _PLACE_IN_PIXEL
    polygon: NDArray[np.float64] = pixels[[0, 0, -1, -1]] + _WIDE
    return polygon


def _pixel_paths(mask: Mask, rings: Rings) -> Rings:
    """Return, for exact outlines, the path along the foreground pixels beside each: columns and rows.

    These pixels lie on the right of the outline, and where a bridge comes back from its hole, on the left: there the
    row below has the foreground that the bridge passes.
    """
    after = rings.successors()
    direction = np.sign(rings.points[after] - rings.points)  # (N, 2)
    column, row = rings.points.astype(np.int64).T
    below = (row < mask.shape[0]) & mask[np.minimum(row, mask.shape[0] - 1), np.maximum(column - 1, 0)]
    back = (direction[:, 0] < 0) & below
    inward = np.stack([-direction[:, 1], direction[:, 0]], axis=1) * np.where(back, -1, 1)[:, None]
    arriving = np.empty_like(direction)  # from the corner to the last pixel beside the segment before it
    arriving[after] = (inward - direction) / 2
    leaving = (inward + direction) / 2
    pixels = np.stack([rings.points + arriving, rings.points + leaving], axis=1).reshape(-1, 2) - 0.5
    return _corners(Rings(pixels, np.repeat(rings.fixed, 2), 2 * rings.lengths))


def _corners(paths: Rings) -> Rings:
    """Leave out repeated points, and those where a path goes straight on, unless they are fixed."""
    first = np.cumsum(paths.lengths) - paths.lengths
    differs = (paths.points != np.roll(paths.points, 1, axis=0)).any(axis=1)
    differs[first] = True
    fixed = np.logical_or.reduceat(paths.fixed, np.flatnonzero(differs))
    paths = paths.without(~differs)
    paths = Rings(paths.points, fixed, paths.lengths)
    last = np.cumsum(paths.lengths) - 1
    closing = np.zeros(len(fixed), dtype=np.bool_)  # the last point of a ring, if it is the first one again
    closing[last] = (paths.points[last] == paths.points[last - paths.lengths + 1]).all(axis=1) & (paths.lengths > 1)
    paths = paths.without(closing)
    after = paths.successors()
    leaving = np.sign(paths.points[after] - paths.points)  # every segment is horizontal, vertical or diagonal
    arriving = np.empty_like(leaving)
    arriving[after] = leaving
    return paths.without((arriving == leaving).all(axis=1) & ~paths.fixed)


def _changed_pixels(exact: Rings, simple: Rings) -> Integers:
    """Count, for each ring, the pixels that are in only one of an exact outline and a simplified path as drawn: (R,).

    The count is the largest for the ways in which programs draw a line that passes between two pixels: through the
    first, through the second, and, in two directions, through both.
    """
    height = int(exact.points[:, 1].max()) + 1
    filled = filled_runs(exact.points, exact.points[exact.successors()], exact.numbers, height)
    ends = simple.points.astype(np.int64), simple.points[simple.successors()].astype(np.int64), simple.numbers
    interior, *lines = _drawn_interior(*ends), _drawn_lines(*ends, tie=-1), _drawn_lines(*ends, tie=0)
    drawings = ([interior, lines[0]], [interior, lines[1]], [interior, *lines])
    changed = [_difference(filled, _joined(drawing), len(exact.lengths)) for drawing in drawings]
    largest: Integers = np.max(changed, axis=0)
    return largest


def _joined(parts: Sequence[_PixelRuns]) -> _PixelRuns:
    rings, starts, stops = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return rings, starts, stops


def _difference(first: _PixelRuns, second: _PixelRuns, count: int) -> Integers:
    """Return the number of pixels, for each of `count` rings, that are in runs of `first` or of `second` but not both.

    Runs of `second` may overlap.
    """
    rings, starts, stops = _joined([first, second])
    in_first = np.tile(np.arange(len(rings)) < len(first[0]), 2)
    places, rings = np.concatenate([starts, stops]), np.tile(rings, 2)
    steps = np.repeat([1, -1], len(starts))
    order = np.lexsort((places, rings))
    inside_first = np.cumsum(np.where(in_first, steps, 0)[order])[:-1] > 0
    inside_second = np.cumsum(np.where(in_first, 0, steps)[order])[:-1] > 0
    lengths = np.where(inside_first != inside_second, np.diff(places[order]), 0)
    return np.bincount(rings[order][:-1], weights=lengths, minlength=count).astype(np.int64)


def _drawn_lines(first: Integers, second: Integers, rings: Integers, tie: int) -> _PixelRuns:
    """Return the pixels that Bresenham's algorithm draws from (N, 2) `first` to `second`.

    Where the line passes in the middle between two pixels, `tie` -1 takes the first, as OpenCV does, 0 the second.
    """
    backward = (second[:, 0] < first[:, 0])[:, None]
    left, right = np.where(backward, second, first), np.where(backward, first, second)
    across, down = (right - left).T
    longer, shorter = np.maximum(across, np.abs(down)), np.minimum(across, np.abs(down))
    level = down == 0  # one run of pixels; the other lines are drawn pixel by pixel
    count = np.where(level, 1, longer + 1)
    edge = np.repeat(np.arange(len(first)), count)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
    aside = (2 * shorter[edge] * step + longer[edge] + tie) // np.maximum(2 * longer[edge], 1)
    steep = (np.abs(down) > across)[edge]
    column = left[edge, 0] + np.where(steep, aside, step)
    row = left[edge, 1] + np.sign(down)[edge] * np.where(steep, step, aside)
    place = row * COLUMNS + column
    return rings[edge], place, place + np.where(level, across + 1, 1)[edge]


def _drawn_interior(first: Integers, second: Integers, rings: Integers) -> _PixelRuns:
    """Return the runs of pixels that OpenCV fills between edges from (N, 2) `first` to `second`."""
    downward = (first[:, 1] < second[:, 1])[:, None]
    upper, lower = np.where(downward, first, second), np.where(downward, second, first)
    height = lower[:, 1] - upper[:, 1]
    difference = (lower[:, 0] - upper[:, 0]) << _FRACTION
    slope = np.sign(difference) * (np.abs(difference) // np.maximum(height, 1))
    edge = np.repeat(np.arange(len(first)), height)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(height) - height, height)
    crossing = (upper[edge, 0] << _FRACTION) + step * slope[edge]
    row = upper[edge, 1] + step
    order = np.lexsort((crossing, row, rings[edge]))
    ring, row, left, right = rings[edge][order][::2], row[order][::2], crossing[order][::2], crossing[order][1::2]
    start, stop = -(-left >> _FRACTION), (right >> _FRACTION) + 1
    some = start < stop
    return ring[some], (row * COLUMNS + start)[some], (row * COLUMNS + stop)[some]
