"""Accuracy of the bundled model on the second renderer, and its dependence on the weights."""

import pytest
import torch

from sspsam import SSPSAMPredictor
from sspsam.checkpoints.download import HubOptions
from sspsam.checkpoints.format import load_checkpoint
from sspsam.hub import resolve
from training.evaluate import answers, summary

pytestmark = pytest.mark.slow  # 700 questions, and the weights shuffled

FOLDER = resolve("shapes", HubOptions()).path


def balanced_accuracy(metrics: dict[str, float]) -> float:
    """Mean of N-acc and T-acc; a constant prediction has 0.5."""
    return (metrics["N-acc"] + metrics["T-acc"]) / 2


@pytest.fixture(scope="module")
def metrics() -> dict[str, float]:
    predictor = SSPSAMPredictor.from_pretrained("shapes", device="cpu")
    return summary(answers(predictor, "second", 40, 8))


def test_the_model_is_accurate_on_the_second_renderer(metrics) -> None:
    # the bounds are well below the values of the model card, because there are few scenes
    assert metrics["expressions"] > 250
    assert metrics["mIoU"] > 0.87
    assert metrics["Pr@0.9"] > 0.72
    assert balanced_accuracy(metrics) > 0.94


def test_shuffled_weights_reduce_the_accuracy_to_chance(metrics) -> None:
    model, config = load_checkpoint(FOLDER)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            order = torch.randperm(parameter.numel(), generator=generator)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    shuffled = summary(answers(SSPSAMPredictor(model, config, device="cpu"), "second", 15, 8))
    assert shuffled["mIoU"] < 0.15 < metrics["mIoU"]
    assert abs(balanced_accuracy(shuffled) - 0.5) < 0.1 < balanced_accuracy(metrics) - 0.5
