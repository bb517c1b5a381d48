"""The authors' evaluation at batch size 1: masks in the authors' frame, boxes with the 10-pixel rule.

The steps are those of `VGDataset`, `SAMMaskResize`, `PostProcess`, `mask_op.py` and `box_ops.py` in the authors'
repository; `docs/evaluation.md` describes them. Each step keeps their order of operations and their float32, because a
pixel or a threshold may depend on the rounding.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from sspsam.config import ModelConfig
from sspsam.errors import EvaluationError
from sspsam.evaluation.records import Record
from sspsam.images.preprocessing import Geometry
from sspsam.segmentation.postprocessing import logits_on_image
from sspsam.segmentation.target_rule import is_no_target
from sspsam.utils.arrays import FloatBox

NO_TARGET_PIXELS = 50  # fewer foreground pixels are a predicted no-target
NO_TARGET_BOX_AREA = 10.0  # square pixels of the image; a smaller box is right where the truth is empty


@dataclass(frozen=True)
class OfficialFrame:
    """Sizes of the authors' evaluation.

    Args:
        clip_size: S, side of CLIP's square in pixels; 224 or 336 in the published models.
        sam_size: side of SAM's square in pixels.
        side: side of the authors' frame, in which masks are compared, pixels.
        torchvision_017: resize the truth as torchvision 0.17 and later do, which turn it into 8-bit grey first; the
            authors pin 0.16, which resizes it as float32.
    """

    clip_size: int
    sam_size: int = 1024
    side: int = 512
    torchvision_017: bool = False

    @classmethod
    def of(cls, config: ModelConfig, torchvision_017: bool = False) -> Self:
        """Return the sizes for a model; those of the published models are the authors'."""
        architecture, side = config.architecture, config.postprocessing.no_target_frame
        return cls(architecture.clip.image_size, architecture.sam.image_size, side, torchvision_017)


def truth_in_frame(mask: NDArray[np.bool_], frame: OfficialFrame) -> NDArray[np.bool_]:
    """Bring the truth into the frame: bilinear to SAM's size, every touched pixel is kept, padded, then nearest.

    A small target may vanish in the last step; it then counts as no target.

    Args:
        mask: (h, w), at the size of the image.
        frame: sizes of the evaluation.

    Returns:
        (side, side) bool.
    """
    geometry = Geometry.of(mask.shape[0], mask.shape[1], frame.clip_size, frame.sam_size)
    grey = Image.fromarray(mask.astype(np.uint8) * 255) if frame.torchvision_017 else Image.fromarray(_float(mask))
    resized = grey.resize((geometry.sam_width, geometry.sam_height), Image.Resampling.BILINEAR)
    square = np.zeros((frame.sam_size, frame.sam_size), dtype=np.uint8)
    square[: geometry.sam_height, : geometry.sam_width] = np.asarray(resized) > 0
    size = (frame.side, frame.side)
    nearest = F.interpolate(torch.from_numpy(square)[None, None], size, mode="nearest")  # (1, 1, side, side)
    return np.asarray(nearest[0, 0].numpy() > 0)


