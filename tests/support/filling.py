"""Polygons that are filled by other rules and programs than the library's."""

import numpy as np
from PIL import Image, ImageDraw

from tests.support.masks import Mask


def filled(rows: list[list[float]], height: int, width: int) -> Mask:
    """Fill polygons by the even-odd rule at the centres of pixels, slowly: a second implementation."""
    mask = np.zeros((height, width), dtype=bool)
    y, x = np.mgrid[0:height, 0:width] + 0.5
    for row in rows:
        inside = np.zeros_like(mask)
        ring = np.reshape(row, (-1, 2))
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            if y0 != y1:
                crosses = (y >= min(y0, y1)) & (y < max(y0, y1))
                inside ^= crosses & (x > x0 + (y - y0) * (x1 - x0) / (y1 - y0))
        mask |= inside
    return mask


def filled_by_labelme(rings: list[list[float]], height: int, width: int) -> Mask:
    """Fill polygons as LabelMe's `shape_to_mask` does."""
    mask = np.zeros((height, width), dtype=bool)
    for ring in rings:
        image = Image.new("L", (width, height))
        ImageDraw.Draw(image).polygon(ring, fill=1, outline=1)
        mask |= np.asarray(image) == 1
    return mask
