"""Sums, norms and QuickGELU: PyTorch's operators on the CPU, and the kernels for a GPU in Triton's interpreter."""

import json
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sspsam.models import norms
from sspsam.models.column_attention import from_windows, to_windows
from tests.support.own_kernels import NormKernels, acceptance, with_nan
from tests.support.triton_interpreter import COMPARE, interpreted, needs_triton

# run where Triton interprets kernels on the CPU, which it decides when it is imported
INTERPRETED = (
    COMPARE
    + """
from torch.nn import functional as F
from sspsam.models import norm_kernels as kernels
from sspsam.models.column_attention import from_windows, to_windows

with torch.no_grad():
    for width in (32, 48):  # 48: the kernel's block is wider
        norm = nn.LayerNorm(width, eps=1e-6)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        x = torch.randn(2, 9, width) * 3 + 1
        update = torch.randn(2, 9, width).to(dtype)
        compare(f"norm {width}", kernels.normalize(norm, x, dtype), norm(x))
        compare(f"of half {width}", kernels.normalize(norm, update, dtype), norm(update.float()))
        compare(f"strided {width}", kernels.normalize(norm, x[:, :4], dtype), norm(x[:, :4]))
        compare(f"gelu {width}", kernels.normalize(norm, update, dtype, gelu=True), F.gelu(norm(update.float())))
        total, narrow = kernels.add_and_normalize(norm, x, update, dtype)
        compare(f"total {width}", total, x + update, wide=True)
        compare(f"of the total {width}", narrow, norm(x + update))
        by_token = x.transpose(0, 1).contiguous().transpose(0, 1)  # dense, in another order
        total, narrow = kernels.add_and_normalize(norm, by_token, update, dtype)
        compare(f"total of strided {width}", total, x + update, wide=True)
        compare(f"of the total of strided {width}", narrow, norm(x + update))
        wide, narrow, positioned = kernels.normalize_sum(norm, x[:1], update, dtype)  # one image, several expressions
        assert positioned is None
        compare(f"wide {width}", wide, norm(x[:1] + update), wide=True)
        compare(f"narrow {width}", narrow, norm(x[:1] + update))
        for positions in (1, 2):  # one for all expressions, or one for each
            position = torch.randn(9, positions, width).transpose(0, 1).squeeze(0)
            wide, narrow, positioned = kernels.normalize_sum(norm, x, update, dtype, position)
            compare(f"wide {width} {positions}", wide, norm(x + update), wide=True)
            compare(f"narrow {width} {positions}", narrow, norm(x + update))
            compare(f"positioned {width} {positions}", positioned, norm(x + update) + position)
            wide, narrow, positioned = kernels.normalize_sum(norm, None, update, dtype, position)
            compare(f"wide update {width} {positions}", wide, norm(update.float()), wide=True)
            compare(f"narrow update {width} {positions}", narrow, norm(update.float()))
            compare(f"positioned update {width} {positions}", positioned, norm(update.float()) + position)
        grid = torch.randn(2, 7, 7, width)
        for window in (3, 7):
            total, windows = kernels.normalize_into_windows(norm, grid, None, window, dtype)
            assert total is grid
            compare(f"windows of {window}, {width}", windows, to_windows(norm(grid), window))
            update = torch.randn(2, 7, 7, width).to(dtype)
            total, windows = kernels.normalize_into_windows(norm, grid, update, window, dtype)
            compare(f"total before windows of {window}, {width}", total, grid + update, wide=True)
            compare(f"windows of the total of {window}, {width}", windows, to_windows(norm(grid + update), window))
            update = torch.randn(windows.shape).to(dtype)
            total, narrow = kernels.add_and_normalize(norm, grid, update, dtype, window)
            expected = grid + from_windows(update, window, 7)
            compare(f"total from windows of {window}, {width}", total, expected, wide=True)
            compare(f"of the total from windows of {window}, {width}", narrow, norm(expected))
    norm = nn.LayerNorm(64)
    x = torch.randn(2050, 64)  # several rows in one block, and a part of the last block
    compare("many rows", kernels.normalize(norm, x, dtype), norm(x))
    x = torch.randn(3, 700).to(dtype)
    compare("quick gelu", kernels.quick_gelu(x), x.float() * torch.sigmoid(1.702 * x.float()))
json.dump(differences, sys.stdout)
"""
)

TRIAL = """
import torch
from sspsam.models import norm_kernels, norms
for dtype in (torch.float16, torch.bfloat16):
    torch.set_default_dtype(dtype)  # of an application
    assert norms.norm_kernels_on(torch.device("cpu"), dtype) is norm_kernels, dtype
"""


def layer_norm(width: int) -> nn.LayerNorm:
    norm = nn.LayerNorm(width).requires_grad_(False)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


