"""The GRU kernels in Triton's interpreter, and the choice between them and cuDNN on a simulated GPU."""

import copy
import json
import math
import sys
import types
from collections.abc import Callable

import pytest
import torch
from torch import nn

from sspsam.models import LinguisticAttentionAdapter, attention_adapters
from sspsam.models.gru import fused_gru, gru_kernel_on, stack_directions
from tests.support.device_mode import simulated_device
from tests.support.triton_interpreter import interpreted, needs_triton

# The interpreter runs one block after the other, so none may wait for a later one: either a direction has one block, or
# the counters say from the beginning that all have finished the only step.
INTERPRETED = """
import json, sys, torch
from torch import nn
from torch.nn import functional as F
from sspsam.models import gru_kernel
from sspsam.models.gru import stack_directions

torch.manual_seed(0)
differences = {}
with torch.no_grad():
    for width, count, length in ((32, 3, 5), (64, 1, 4)):
        gru = nn.GRU(width, width, batch_first=True, bidirectional=True)
        directions, x = stack_directions(gru), torch.randn(count, length, width)

        def states(kernel, dtype, gates, units, exchange, finished, **sizes):
            result = torch.full((*gates.shape[:2], 2 * width), torch.nan, dtype=dtype)
            counters = torch.full((64,), finished, dtype=torch.int32)
            weights = gates.to(dtype), directions.weight_hh.to(dtype), directions.bias_hh.to(dtype)
            blocks = width // units
            kernel[(2 * blocks,)](
                *weights, result, exchange, counters, gates.shape[1], count,
                width=width, units=units, blocks=blocks, counter_stride=32, **sizes,
            )
            return result.float()

        gates, expected = F.linear(x, directions.weight_ih, directions.bias_ih), gru(x)[0]
        exchange = torch.zeros(2, 2, 16, width, dtype=torch.float16)
        half = states(gru_kernel._bidirectional_gru, torch.float16, gates, width, exchange, 0, padded_count=16)
        differences[f"float16, {count}"] = float((half - expected).abs().max()) / 1000
        exchange = torch.zeros(2, 2, 16, width, dtype=torch.float16)
        step = states(
            gru_kernel._bidirectional_gru, torch.float16, gates[:, :1].contiguous(), 16, exchange, 1000, padded_count=16
        )
        expected_step = gru(x[:, :1])[0]
        differences[f"one step of several blocks in float16, {count}"] = (
            float((step - expected_step).abs().max()) / 1000
        )
        in_turn = gru_kernel._bidirectional_gru_in_turn
        full = states(in_turn, torch.float32, gates, width, torch.zeros(2, 2, count, width), 0)
        differences[f"float32, {count}"] = float((full - expected).abs().max())
        start = torch.randn(2, count, width)
        exchange = torch.stack([start, torch.zeros_like(start)])
        step = states(in_turn, torch.float32, gates[:, :1].contiguous(), 16, exchange, 1000)
        expected, last = gru(x[:, :1], start)
        differences[f"one step of several blocks, {count}"] = float((step - expected).abs().max())
        differences[f"exchanged, {count}"] = float((exchange[1] - last).abs().max())
json.dump(differences, sys.stdout)
"""


@needs_triton
def test_the_kernels_give_pytorch_s_states_in_the_interpreter() -> None:
    differences = json.loads(interpreted(INTERPRETED))
    assert len(differences) == 10
    assert {name: value for name, value in differences.items() if not value < 2e-6} == {}


BLOCK_SIZES = """
from sspsam.models.gru_kernel import _block_size

H100, A100, RTX_4090 = (kilobytes << 10 for kilobytes in (227, 163, 99))  # shared memory of a block
assert [_block_size(rows, 512, H100)[0] for rows in (16, 32, 64)] == [32, 32, 16]
assert [_block_size(rows, 512, A100)[0] for rows in (16, 32, 64)] == [32, 32, 16]
assert [_block_size(rows, 512, RTX_4090)[0] for rows in (16, 32, 64)] == [16, 16, 16]
assert _block_size(32, 128, RTX_4090)[0] == 32
assert _block_size(16, 1024, H100)[0] == 16
"""


@needs_triton
def test_a_block_has_fewer_units_where_its_weights_would_not_fit() -> None:
    interpreted(BLOCK_SIZES)


@pytest.fixture
def gpu(monkeypatch) -> torch.device:
    """A simulated GPU of NVIDIA, of compute capability 8.0."""
    if torch.cuda.is_available():
        pytest.skip("a CUDA GPU cannot be simulated where there is one")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    device = torch.device("cuda", 0)
    gru_kernel_on.cache_clear()  # the device is another one in every test
    with simulated_device("cuda"), torch.no_grad():
        yield device
    gru_kernel_on.cache_clear()


