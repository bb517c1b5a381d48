"""Mask -> polygons as COCO, LabelMe and YOLO have them, and polygons -> mask.

Coordinates lie on the edges of pixels: the polygon of a mask with the one pixel in column 3, row 2 is
`[3, 2, 4, 2, 4, 3, 3, 3]`. None of the package's dependencies traces contours with holes (OpenCV and scikit-image do,
but are not dependencies, and draw contours through the centres of pixels), so the tracing is done here.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sspsam.devices import naming_out_of_memory
from sspsam.segmentation.outlines import Rings, outlines
from sspsam.segmentation.simplification import COLUMNS, filled_runs, simplified
from sspsam.utils.arguments import real_number, whole_number
from sspsam.utils.arrays import Mask
from sspsam.utils.paths import kind_name, shown_repr

_FEWEST_NUMBERS: Final = 6

Polygon = list[float]
"""Flat coordinates `[x0, y0, x1, y1, ...]` in pixels; the last point is not the first one again."""


def mask_to_polygons(mask: Mask, tolerance: float = 0.5, min_area: float = 1) -> list[Polygon]:
    """Return one polygon for each 8-connected component of a mask, from the largest to the smallest.

    A hole is joined to the outer ring by a bridge, a line that the polygon passes in both directions, so that the
    even-odd rule and the non-zero rule both fill the mask.

    Args:
        mask: (h, w) bool.
        tolerance: largest distance, in pixels, by which a simplified outline may move; 0: the exact outline. A
            component that is so small or thin that more than 2 * `tolerance` percent of its area, or more than half of
            it, would change gets a smaller tolerance.
        min_area: smallest area in pixels of components and holes; smaller components are dropped, smaller holes filled.

    Raises:
        ValueError: the mask has not two dimensions, or an option is out of range.
    """
    tolerance, min_area = real_number("tolerance", tolerance, 0), real_number("min_area", min_area, 0)
    mask = np.asarray(mask, dtype=np.bool_)
    if mask.ndim != 2:
        raise ValueError(f"a mask has the shape (h, w), not {mask.shape}")
    rings, holes = outlines(mask)
    small = -holes.areas() < min_area
    if small.any():
        mask = mask | polygons_to_mask([ring.ravel() for ring in holes.select(small).split()], *mask.shape)
        rings, _ = outlines(mask)
    areas = rings.areas()
    rings, areas = rings.select(areas >= min_area), areas[areas >= min_area]
    polygons = [ring.ravel().tolist() for ring in simplified(rings, tolerance)]
    return [polygons[number] for number in np.argsort(-areas, kind="stable")]


@naming_out_of_memory("not enough memory to fill the polygons")
def polygons_to_mask(polygons: Sequence[Sequence[float] | NDArray[np.float64]], height: int, width: int) -> Mask:
    """Fill polygons: a pixel is foreground if its centre is inside at least one of them, by the even-odd rule.

    Args:
        polygons: flat coordinates `[x0, y0, x1, y1, ...]` of each polygon; what lies outside the mask is cut off.
        height, width: of the mask.

    Returns:
        (height, width) bool.

    Raises:
        TypeError: `polygons` is no list.
        ValueError: a polygon is not a flat list of at least three pairs of finite numbers, or a side is negative.
        OutOfMemoryError: there is not enough memory for the mask.
    """
    if not isinstance(polygons, Iterable):
        raise TypeError(f"polygons must be a list of polygons [x0, y0, x1, y1, ...], not {kind_name(polygons)}")
    height, width = whole_number("height", height, 0), whole_number("width", width, 0)
    rings = [_points(polygon, index) for index, polygon in enumerate(polygons)]
    steps = np.zeros((height, width + 1), dtype=np.int32)
    if rings:
        joined = Rings(np.concatenate(rings), np.zeros(0, np.bool_), np.array([len(ring) for ring in rings]))
        points = joined.points
        _, starts, stops = filled_runs(points, points[joined.successors()], joined.numbers, height)
        for places, step in ((starts, 1), (stops, -1)):
            row, column = np.divmod(places, COLUMNS)
            np.add.at(steps, (row, np.minimum(column, width)), step)
    mask: Mask = np.cumsum(steps, axis=1)[:, :-1] > 0
    return mask


def _points(polygon: Sequence[float] | NDArray[np.float64], index: int) -> NDArray[np.float64]:
    """Return the points of a polygon: (n, 2)."""
    try:
        flat = np.asarray(polygon, dtype=np.float64)
    except (TypeError, ValueError):
        flat = np.full(1, np.nan)
    if flat.ndim != 1 or flat.size % 2 or not np.isfinite(flat).all():
        raise ValueError(f"polygons[{index}] must be a flat list [x0, y0, x1, y1, ...], not {shown_repr(polygon)}")
    if flat.size < _FEWEST_NUMBERS:
        raise ValueError(f"polygons[{index}] must have at least three points, not {flat.size // 2}: leave it out")
    return flat.reshape(-1, 2)
