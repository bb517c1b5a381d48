"""Losses of the training, with their weights applied: masks, boxes, and auxiliary outputs of the prompt generator.

X stands for any number of masks or boxes; masks are learnt in SAM's square at half of its side R.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from sspsam.finetuning.objective import center_and_size, corners, dice_loss

Losses = dict[str, Tensor]  # keys that begin with "#" are metrics: logged, but not part of the loss
_DECIDING_PIXELS = 8  # the highest logits of the low-resolution mask, which decide whether there is a target
_EDGE_THOUSANDTHS = 12  # thousandths of the side of SAM's square: distance from an edge up to which its pixels count


def _focal(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy weighted by the squared error (Lin et al. 2017), for soft labels."""
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (entropy * (logits.sigmoid() - target).square()).mean()


def _edge(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy at the edges of (X, R/2, R/2) masks: the mean over the band of each, then over all masks."""
    distance = max(1, _EDGE_THOUSANDTHS * target.shape[-1] // 1000)
    window = 2 * distance + 1, 1, distance  # size, stride, padding
    band = F.max_pool2d(target, *window) + F.max_pool2d(-target, *window) > 0.1  # (X, R/2, R/2)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * band
    return _mean_where(entropy.sum(dim=(1, 2)) / band.sum(dim=(1, 2)).clamp(min=1), band.any(dim=2).any(dim=1))


def _mean_where(values: Tensor, where: Tensor) -> Tensor:
    """Mean of the values where a bool tensor of the same shape is True; 0 if it is False everywhere."""
    return torch.where(where, values, 0.0).sum() / where.sum().clamp(min=1)


def mask_losses(low_res: Tensor, predicted_ious: Tensor, target: Tensor, edges: bool = False) -> Losses:
    """Losses of predicted masks and of their predicted IoUs.

    Args:
        low_res: (X, M, M) mask logits.
        predicted_ious: (X,) SAM's estimate of the IoU of each mask.
        target: (X, R/2, R/2) coverage of each pixel, 0 to 1.
        edges: whether a loss of the pixels near the edges of the targets is added.
    """
    side = target.shape[-1]
    logits = F.interpolate(low_res.unsqueeze(1), (side, side), mode="bilinear", align_corners=False).squeeze(1)
    with torch.no_grad():
        predicted_mask, target_mask = logits >= 0, target >= 0.5
        intersection = (predicted_mask & target_mask).sum(dim=(1, 2))
        union = (predicted_mask | target_mask).sum(dim=(1, 2))
        iou = torch.where(union > 0, intersection / union.clamp(min=1), 1.0)
        has_target = target_mask.flatten(1).any(dim=1)
    losses = {
        "dice": 4 * dice_loss(logits.flatten(1), target.flatten(1)).mean(),
        "focal": 4 * 20 * _focal(logits, target),
        "iou": F.mse_loss(predicted_ious, iou),
        "#iou": _mean_where(iou, has_target),
        "#Pr@0.9": _mean_where((iou > 0.9).float(), has_target),
    }
    return losses | ({"edge": 2 * _edge(logits, target)} if edges else {})


def no_target_loss(low_res: Tensor, has_target: Tensor, no_target_weight: float = 1.0) -> Losses:
    """Loss of the highest mask logits, few pixels that decide about the target but weigh little in the mask losses.

    Args:
        low_res: (X, M, M) mask logits.
        has_target: (X,) bool.
        no_target_weight: weight of a mask without a target, relative to one with a target.
    """
    highest = low_res.flatten(1).topk(_DECIDING_PIXELS, dim=1).values.mean(dim=1)  # (X,)
    weights = torch.where(has_target, 1.0, no_target_weight)
    return {"no_target": 2 * F.binary_cross_entropy_with_logits(highest, has_target.float(), weights)}


def box_losses(boxes: Tensor, target: Tensor) -> Losses:
    """L1 and generalized IoU losses.

    Args:
        boxes: (X, 4) centre x, y, width, height, as fractions of a square.
        target: (X, 4) x0, y0, x1, y1, as fractions of the same square.
    """
    difference = (boxes - center_and_size(target)).abs().sum(dim=1)
    giou = generalized_box_iou_loss(corners(boxes), target, reduction="mean")
    return {"l1": 5 * difference.mean(), "giou": 2 * giou}


def mark_losses(marks: Tensor, target: Tensor) -> Losses:
    """Losses of the patch maps that auxiliary heads predict from the prompt generator's layers.

    Args:
        marks: (layers, E, marks, G*G) logits.
        target: (E, marks, G*G) coverage of each patch, 0 to 1.
    """
    target = target.expand_as(marks)
    losses, groups = [], []
    for logits, coverage in zip(marks.unbind(2), target.unbind(2), strict=True):  # (layers, E, G*G)
        # rare marks, such as landmarks, are averaged over the maps that contain them; otherwise they are not learnt
        is_present = coverage.any(dim=2)  # (layers, E)
        dice = dice_loss(logits, coverage)  # (layers, E)
        for maps in (is_present, ~is_present):
            losses.append(_mean_where(dice, maps))
            groups.append(maps.any())
    dice_of_groups = torch.stack(losses).sum() / torch.stack(groups).sum()  # groups without a map are zeros
    return {"marks": 2 * dice_of_groups + 4 * F.binary_cross_entropy_with_logits(marks, target)}


def summary_losses(summary: Tensor, has_target: Tensor, candidates: Tensor) -> Losses:
    """Losses of the existence and the count that auxiliary heads predict from the learned tokens.

    Args:
        summary: (layers, E, 1 + counts) logits of a target, and of each number of candidates.
        has_target: (E,) bool.
        candidates: (E,) number of candidates.
    """
    exists, counts = summary[..., 0], summary[..., 1:].flatten(0, 1)
    return {
        "exists": F.binary_cross_entropy_with_logits(exists, has_target.float().expand_as(exists)),
        "count": 0.5 * F.cross_entropy(counts, candidates.repeat(len(summary))),
    }
