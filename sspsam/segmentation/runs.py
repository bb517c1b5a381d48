"""Horizontal runs of a mask, and its 8-connected components."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sspsam.utils.arrays import IntBox, Mask

Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Runs:
    """Maximal horizontal runs of foreground pixels, sorted by row and by column.

    Args:
        rows: (R,) row of each run.
        starts: (R,) first column of each run.
        stops: (R,) column just after each run.
    """

    rows: Integers
    starts: Integers
    stops: Integers

    @classmethod
    def of(cls, mask: Mask) -> "Runs":
        """Return the runs of an (h, w) mask."""
        height, width = mask.shape
        padded = np.zeros(height * (width + 1) + 1, dtype=np.bool_)  # a zero before the first row and after every row
        padded[1:].reshape(height, width + 1)[:, :width] = mask
        changes = np.flatnonzero(padded[1:] != padded[:-1])
        rows, columns = np.divmod(changes, width + 1)
        return cls(rows[::2], columns[::2], columns[1::2])

    def select(self, chosen: NDArray[np.intp]) -> "Runs":
        """Return the runs of some indices."""
        return Runs(self.rows[chosen], self.starts[chosen], self.stops[chosen])

    def box(self) -> IntBox:
        """Return the tight box x0, y0, x1, y1 around at least one run, x1 and y1 just outside it."""
        return int(self.starts.min()), int(self.rows[0]), int(self.stops.max()), int(self.rows[-1]) + 1

    def draw(self, mask: Mask) -> None:
        """Set the pixels of at least one run in an (h, w) mask."""
        left, top, right, bottom = self.box()
        steps = np.zeros((bottom - top, right - left + 1), dtype=np.int8)
        steps[self.rows - top, self.starts - left] = 1
        steps[self.rows - top, self.stops - left] = -1
        mask[top:bottom, left:right] |= np.cumsum(steps, axis=1, dtype=np.int8)[:, :-1].view(np.bool_)


def component_masks(mask: Mask, min_area: float) -> Iterator[tuple[Mask, IntBox]]:
    """Yield the 8-connected components of an (h, w) mask, from the largest to the smallest.

    Yields:
        An (h, w) mask of each component, and the tight box around it.

    Args:
        mask: (h, w) bool.
        min_area: smallest area of a component that is kept, in pixels.
    """
    runs = Runs.of(mask)
    labels = _labels(runs)
    areas = np.bincount(labels, weights=runs.stops - runs.starts).astype(np.int64)
    by_label = np.argsort(labels, kind="stable")
    ends = np.cumsum(np.bincount(labels))
    for label in np.argsort(-areas, kind="stable"):
        if areas[label] < min_area:
            return
        component = np.zeros(mask.shape, dtype=np.bool_)
        first = ends[label - 1] if label else 0
        of_component = runs.select(by_label[first : ends[label]])
        of_component.draw(component)
        yield component, of_component.box()


def count_components(mask: Mask) -> int:
    """Return the number of 8-connected components of an (h, w) mask."""
    return int(_labels(Runs.of(mask)).max(initial=-1)) + 1


def _labels(runs: Runs) -> Integers:
    """Return the component of each run: (R,), numbered from 0 in the order of each component's first run."""
    stride = max(2, int(runs.stops.max(initial=0)) + 2)  # a key holds row and column
    starts, stops = runs.rows * stride + runs.starts, runs.rows * stride + runs.stops
    # runs of the row above touch a run, also diagonally, if they end at its start or later and begin at its stop or
    # earlier
    first = np.searchsorted(stops, starts - stride, side="left")
    counts = np.maximum(np.searchsorted(starts, stops - stride, side="right") - first, 0)
    below = np.repeat(np.arange(len(starts)), counts)
    above = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(len(below))
    roots = _roots(len(starts), above, below)
    return np.unique(roots, return_inverse=True)[1].astype(np.int64)


def _roots(count: int, first: Integers, second: Integers) -> Integers:
    """Return the smallest node of each node's connected component: (count,).

    Args:
        count: number of nodes.
        first, second: (edges,) the nodes that each edge joins.
    """
    parents = np.arange(count)
    while True:
        one, other = parents[first], parents[second]
        apart = one != other
        if not apart.any():
            return parents
        first, second, one, other = first[apart], second[apart], one[apart], other[apart]
        np.minimum.at(parents, np.maximum(one, other), np.minimum(one, other))
        while not np.array_equal(parents, grandparents := parents[parents]):
            parents = grandparents
