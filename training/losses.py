"""Losses of the training, each weighted already: of masks, boxes and what is read inside the prompt generator."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

Losses = dict[str, Tensor]
_DECIDING = 8  # pixels of the low-resolution mask that decide whether there is a target


def _dice(logits: Tensor, wanted: Tensor) -> Tensor:
    """1 - the soft Dice coefficient of (X, pixels); what is empty should stay so."""
    share = logits.sigmoid()
    overlap = (share * wanted).sum(dim=1)
    return (1 - (2 * overlap + 1) / (share.sum(dim=1) + wanted.sum(dim=1) + 1)).mean()


def _focal(logits: Tensor, wanted: Tensor) -> Tensor:
    """Binary cross-entropy weighted by the square of the error (Lin et al. 2017), for soft labels."""
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return (entropy * (logits.sigmoid() - wanted).square()).mean()


def mask_losses(low_res: Tensor, ious: Tensor, wanted: Tensor) -> Losses:
    """(X, M, M) logits, (X,) SAM's guess of its IoU, (X, T, T) shares."""
    side = wanted.shape[-1]
    logits = F.interpolate(low_res.unsqueeze(1), (side, side), mode="bilinear", align_corners=False).squeeze(1)
    with torch.no_grad():
        found, true = logits >= 0, wanted >= 0.5
        both, either = (found & true).sum(dim=(1, 2)), (found | true).sum(dim=(1, 2))
        iou = torch.where(either > 0, both / either.clamp(min=1), 1.0)
    return {
        "dice": 4 * _dice(logits.flatten(1), wanted.flatten(1)),
        "focal": 4 * 20 * _focal(logits, wanted),
        "iou": F.mse_loss(ious, iou),
        "#iou": iou[true.any(dim=(1, 2))].mean(),
    }


def no_target_loss(low_res: Tensor, meant: Tensor) -> Losses:
    """(X, M, M) logits, (X,) whether anything is meant: a few pixels decide, which count for little in a mask."""
    highest = low_res.flatten(1).topk(_DECIDING, dim=1).values.mean(dim=1)
    return {"no_target": 2 * F.binary_cross_entropy_with_logits(highest, meant.float())}


def box_losses(boxes: Tensor, wanted: Tensor) -> Losses:
    """(X, 4) centre and size, (X, 4) corners; fractions."""
    center, half = boxes[:, :2], boxes[:, 2:] / 2
    corners = torch.cat([center - half, center + half], dim=1)
    low, high = wanted[:, :2], wanted[:, 2:]
    difference = (boxes - torch.cat([(low + high) / 2, high - low], dim=1)).abs().sum(dim=1)
    return {"l1": 5 * difference.mean(), "giou": 2 * generalized_box_iou_loss(corners, wanted, reduction="mean")}


def mark_losses(marks: Tensor, wanted: Tensor) -> Losses:
    """(layers, E, marks, G*G) logits, (E, marks, G*G) shares."""
    wanted = wanted.expand_as(marks)
    losses = []
    for logits, shares in zip(marks.unbind(2), wanted.unbind(2), strict=True):  # each of (layers, E, G*G)
        some = shares.any(dim=2)  # what is rare, such as landmarks, is averaged over where it is, or it is never learnt
        losses += [_dice(logits[chosen], shares[chosen]) for chosen in (some, ~some) if chosen.any()]
    return {"marks": 2 * torch.stack(losses).mean() + 4 * F.binary_cross_entropy_with_logits(marks, wanted)}


def summary_losses(summary: Tensor, some: Tensor, candidates: Tensor) -> Losses:
    """(layers, E, 1 + counts) logits, (E,) whether there is something, (E,) how many candidates there are."""
    exists, counts = summary[..., 0], summary[..., 1:].flatten(0, 1)
    return {
        "exists": F.binary_cross_entropy_with_logits(exists, some.float().expand_as(exists)),
        "count": 0.5 * F.cross_entropy(counts, candidates.repeat(len(summary))),
    }
