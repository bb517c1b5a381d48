"""From the network's numbers to a mask and a box on the picture's own pixels (section 5)."""

import math
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from sspsam.images.preprocessing import Geometry


def _upscale(logits: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, `align_corners=False`: (E, a, b) -> (E, height, width)."""
    return F.interpolate(logits.unsqueeze(1), (height, width), mode="bilinear", align_corners=False).squeeze(1)


def logits_in_frame(low_res: Tensor, sam_size: int, frame: int) -> Tensor:
    """The authors' padded evaluation frame: (E, M, M) -> SAM's square -> (E, frame, frame).

    Where the square is four times the logits' side and twice the frame's, as in the published sizes, the second step
    averages two neighbours that lie in one linear piece of the first, so that one step to the frame gives the same.
    """
    if sam_size == 2 * frame == 4 * low_res.shape[-1]:
        return _upscale(low_res, frame, frame)
    return _upscale(_upscale(low_res, sam_size, sam_size), frame, frame)


def foreground_pixels(low_res: Tensor, sam_size: int, frame: int) -> Tensor:
    """(E, M, M) logits -> (E,) pixels with a logit of 0 or more in the authors' frame, padding included."""
    # one expression at a time: the square of one is 4 MB, and that of many need not exist at once
    return torch.cat(
        [(logits_in_frame(one, sam_size, frame) >= 0).sum(dim=(1, 2)) for one in torch.chunk(low_res, len(low_res))]
    )


def logits_on_picture(low_res: Tensor, geometry: Geometry, sam_size: int) -> Tensor:
    """SAM's way to the picture's own pixels: (E, M, M) -> SAM's square -> cut off the padding -> (E, h, w)."""
    square = _upscale(low_res, sam_size, sam_size)
    inside = square[:, : geometry.sam_height, : geometry.sam_width]
    return _upscale(inside, geometry.height, geometry.width)


def threshold_logit(probability: float) -> float:
    """The logit of a probability; 0.5 is exactly 0."""
    return math.log(probability / (1 - probability))


def box_on_picture(box: NDArray[np.float64], geometry: Geometry, clip_size: int) -> tuple[float, float, float, float]:
    """The box head's answer on the picture's own pixels.

    Args:
        box: (4,) centre x, centre y, width, height, as fractions of CLIP's padded canvas.
        geometry: of the picture.
        clip_size: S, side of that canvas in pixels.

    Returns:
        x0, y0, x1, y1 in pixels of the upright picture, inside it.
    """
    centre, half = box[:2], box[2:] / 2
    corners = np.concatenate([centre - half, centre + half]) * clip_size  # x0, y0, x1, y1 on the canvas
    offset = np.array([geometry.clip_left, geometry.clip_top] * 2)
    ratio = np.array([geometry.clip_width / geometry.width, geometry.clip_height / geometry.height] * 2)
    limit = np.array([geometry.width, geometry.height] * 2)
    inside = np.minimum(np.maximum(corners - offset, 0) / ratio, limit)
    return cast(tuple[float, float, float, float], tuple(inside.tolist()))


def box_of_mask(mask: NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """The tight box x0, y0, x1, y1 around an (h, w) mask, x1 and y1 just outside it; None for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