def _float(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the mask as float32, which Pillow resizes in mode F."""
    return mask.astype(np.float32)


def prediction_in_frame(low_res: Tensor, frame: OfficialFrame) -> NDArray[np.bool_]:
    """Return the foreground in the frame, padding included: sigmoid of 0.5 or more in float32.

    The two steps of the resize are the authors', without the shortcut of `logits_in_frame`, so that rounding is theirs.

    Args:
        low_res: (M, M) logits of SAM's square.
        frame: sizes of the evaluation.

    Returns:
        (side, side) bool.
    """
    logits = low_res.detach().cpu().float()[None, None]  # (1, 1, M, M)
    for side in (frame.sam_size, frame.side):
        logits = F.interpolate(logits, (side, side), mode="bilinear", align_corners=False)
    return np.asarray((torch.sigmoid(logits[0, 0]) >= 0.5).numpy())


def prediction_on_image(
    low_res: NDArray[np.floating], size: tuple[int, int], frame: OfficialFrame
) -> NDArray[np.bool_]:
    """Return the foreground on the image's own pixels, as SAM resizes masks; for drawings only.

    Args:
        low_res: (M, M) logits of SAM's square.
        size: height and width of the image.
        frame: sizes of the evaluation.
    """
    geometry = Geometry.of(*size, frame.clip_size, frame.sam_size)
    logits = torch.from_numpy(low_res.astype(np.float32))[None]  # (1, M, M)
    return np.asarray(logits_on_image(logits, geometry, frame.sam_size)[0].numpy() > 0)


def box_in_image(pred_box: NDArray[np.float32], height: int, width: int, clip_size: int) -> NDArray[np.float32]:
    """Map the output of the box head to the image's pixels as the authors' `PostProcess` does, in float32.

    Args:
        pred_box: (4,) centre x, centre y, width, height, as fractions of CLIP's square.
        height, width: of the image, pixels.
        clip_size: S.

    Returns:
        (4,) x0, y0, x1, y1 in pixels of the image.
    """
    scale = clip_size / max(height, width)
    resized = [round(width * scale), round(height * scale)]  # their rounding, which may differ from that of `Geometry`
    offset = np.array([round((clip_size - side) / 2 - 0.1) for side in resized] * 2, dtype=np.float32)
    ratio = np.array([resized[0] / width, resized[1] / height] * 2, dtype=np.float32)
    half = np.float32(0.5) * pred_box[2:]
    corners = np.concatenate([pred_box[:2] - half, pred_box[:2] + half]) * np.float32(clip_size)
    with np.errstate(divide="ignore", invalid="ignore"):  # a side that rounds to 0 pixels gives NaN, as theirs does
        inside = np.maximum(corners - offset, np.float32(0)) / ratio
    limit = np.array([width, height] * 2, dtype=np.float32)
    return np.asarray(np.minimum(inside, limit), dtype=np.float32)


def box_iou(truth: NDArray[np.float32], predicted: NDArray[np.float32]) -> float:
    """Return the IoU of two boxes x0, y0, x1, y1, (4,) float32; 1 for a truth of zeros and a box below 10 pixels.

    Where both boxes are empty, the authors' NaN, which reaches no threshold, becomes 0.
    """
    if truth.sum(dtype=np.float32) == 0:
        x0, y0, x1, y1 = predicted.tolist()
        return float(max(x1 - x0, 0) * max(y1 - y0, 0) < NO_TARGET_BOX_AREA)
    sides = np.maximum(np.minimum(truth[2:], predicted[2:]) - np.maximum(truth[:2], predicted[:2]), np.float32(0))
    shared = sides[0] * sides[1]
    union = _area(truth) + _area(predicted) - shared
    return float(shared / union) if union > 0 else 0.0


def _area(box: NDArray[np.float32]) -> np.float32:
    return np.float32((box[2] - box[0]) * (box[3] - box[1]))


def official_record(
    index: int,
    truth: NDArray[np.bool_],
    truth_box: FloatBox | None,
    low_res: Tensor | NDArray[np.floating],
    pred_box: NDArray[np.floating],
    frame: OfficialFrame,
) -> Record:
    """Compare one answer of the network with the truth as the authors do.

    Args:
        index: position in the split.
        truth: (h, w), at the size of the image; all False: no target.
        truth_box: x0, y0, x1, y1 of the annotation in pixels of the image; None: no target.
        low_res: (M, M) logits of SAM's square.
        pred_box: (4,) output of the box head.
        frame: sizes of the evaluation.

    Raises:
        EvaluationError: an array has a wrong shape, or the network's values are not finite.
    """
    logits, box = torch.as_tensor(low_res).float(), np.asarray(pred_box, dtype=np.float32)
    if truth.ndim != 2 or logits.ndim != 2 or box.shape != (4,):
        shapes = f"{truth.shape}, {tuple(logits.shape)} and {box.shape}"
        raise EvaluationError(f"entry {index}: truth, logits and box must be (h, w), (M, M) and (4,), not {shapes}")
    if not (bool(logits.isfinite().all()) and bool(np.isfinite(box).all())):
        raise EvaluationError(f"entry {index}: the logits or the box are not finite")
    height, width = truth.shape
    target, predicted = truth_in_frame(truth, frame), prediction_in_frame(logits, frame)
    corners = np.array(truth_box or (0, 0, 0, 0), dtype=np.float32)
    area = int(predicted.sum())
    return Record(
        index=index,
        no_target=not target.any(),
        predicted_no_target=is_no_target(area, NO_TARGET_PIXELS),
        intersection=int((target & predicted).sum()),
        predicted_area=area,
        target_area=int(target.sum()),
        box_iou=box_iou(corners, box_in_image(box, height, width, frame.clip_size)),
        foreground_pixels=area,
    )
