"""Numbers about an answer, from which a calibration computes the probability that the expression has a target."""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sspsam.images.preprocessing import Geometry
from sspsam.models import Prediction
from sspsam.segmentation.postprocessing import box_on_image
from sspsam.segmentation.runs import count_components

FEATURES: Final = (
    "foreground_pixels",  # at probability 0.5 in the authors' frame
    "max_logit",  # largest low-resolution logit
    "mean_logit",  # mean logit of the foreground; the largest logit where there is no foreground
    "margin",  # mean logit of the foreground minus that of the background
    "similarity_peak",  # largest value of the similarity map
    "similarity_spread",  # standard deviation of the similarity map
    "verification_peak",  # largest value of the verification map
    "verification_spread",  # standard deviation of the verification map
    "box_agreement",  # IoU of the box head's box and the tight box around the low-resolution mask
    "predicted_iou",  # SAM's own prediction of the mask's IoU
    "components",  # 8-connected components of the low-resolution mask
)
COLUMNS: Final = 11  # of `feature_columns`


def feature_columns(prediction: Prediction) -> Tensor:
    """Return the part of the features that is computed on the device: (E, `COLUMNS`).

    The columns are the features from `max_logit` to `verification_spread`, and the tight box x0, y0, x1, y1 around the
    foreground in pixels of the low-resolution logits. The host does not wait for the device.
    """
    logits = prediction.low_res.float()  # (E, M, M)
    foreground = logits >= 0
    pixels, size = foreground.sum(dim=(1, 2)), logits[0].numel()  # (E,)
    largest, total = logits.amax(dim=(1, 2)), logits.sum(dim=(1, 2))
    inside = logits.clamp(min=0).sum(dim=(1, 2))  # the sum over the foreground
    mean = torch.where(pixels > 0, inside / pixels.clamp(min=1), largest)
    margin = mean - (total - inside) / (size - pixels).clamp(min=1)
    maps = [values.float().flatten(1) for values in (prediction.similarity, prediction.verification)]  # (E, G*G)
    peaks = [statistic for values in maps for statistic in (values.amax(dim=1), values.std(dim=1, correction=0))]
    return torch.stack([largest, mean, margin, *peaks, *_low_res_box(foreground)], dim=1)


def _low_res_box(foreground: Tensor) -> list[Tensor]:
    """Return x0, y0, x1, y1 around the foreground of (E, M, M) masks, four tensors (E,); 0, 0, M, M if it is empty."""
    side = foreground.shape[-1]
    columns, rows = (foreground.any(dim=dim).float() for dim in (1, 2))  # (E, M)
    first = [occupied.argmax(dim=1).float() for occupied in (columns, rows)]
    last = [side - occupied.flip(1).argmax(dim=1).float() for occupied in (columns, rows)]
    return [*first, *last]


def answer_features(
    table: NDArray[np.float32], foreground: NDArray[np.bool_], geometry: Geometry, sam_size: int, clip_size: int
) -> NDArray[np.float64]:
    """Return the features of E answers, (E, F), in the order of `FEATURES`.

    Args:
        table: (E, any), rows of `summary.summarize`.
        foreground: (E, M, M) bool, the low-resolution logits that are 0 or more.
        geometry: of the image.
        sam_size: side of SAM's square, pixels.
        clip_size: side of CLIP's square, pixels.
    """
    numbers = table.astype(np.float64)
    pixels, score, boxes, columns = numbers[:, 1:2], numbers[:, 2:3], numbers[:, 3:7], numbers[:, 7 : 7 + COLUMNS]
    scale = sam_size / foreground.shape[-1] * np.array([geometry.width, geometry.height] * 2)
    mask_boxes = columns[:, 7:] * scale / np.array([geometry.sam_width, geometry.sam_height] * 2)  # on the image
    agreement = [
        _box_iou(mask_box, np.array(box_on_image(box, geometry, clip_size))) if mask.any() else 0.0
        for mask_box, box, mask in zip(mask_boxes, boxes, foreground, strict=True)
    ]
    components = [count_components(mask) for mask in foreground]
    return np.hstack([pixels, columns[:, :7], np.array(agreement)[:, None], score, np.array(components)[:, None]])


def _box_iou(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    shared = float(np.prod(np.maximum(sides, 0)))
    union = float(np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2])) - shared
    return shared / union if union > 0 else 0.0
