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
# the states of the first of two steps appear after some readings.
INTERPRETED = """
import json, sys, numpy as np, torch
from torch import nn
from torch.nn import functional as F
from triton.runtime.interpreter import InterpreterBuilder
from sspsam.models import gru_kernel
from sspsam.models.gru import stack_directions

torch.manual_seed(0)
differences, waiting, seen = {}, [], set()
load = InterpreterBuilder.create_masked_load

def load_volatile(self, pointers, mask, *others):
    is_volatile = others[-1]
    if is_volatile and waiting:
        waiting.pop()()
    values = load(self, pointers, mask, *others)
    places = pointers.data.tobytes()
    if is_volatile and places not in seen:  # the first reading of all states comes too early
        seen.add(places)
        values.data.view(f"int{8 * values.data.itemsize}")[np.broadcast_to(mask.data, values.data.shape)] = -1
    return values

InterpreterBuilder.create_masked_load = load_volatile
kernels = {
    "float16": (gru_kernel._bidirectional_gru, torch.int16, {"padded_count": 16}),
    "float32": (gru_kernel._bidirectional_gru_in_turn, torch.int32, {}),
}

def unwritten(count, length, width, bits):
    return torch.full((count, length, 2, width), -1, dtype=bits)

def compute(name, gru, x, units, states, most_readings=1000):
    kernel, bits, sizes = kernels[name]
    seen.clear()
    states, directions = states.view(getattr(torch, name)), stack_directions(gru)
    gates = F.linear(x, directions.weight_ih, directions.bias_ih)
    tensors = [tensor.to(states.dtype) for tensor in (gates, directions.weight_hh, directions.bias_hh)]
    (count, length, width), blocks = x.shape, x.shape[-1] // units
    kernel[(2 * blocks,)](
        *tensors, states, length, count, width=width, units=units, blocks=blocks, most_readings=most_readings, **sizes
    )
    return states.flatten(2).float()

with torch.no_grad():
    for width, count, length in ((32, 3, 5), (64, 1, 4)):
        gru = nn.GRU(width, width, batch_first=True, bidirectional=True)
        x = torch.randn(count, length, width)
        for name, (_, bits, _) in kernels.items():
            scale = 1000 if name == "float16" else 1
            states = compute(name, gru, x, width, unwritten(count, length, width, bits))
            differences[f"{name}, {count}"] = float((states - gru(x)[0]).abs().max()) / scale
            expected = gru(x[:, :2])[0]
            states = unwritten(count, 2, width, bits)
            first = expected.to(getattr(torch, name)).view(bits).view(count, 2, 2, width)
            appear = [lambda: states[:, 0, 0].copy_(first[:, 0, 0]), lambda: states[:, 1, 1].copy_(first[:, 1, 1])]
            waiting += appear + [lambda: None] * 8
            states = compute(name, gru, x[:, :2], 16, states)
            assert not waiting
            differences[f"{name}, several blocks, {count}"] = float((states - expected).abs().max()) / scale
            missing = compute(name, gru, x[:, :2], 16, unwritten(count, 2, width, bits), most_readings=3)
            last = torch.stack([missing[:, 1, :width], missing[:, 0, width:]])  # of each direction
            differences[f"{name}, missing states, {count}"] = float(not last[..., :-16].isnan().all())
json.dump(differences, sys.stdout)
"""


@needs_triton
def test_the_kernels_give_pytorch_s_states_in_the_interpreter() -> None:
    """And NaN where the states of other blocks are missing after some readings, instead of waiting for ever."""
    differences = json.loads(interpreted(INTERPRETED))
    assert len(differences) == 12
    assert {name: value for name, value in differences.items() if not value < 2e-6} == {}


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
