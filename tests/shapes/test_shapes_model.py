"""The bundled model answers, by its weights alone, what another program draws and asks."""

import pytest
import torch

from sspsam import SSPSAMPredictor
from sspsam.checkpoints.download import HubOptions
from sspsam.checkpoints.format import load_checkpoint
from sspsam.hub import resolve
from training.evaluate import answers, summary

FOLDER = resolve("shapes", HubOptions()).path


def balanced(numbers: dict[str, float]) -> float:
    """The mean of N-acc and T-acc: 0.5 is chance, whatever is always said."""
    return (numbers["N-acc"] + numbers["T-acc"]) / 2


@pytest.fixture(scope="module")
def numbers() -> dict[str, float]:
    predictor = SSPSAMPredictor.from_pretrained("shapes", device="cpu")
    return summary(answers(predictor, "second", 40, 8))


def test_it_answers_a_second_renderer(numbers) -> None:
    # a guard well below what the model card reports, for these are few scenes
    assert numbers["expressions"] > 250
    assert numbers["mIoU"] > 0.77
    assert balanced(numbers) > 0.92


def test_with_its_weights_shuffled_nothing_is_left(numbers) -> None:
    model, config = load_checkpoint(FOLDER)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            order = torch.randperm(parameter.numel(), generator=generator)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    shuffled = summary(answers(SSPSAMPredictor(model, config, device="cpu"), "second", 15, 8))
    assert shuffled["mIoU"] < 0.15 < numbers["mIoU"]
    assert abs(balanced(shuffled) - 0.5) < 0.1 < balanced(numbers) - 0.5
