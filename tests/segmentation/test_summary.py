"""The numbers behind the answers: PyTorch's operators, and the kernels for a GPU in Triton's interpreter."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch

from benchmarks.authors_checkpoint import tiny_architecture
from sspsam.config import ModelConfig
from sspsam.models import Prediction
from sspsam.segmentation import summary
from tests.support.own_kernels import SummaryKernels, acceptance
from tests.support.triton_interpreter import interpreted, needs_triton

INTERPRETED = """
import json, sys, torch
from sspsam.models import Prediction
from sspsam.segmentation import summary, summary_kernel

torch.manual_seed(0)
differences = {}
for count, side, grid in ((1, 256, 24), (3, 48, 5), (2, 100, 11)):  # in 16, 1 and 3 parts
    for kind in ("noise", "one pixel", "last pixel", "empty", "full", "ends"):
        logits = torch.randn(count, side, side) - 1
        if kind in ("one pixel", "last pixel", "empty"):
            logits = -logits.abs() - 0.1
        if kind == "one pixel":
            logits[:, 7, 11] = 0.0  # 0 is foreground
        if kind == "last pixel":
            logits[:, -1, -1] = 2.5
        if kind == "full":
            logits = logits.abs()
        if kind == "ends":
            logits[:, :, 0] = logits[:, 0] = logits[:, -1] = logits[:, :, -1] = 5.0
        box, iou = torch.rand(count, 4), torch.rand(count, 4)[:, 1]  # strided
        maps = [torch.rand(count, grid, grid).transpose(1, 2) for _ in range(2)]
        if kind == "noise":
            logits = logits.transpose(1, 2)
        prediction = Prediction(logits, iou, box, iou, maps[0], iou, maps[1])
        pixels = torch.randint(0, 2**18, (count,))
        with torch.no_grad():
            result = summary_kernel.summarize(prediction, pixels)
            expected = summary.summarize_with_pytorch(prediction, pixels)
        assert result.shape == expected.shape and result.dtype == torch.float32
        assert (expected[:, 0] == 1).all()
        differences[f"{count} {side} {kind}"] = float((result - expected).abs().max())
json.dump(differences, sys.stdout)
"""

TRIAL = """
import torch
from sspsam.segmentation import summary, summary_kernel
torch.set_default_dtype(torch.float16)  # of an application
assert summary.summary_kernel_on(torch.device("cpu")) is summary_kernel
"""


@needs_triton
def test_the_kernels_give_pytorch_s_results_in_the_interpreter() -> None:
    differences = json.loads(interpreted(INTERPRETED))
    assert len(differences) == 18
    assert {name: value for name, value in differences.items() if not value < 1e-4} == {}


@needs_triton
@pytest.mark.slow
def test_the_kernels_pass_their_own_trial_in_the_interpreter() -> None:
    interpreted(TRIAL)


def example() -> Prediction:
    logits = torch.full((2, 16, 16), -1.0)
    logits[0, 3:5, 2:8] = 1.5
    iou, maps = torch.tensor([0.5, 0.25]), torch.tensor([0.0, 1.0, 0.5, 0.5]).view(1, 2, 2).expand(2, 2, 2)
    return Prediction(logits, iou, torch.tensor([[0.1, 0.2, 0.3, 0.4]] * 2), iou, maps, iou, maps * 2)


def test_each_number_stands_in_its_column() -> None:
    architecture = tiny_architecture()
    config = ModelConfig(replace(architecture, sam=replace(architecture.sam, image_size=64)))
    config = replace(config, postprocessing=replace(config.postprocessing, no_target_frame=32))
    table = summary.summarize(example(), config).tolist()
    maps = [1.0, 0.125**0.5, 2.0, 0.5**0.5]  # largest value and standard deviation
    # in a frame of twice the side; the two expressions differ in their masks and scores
    assert table[0] == pytest.approx([1, 48, 0.5, 0.1, 0.2, 0.3, 0.4, 1.5, 1.5, 2.5, *maps, 2, 3, 8, 5])
    assert table[1] == pytest.approx([1, 0, 0.25, 0.1, 0.2, 0.3, 0.4, -1, -1, 0, *maps, 0, 0, 16, 16])


@pytest.mark.parametrize("field", ["low_res", "box", "iou"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite_are_noticed_in_their_row(field: str, value: float) -> None:
    spoilt = getattr(example(), field).clone()
    spoilt[1].view(-1)[-1] = value
    table = summary.summarize_with_pytorch(example()._replace(**{field: spoilt}), torch.tensor([1, 2]))
    assert table[:, 0].tolist() == [1, 0]


@pytest.fixture
def accepted(monkeypatch) -> Iterator[Callable[..., bool]]:
    yield from acceptance(monkeypatch, summary, summary.summary_kernel_on)


@pytest.mark.parametrize("column", range(18))
def test_kernels_of_which_one_number_is_wrong_are_refused(accepted, column: int) -> None:
    assert accepted(SummaryKernels())
    assert not accepted(SummaryKernels(str(column), lambda values: values + 1))
    assert not accepted(SummaryKernels(str(column), lambda values: values.roll(1)))
    assert not accepted(SummaryKernels(str(column), lambda values: values * torch.nan))


def test_the_trial_notices_wrong_numbers_of_empty_masks_and_values_that_are_not_finite(accepted) -> None:

    def wrong_where_empty(values: torch.Tensor) -> torch.Tensor:
        return torch.where(values == values[2], values + 1, values)

    for column in (8, 14, 16):
        assert not accepted(SummaryKernels(str(column), wrong_where_empty))
    assert not accepted(SummaryKernels("0", torch.ones_like))
