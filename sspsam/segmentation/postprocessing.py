"""Low-resolution logits -> logits, mask and box on the image's own pixels (`docs/method.md`, section 5)."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from sspsam.images.preprocessing import Geometry
from sspsam.utils.arrays import FloatBox, IntBox


def _resize(logits: Tensor, height: int, width: int) -> Tensor:
    """Resize bilinearly, `align_corners=False`: (E, a, b) -> (E, height, width)."""
    return F.interpolate(logits.unsqueeze(1), (height, width), mode="bilinear", align_corners=False).squeeze(1)


def logits_in_frame(low_res: Tensor, sam_size: int, frame: int) -> Tensor:
    """Resize to the authors' frame: (E, M, M) -> SAM's square -> (E, frame, frame).

    Where SAM's square has four times the side of the logits and twice the side of the frame, as in the published sizes,
    the second step averages two neighbours from one linear piece of the first, so that a single step gives the same.
    """
    if sam_size == 2 * frame == 4 * low_res.shape[-1]:
        return _resize(low_res, frame, frame)
    return _resize(_resize(low_res, sam_size, sam_size), frame, frame)


def foreground_pixels(low_res: Tensor, sam_size: int, frame: int) -> Tensor:
    """Count pixels with a logit of 0 or more in the authors' frame, padding included: (E, M, M) -> (E,)."""
    if low_res.device.type != "cpu":
        return (logits_in_frame(low_res, sam_size, frame) >= 0).sum(dim=(1, 2))
    # one expression at a time: SAM's square takes 4 MB for each
    return torch.cat(
        [
            (logits_in_frame(logits, sam_size, frame) >= 0).sum(dim=(1, 2))  # (1,)
            for logits in torch.chunk(low_res, len(low_res))
        ]
    )


def logits_on_image(low_res: Tensor, geometry: Geometry, sam_size: int) -> Tensor:
    """Resize as SAM does to the image's own pixels: (E, M, M) -> SAM's square -> crop the padding -> (E, h, w)."""
    square = _resize(low_res, sam_size, sam_size)
    inside = square[:, : geometry.sam_height, : geometry.sam_width]
    return _resize(inside, geometry.height, geometry.width)


def threshold_logit(probability: float) -> float:
    """Return the logit of a probability; that of 0.5 is exactly 0."""
    return math.log(probability / (1 - probability))


def box_on_image(box: NDArray[np.float64], geometry: Geometry, clip_size: int) -> FloatBox:
    """Map the output of the box head to the image's own pixels.

    Args:
        box: (4,) centre x, centre y, width, height, as fractions of CLIP's square.
        geometry: of the image.
        clip_size: S, side of CLIP's square in pixels.

    Returns:
        x0, y0, x1, y1 in pixels of the upright image, inside it.
    """
    centre_x, centre_y, width, height = box.tolist()
    ratio_x, ratio_y = geometry.clip_width / geometry.width, geometry.clip_height / geometry.height

    def on_image(fraction: float, offset: int, ratio: float, limit: int) -> float:
        return min(max(fraction * clip_size - offset, 0.0) / ratio, float(limit))  # in this order NaN stays NaN

    return (
        on_image(centre_x - width / 2, geometry.clip_left, ratio_x, geometry.width),
        on_image(centre_y - height / 2, geometry.clip_top, ratio_y, geometry.height),
        on_image(centre_x + width / 2, geometry.clip_left, ratio_x, geometry.width),
        on_image(centre_y + height / 2, geometry.clip_top, ratio_y, geometry.height),
    )


def box_of_mask(mask: NDArray[np.bool_]) -> IntBox | None:
    """Return the tight box x0, y0, x1, y1 around an (h, w) mask, x1 and y1 just outside it; None for an empty mask."""
    return box_of_occupied(np.asarray(mask.any(axis=1)), np.asarray(mask.any(axis=0)))


def box_of_occupied(rows: NDArray[np.bool_], columns: NDArray[np.bool_]) -> IntBox | None:
    """Return the box of a mask from the (h,) rows and (w,) columns that hold a pixel of it; None for an empty mask."""
    y, x = np.flatnonzero(rows), np.flatnonzero(columns)
    if not len(y):
        return None
    return int(x[0]), int(y[0]), int(x[-1]) + 1, int(y[-1]) + 1
