"""The authors' objective: dice and focal loss of the masks, L1 and generalized IoU of the boxes.

Losses are sums over examples, divided by the counts of the whole batch. Parts of a batch, in other processes or one
after the other, therefore add up to the loss of the whole.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from sspsam.finetuning.options import FinetuneOptions

LOSSES = ("dice", "focal", "l1", "giou")


class Counts(NamedTuple):
    """Examples of a whole batch, over all processes."""

    examples: int
    with_target: int


class Targets(NamedTuple):
    """Ground truth of E examples."""

    masks: Tensor  # (E, R/2, R/2) coverage of SAM's square, 0 to 1
    boxes: Tensor  # (E, 4) x0, y0, x1, y1 as fractions of CLIP's square; zeros without a target
    has_target: Tensor  # (E,) bool


def losses(
    low_res: Tensor, boxes: Tensor, targets: Targets, counts: Counts, options: FinetuneOptions
) -> dict[str, Tensor]:
    """Compute the weighted losses of a part of a batch.

    An expression that refers to nothing has an empty mask as its target, and no box.

    Args:
        low_res: (E, M, M) mask logits in SAM's square; they are upsampled to the side of the targets.
        boxes: (E, 4) centre x, centre y, width, height as fractions of CLIP's square.
        targets: of the E examples.
        counts: of the whole batch.
        options: weights.
    """
    side = targets.masks.shape[-1]
    logits = F.interpolate(low_res.unsqueeze(1), (side, side), mode="bilinear", align_corners=False).flatten(1)
    masks = targets.masks.flatten(1).to(logits.dtype)  # (E, R/2*R/2)
    box, box_target = boxes[targets.has_target], targets.boxes[targets.has_target].to(boxes.dtype)
    focal = focal_loss(logits, masks, options.focal_alpha, options.focal_gamma)
    examples, with_target = max(1, counts.examples), max(1, counts.with_target)
    return {
        "dice": options.dice * dice_loss(logits, masks).sum() / examples,
        "focal": options.focal * focal.sum() / examples,
        "l1": options.l1 * (box - center_and_size(box_target)).abs().sum() / with_target,
        "giou": options.giou * generalized_box_iou_loss(corners(box), box_target, reduction="sum") / with_target,
    }


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """One minus the soft Dice coefficient, (..., pixels) -> (...); 1 is added to both terms, as in DETR."""
    probability = logits.sigmoid()
    overlap = (probability * target).sum(dim=-1)
    return 1 - (2 * overlap + 1) / (probability.sum(dim=-1) + target.sum(dim=-1) + 1)


def focal_loss(logits: Tensor, target: Tensor, alpha: float, gamma: float) -> Tensor:
    """Focal loss (Lin et al. 2017), the mean over the pixels, (E, pixels) -> (E,).

    Args:
        logits: (E, pixels).
        target: (E, pixels), 0 to 1.
        alpha: weight of the foreground; the background has 1 - alpha.
        gamma: power of the error.
    """
    probability = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    error = probability + target - 2 * probability * target  # 1 - p for foreground, p for background
    weight = alpha * target + (1 - alpha) * (1 - target)
    return (weight * error.pow(gamma) * entropy).mean(dim=-1)


def corners(boxes: Tensor) -> Tensor:
    """(X, 4) centre x, centre y, width, height -> x0, y0, x1, y1."""
    center, half = boxes[:, :2], boxes[:, 2:] / 2
    return torch.cat([center - half, center + half], dim=1)


def center_and_size(boxes: Tensor) -> Tensor:
    """(X, 4) x0, y0, x1, y1 -> centre x, centre y, width, height."""
    low, high = boxes[:, :2], boxes[:, 2:]
    return torch.cat([(low + high) / 2, high - low], dim=1)
