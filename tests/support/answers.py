"""Answers with given masks, and the agreement of two masks."""

import numpy as np

from sspsam.segmentation import Segmentation
from tests.support.masks import Mask


def answer(mask: Mask, text: str = "the mug", score: float = 0.5, pixels: np.ndarray | None = None) -> Segmentation:
    """Return an answer with a mask; an empty mask is a no-target answer."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = None
    if len(rows):
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return Segmentation(
        text=text,
        mask=mask,
        no_target=box is None,
        foreground_pixels=int(mask.sum()),
        score=score,
        box=(0.0, 0.0, 1.0, 1.0) if box is None else tuple(map(float, box)),
        mask_box=box,
        pixels=pixels,
    )


def iou(first: Mask, second: Mask) -> float:
    """Return intersection over union; 1 for two empty masks."""
    union = (first | second).sum()
    return 1.0 if union == 0 else float((first & second).sum() / union)