@needs_triton
def test_the_kernels_give_pytorch_s_results_in_the_interpreter() -> None:
    differences = json.loads(interpreted(INTERPRETED))
    assert len(differences) == 66
    assert {name: value for name, value in differences.items() if not value < 1e-3} == {}


@needs_triton
@pytest.mark.slow
def test_the_kernels_pass_their_own_trial_in_the_interpreter() -> None:
    interpreted(TRIAL)


def test_on_the_cpu_they_are_pytorch_s_operators_bit_for_bit() -> None:
    norm, x, update = layer_norm(16), torch.randn(2, 6, 6, 16), torch.randn(2, 6, 6, 16)
    dtype = torch.float32
    total, normalized = norms.add_and_normalize(norm, x, update, dtype)
    assert torch.equal(total, x + update)
    assert torch.equal(normalized, norm(x + update))
    total, windows = norms.normalize_into_windows(norm, x, None, 4, dtype)
    assert total is x
    assert torch.equal(windows, to_windows(norm(x), 4))
    total, of_the_sum = norms.normalize_into_windows(norm, x, update, 4, dtype)
    assert torch.equal(total, x + update)
    assert torch.equal(of_the_sum, to_windows(norm(x + update), 4))
    total, normalized = norms.add_and_normalize(norm, x, windows, dtype, 4)
    assert torch.equal(total, x + from_windows(windows, 4, 6))
    assert torch.equal(normalized, norm(total))
    tokens = norms.normalize_sum(norm, x, update, dtype)
    assert tokens.wide is tokens.narrow
    assert torch.equal(tokens.wide, norm(x + update))
    assert tokens.positioned is None
    position = torch.randn(6, 6, 16)
    assert torch.equal(norms.with_position(tokens, position, dtype), tokens.wide + position)
    positioned = norms.normalize_sum(norm, x, update, dtype, position)
    assert torch.equal(positioned.positioned, tokens.wide + position)
    alone = norms.normalize_sum(norm, None, update.half(), dtype, position)
    assert torch.equal(alone.wide, norm(update.half().float()))
    assert torch.equal(alone.positioned, alone.wide + position)
    assert norms.with_position(positioned, torch.zeros(6, 6, 16), dtype) is positioned.positioned
    assert torch.equal(norms.normalize(norm, x, dtype), norm(x))
    assert torch.equal(norms.normalize_with_gelu(norm, x, dtype), F.gelu(norm(x)))
    assert torch.equal(norms.add_for_products(x, update[:1, :1], dtype), x + update[:1, :1])
    assert torch.equal(norms.quick_gelu(x), x * torch.sigmoid(1.702 * x))


def test_windows_of_half_precision_are_narrow_before_they_are_moved() -> None:
    norm, x = layer_norm(16), torch.randn(1, 5, 5, 16)
    assert norms.normalize_into_windows(norm, x, None, 4, torch.bfloat16)[1].dtype is torch.bfloat16


@pytest.fixture
def accepted(monkeypatch) -> Iterator[Callable[..., bool]]:
    yield from acceptance(monkeypatch, norms, norms.norm_kernels_on)


RESULTS = (
    "norm",
    "gelu",
    "windows",
    "total before windows",
    "windows of the total",
    "total",
    "norm of the total",
    "wide",
    "narrow",
    "positioned",
    "wide of the update",
    "narrow of the update",
    "positioned of the update",
    "quick gelu",
)


def last_row_swapped(value: torch.Tensor) -> torch.Tensor:
    return torch.cat([value[:-1], value[-1:].flip(-1)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_kernels_of_which_one_result_is_nan_or_wrong_are_refused(accepted, dtype, caplog) -> None:
    assert accepted(NormKernels(), dtype)
    with caplog.at_level("INFO"):
        for wrong in RESULTS:
            assert not accepted(NormKernels(wrong, with_nan), dtype), wrong
            assert "its results differ by nan" in caplog.messages[-1]
            assert not accepted(NormKernels(wrong, last_row_swapped), dtype), wrong
    assert len(caplog.messages) == 2 * len(RESULTS)


@pytest.mark.parametrize("is_tried", [lambda x: x.numel() // x.shape[-1] > 2048, lambda x: x.shape[-1] > 1024])
def test_the_trial_covers_several_rows_in_a_block_and_many_threads(accepted, is_tried) -> None:
    """The kernels give a block several rows from 2,048 on, and 8 groups of threads above a width of 1,024."""
    for wrong in RESULTS:
        assert not accepted(NormKernels(wrong, lambda x: x + 1 if is_tried(x) else x), torch.float16), wrong


def test_kernels_that_fail_are_logged_and_not_used(accepted, caplog) -> None:
    with caplog.at_level("INFO"):
        assert not accepted(NormKernels("total", lambda value: 1 / 0), torch.float16)
    assert "norms in float16: PyTorch's operators on cpu" in caplog.text
    assert "ZeroDivisionError" in caplog.text