def gru_kernel_that_launches(monkeypatch, works: Callable[[int], bool], error: float = 0.0) -> list[int]:
    """Replace the GRU kernel by PyTorch's, and return the numbers of expressions of its successful launches.

    Args:
        works: says whether the device can launch the kernel for E expressions.
        error: of the kernel's results.
    """
    launched = []

    def bidirectional_gru(x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        if not works(len(x)):
            raise RuntimeError("Triton Error [CUDA]: too many blocks in cooperative launch")
        launched.append(len(x))
        weight_ih, bias_ih, weight_hh, bias_hh = weights
        by_direction = zip(weight_ih.chunk(2), weight_hh, bias_ih.chunk(2), bias_hh, strict=True)
        parameters = [weight for direction in by_direction for weight in direction]
        start = x.new_zeros(2, len(x), x.shape[-1])
        return torch.gru(x, start, parameters, True, 1, 0.0, False, True, True)[0] + error

    module = types.SimpleNamespace(bidirectional_gru=bidirectional_gru)
    monkeypatch.setitem(sys.modules, "sspsam.models.gru_kernel", module)
    return launched


@pytest.mark.parametrize(
    ("width", "dtype", "device"),
    [
        (512, torch.float16, "cpu"),
        (512, torch.float32, "cpu"),
        (512, torch.bfloat16, "cuda"),
        (96, torch.float16, "cuda"),
        (16, torch.float16, "cuda"),
        (1024, torch.float32, "cuda"),
    ],
)
def test_the_gru_kernels_are_for_certain_dtypes_and_widths_on_a_gpu(gpu, monkeypatch, width, dtype, device) -> None:
    gru_kernel_that_launches(monkeypatch, lambda expressions: True)
    assert fused_gru(width, 1, dtype, torch.device(device)) is None


@pytest.mark.parametrize(
    ("most", "count", "parts"),
    [(64, 1, [1]), (64, 40, [40]), (64, 70, [64, 6]), (32, 32, [32]), (32, 64, [32, 32]), (16, 33, [16, 16, 1])],
)
def test_a_gpu_that_is_too_small_for_many_expressions_runs_the_gru_kernel_in_parts(
    gpu, monkeypatch, most, count, parts
) -> None:
    """With 32 to 63 multiprocessors there is no room for the blocks of more than 32 expressions."""
    launched = gru_kernel_that_launches(monkeypatch, lambda expressions: expressions <= most)
    width = 64
    gru = nn.GRU(width, width, batch_first=True, bidirectional=True).to(gpu, torch.float16)
    x = torch.randn(count, 3, width).to(gpu, torch.float16)
    kernel = fused_gru(width, count, torch.float16, gpu)
    launched.clear()
    with torch.no_grad():
        assert torch.allclose(kernel(stack_directions(gru), x).float().cpu(), gru(x)[0].float().cpu(), atol=2e-3)
    assert launched == parts


def test_gru_kernels_that_fail_for_every_count_are_logged_and_not_used(gpu, monkeypatch, caplog) -> None:
    gru_kernel_that_launches(monkeypatch, lambda expressions: False)
    with caplog.at_level("INFO"):
        assert fused_gru(64, 33, torch.float16, gpu) is None
    for rows in (16, 32, 64):
        assert f"GRU of up to {rows} expressions in float16: cuDNN on cuda:0" in caplog.text
    assert "too many blocks in cooperative launch" in caplog.text


@pytest.mark.parametrize(("dtype", "error"), [(torch.float16, 0.02), (torch.float32, 2e-5), (torch.float32, math.nan)])
def test_a_gru_kernel_with_wrong_results_is_not_used(gpu, monkeypatch, caplog, dtype, error) -> None:
    gru_kernel_that_launches(monkeypatch, lambda expressions: True, error=error)
    with caplog.at_level("INFO"):
        assert fused_gru(64, 1, dtype, gpu) is None
    assert "its results differ by" in caplog.text


@pytest.mark.parametrize("count", [1, 4])
def test_few_expressions_are_read_by_the_kernel_in_float32(gpu, monkeypatch, count) -> None:
    launched = gru_kernel_that_launches(monkeypatch, lambda expressions: True)
    gru = nn.GRU(64, 64, batch_first=True, bidirectional=True).to(gpu)
    x = torch.randn(count, 3, 64).to(gpu)
    kernel = fused_gru(64, count, torch.float32, gpu)
    launched.clear()
    assert torch.allclose(kernel(stack_directions(gru), x).cpu(), gru(x)[0].cpu(), atol=1e-6)
    assert launched == [count]


def test_many_expressions_are_read_by_cudnn_in_float32(gpu, monkeypatch) -> None:
    gru_kernel_that_launches(monkeypatch, lambda expressions: True)
    assert fused_gru(64, 5, torch.float32, gpu) is None


def test_gpus_before_compute_capability_8_use_cudnn(gpu, monkeypatch) -> None:
    gru_kernel_that_launches(monkeypatch, lambda expressions: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert fused_gru(64, 1, torch.float16, gpu) is None


@pytest.mark.parametrize(("dtype", "most"), [(torch.float16, 5e-3), (torch.float32, 1e-5)])
def test_expressions_are_read_by_the_kernel_as_by_pytorch(gpu, monkeypatch, dtype, most) -> None:
    launched = gru_kernel_that_launches(monkeypatch, lambda expressions: True)
    adapter = LinguisticAttentionAdapter(12, 32).requires_grad_(False)
    words, padding = torch.randn(3, 9, 12), torch.arange(9) >= torch.tensor([[4], [7], [1]])
    expected = adapter(words, padding)
    on_device = copy.deepcopy(adapter).to(gpu, dtype)
    on_gpu = words.to(gpu, dtype), padding.to(gpu)
    for folded in (False, True):
        launched.clear()
        features = on_device(*on_gpu)
        assert launched[-1] == 3
        for ours, of_the_cpu in zip(features, expected, strict=True):
            assert torch.allclose(ours.float().cpu(), of_the_cpu, atol=most)
        if not folded:
            on_device.fold()
            monkeypatch.setattr(attention_adapters, "stack_directions", None)  # is not called any more
    launched.clear()
    with torch.enable_grad():  # the kernel has no derivative
        on_device(*on_gpu)
    assert not launched
