"""Types of masks, boxes and sizes: what the numbers are, and their order."""

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
"""(h, w), True in the foreground."""

IntBox = tuple[int, int, int, int]
"""x0, y0, x1, y1 in whole pixels; x1 and y1 are just outside."""

FloatBox = tuple[float, float, float, float]
"""x0, y0, x1, y1, in pixels where nothing else is stated."""

HeightWidth = tuple[int, int]
"""Height and width in pixels, the order of arrays."""
