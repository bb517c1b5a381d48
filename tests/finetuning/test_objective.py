"""The objective against independent implementations, and its gradients by finite differences."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from sspsam.checkpoints.format import load_checkpoint
from sspsam.finetuning.network import Features, segment_pairs
from sspsam.finetuning.objective import LOSSES, Counts, Targets, dice_loss, focal_loss, losses
from sspsam.finetuning.options import FinetuneOptions
from sspsam.finetuning.trainable import TrainableModel
from sspsam.text.encoder import tokenizer_for


def random_targets(examples: int, side: int) -> Targets:
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(examples, side, side, generator=generator, dtype=torch.float64)
    has_target = torch.arange(examples) % 3 != 2
    low = 0.5 * torch.rand(examples, 2, generator=generator, dtype=torch.float64)
    boxes = torch.cat([low, low + 0.1 + 0.4 * torch.rand(examples, 2, generator=generator, dtype=torch.float64)], 1)
    return Targets((masks > 0.7).double() * has_target[:, None, None], boxes, has_target)


def test_the_focal_loss_is_that_of_torchvision() -> None:
    logits = torch.linspace(-6, 6, 24, dtype=torch.float64).view(2, 12)
    target = (torch.arange(24).view(2, 12) % 3 == 0).double()
    expected = sigmoid_focal_loss(logits, target, alpha=0.25, gamma=2.0, reduction="none").mean(1)
    torch.testing.assert_close(focal_loss(logits, target, 0.25, 2.0), expected)


def test_the_giou_loss_of_overlapping_and_of_separate_boxes_is_that_on_paper() -> None:
    low_res = torch.zeros(2, 8, 8, dtype=torch.float64)
    boxes = torch.tensor([[0.3, 0.3, 0.4, 0.4], [0.1, 0.1, 0.2, 0.2]], dtype=torch.float64)  # centres and sizes
    corners = torch.tensor([[0.3, 0.3, 0.7, 0.7], [0.4, 0.0, 0.6, 0.2]], dtype=torch.float64)
    targets = Targets(low_res, corners, torch.tensor([True, True]))
    iou, hull = 0.04 / 0.28, 0.36  # of the first pair; the second leaves a third of its hull empty
    expected = 1 - iou + (hull - 0.28) / hull, 1 + 0.04 / 0.12
    loss = losses(low_res, boxes, targets, Counts(2, 2), FinetuneOptions())["giou"]
    assert float(loss) == pytest.approx(FinetuneOptions().giou * sum(expected) / 2, abs=1e-5)


def test_the_dice_loss_of_an_empty_target_falls_to_zero_with_the_probabilities() -> None:
    target = torch.zeros(2, 9)
    loss = dice_loss(torch.tensor([-30.0, 3.0]).view(2, 1).expand(2, 9), target)
    assert loss[0] < 1e-6
    assert loss[1] == pytest.approx(1 - 1 / (9 * float(torch.sigmoid(torch.tensor(3.0))) + 1))


def test_the_objective_is_the_authors_sum_in_numpy() -> None:
    options, targets = FinetuneOptions(), random_targets(4, 8)
    generator = torch.Generator().manual_seed(1)
    low_res = torch.randn(4, 8, 8, generator=generator, dtype=torch.float64)
    boxes = 0.2 + 0.3 * torch.rand(4, 4, generator=generator, dtype=torch.float64)
    parts = losses(low_res, boxes, targets, Counts(4, 3), options)
    p, t = 1 / (1 + np.exp(-low_res.flatten(1).numpy())), targets.masks.flatten(1).numpy()
    dice = 1 - (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)
    focal = -0.25 * t * (1 - p) ** 2 * np.log(p) - 0.75 * (1 - t) * p**2 * np.log(1 - p)
    b, present = targets.boxes.numpy(), targets.has_target.numpy()
    target_box = np.stack([(b[:, 0] + b[:, 2]) / 2, (b[:, 1] + b[:, 3]) / 2, b[:, 2] - b[:, 0], b[:, 3] - b[:, 1]], 1)
    l1 = np.abs(boxes.numpy() - target_box).sum(1)[present]
    assert float(parts["dice"]) == pytest.approx(4 * dice.mean())
    assert float(parts["focal"]) == pytest.approx(4 * focal.mean())
    assert float(parts["l1"]) == pytest.approx(5 * l1.mean())
    assert 0 < float(parts["giou"]) <= 2 * 2


def test_the_losses_of_parts_add_up_to_the_loss_of_the_whole() -> None:
    targets, low_res, boxes = random_targets(6, 8), torch.randn(6, 8, 8).double(), torch.rand(6, 4).double()

    def of(rows: slice) -> torch.Tensor:
        part = Targets(*(tensor[rows] for tensor in targets))
        return torch.stack(
            [losses(low_res[rows], boxes[rows], part, Counts(6, 4), FinetuneOptions())[n] for n in LOSSES]
        )

    torch.testing.assert_close(of(slice(0, 1)) + of(slice(1, 6)), of(slice(0, 6)))


@pytest.mark.parametrize("parts", [("ssp", "decoder"), ("text",), ("tokens",)])
def test_gradients_agree_with_finite_differences(tiny_model: Path, parts: tuple[str, ...]) -> None:
    model, config = load_checkpoint(tiny_model)
    table = model.clip.text.token_embedding.weight
    token_ids = torch.from_numpy(np.stack([tokenizer_for(config)(text) for text in ("the brown crescent", "a dog")]))
    table.data[1000:] = table.data[1000]  # tokens that share a row
    trainable = TrainableModel(model, parts, token_ids)
    model.double()
    model.sam.prompt_encoder.pe_layer.float()  # its coordinates are float32
    if trainable.tokens is not None:
        trainable.tokens.rows.data = trainable.tokens.rows.data.double()
    generator = torch.Generator().manual_seed(0)
    clip = torch.randn(2, config.architecture.clip.grid**2, config.architecture.clip.embed_dim, generator=generator)
    sam = torch.randn(2, config.architecture.sam.prompt_width, *[config.architecture.sam.grid] * 2, generator=generator)
    features, targets = Features(clip.double() / 6, sam.double()), random_targets(2, 64)

    def loss() -> torch.Tensor:
        output = segment_pairs(model, features, torch.tensor([0, 1]), trainable.encode_text(token_ids))
        return torch.stack([*losses(*output, targets, Counts(2, 2), FinetuneOptions()).values()]).sum()

    loss().backward()
    parameters = [parameter for parameter in trainable.parameters() if parameter.grad is not None]
    assert parameters
    directions = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters]
    slope = sum(float((p.grad * d).sum()) for p, d in zip(parameters, directions, strict=True) if p.grad is not None)
    values, step = [], 1e-7
    for sign in (1, -2):
        for parameter, direction in zip(parameters, directions, strict=True):
            parameter.data += sign * step * direction
        values.append(float(loss().detach()))
    assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=2e-4, abs=1e-6)
