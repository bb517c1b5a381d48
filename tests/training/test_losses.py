"""Losses of masks, edges, boxes and absence, on answers known to be right or wrong."""

import pytest
import torch
from torch.nn import functional as F

from training import losses
from training.recipe import RECIPES

TARGET_SIDE = 128  # of the masks in a loss


def test_the_edge_loss_sees_the_pixels_near_an_edge_alone() -> None:
    target = torch.zeros(2, TARGET_SIDE, TARGET_SIDE)
    target[0, 32:96, 32:96] = 1  # the second mask has no edge
    logits = 20 * target - 10

    def edge(low_res: torch.Tensor) -> float:
        return float(losses.mask_losses(low_res, torch.ones(2), target, edges=True)["edge"])

    right = edge(logits)
    far, near = logits.clone(), logits.clone()
    far[0, 48:80, 48:80] = -10
    near[0, 30:34, 32:96] = 0
    assert right < 1e-3
    assert edge(far) == right
    assert edge(near) > 0.1


def test_losses_are_near_zero_for_the_right_answer_and_large_for_its_opposite() -> None:
    target = torch.zeros(2, TARGET_SIDE, TARGET_SIDE)
    target[0, 16:64, 32:96] = 1
    low_res = F.avg_pool2d(target, 8) * 40 - 20  # (2, 16, 16): the second mask is empty
    right = losses.mask_losses(low_res, torch.ones(2), target)
    wrong = losses.mask_losses(-low_res, torch.ones(2), target)
    assert right["dice"] < 0.2 < 3 < wrong["dice"]
    assert right["focal"] < 0.3 < 10 < wrong["focal"]
    assert right["iou"] < 1e-3
    assert right["#iou"] > 0.99
    corners = torch.tensor([[0.2, 0.3, 0.6, 0.5]])
    center = torch.tensor([[0.4, 0.4, 0.4, 0.2]])
    assert all(float(loss) == pytest.approx(0, abs=1e-5) for loss in losses.box_losses(center, corners).values())


def test_expressions_without_a_target_weigh_as_much_as_the_stage_says() -> None:
    low_res = torch.randn(3, 4, 4)
    present = torch.tensor([True, False, False])

    def loss(weight: float, rows: slice) -> float:
        return 3 * float(losses.no_target_loss(low_res[rows], present[rows], weight)["no_target"])

    single = [float(losses.no_target_loss(low_res[i : i + 1], present[i : i + 1])["no_target"]) for i in range(3)]
    assert loss(1.0, slice(None)) == pytest.approx(sum(single), rel=1e-5)
    assert loss(2.0, slice(None)) == pytest.approx(single[0] + 2 * single[1] + 2 * single[2], rel=1e-5)
    assert RECIPES["shapes"].stages["polish"].no_target_weight == 2.0
