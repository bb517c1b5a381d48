"""The choice of the GRU kernel, with a simulated GPU."""

import copy
import sys
import types
from collections.abc import Callable

import pytest
import torch
from torch import nn

from sspsam.models import LinguisticAttentionAdapter, attention_adapters
from sspsam.models import gru as gru_module
from sspsam.models.gru import fused_gru, stack_directions
from tests.support.device_mode import simulated_device


@pytest.mark.parametrize(
    ("width", "dtype", "device"),
    [
        (512, torch.float16, "cpu"),
        (512, torch.float32, "cuda"),
        (96, torch.float16, "cuda"),
        (16, torch.float16, "cuda"),
    ],
)
def test_the_gru_kernel_is_for_float16_and_certain_widths_on_a_gpu(width, dtype, device) -> None:
    assert fused_gru(width, 1, dtype, torch.device(device)) is None


@pytest.fixture
def gpu(monkeypatch) -> torch.device:
    """A simulated GPU of NVIDIA, of compute capability 8.0."""
    if torch.cuda.is_available():
        pytest.skip("a CUDA GPU cannot be simulated where there is one")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    device = torch.device("cuda", 0)
    gru_module._works.cache_clear()  # the device is another one in every test
    with simulated_device("cuda"), torch.no_grad():
        yield device
    gru_module._works.cache_clear()


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
        assert f"GRU of up to {rows} expressions: cuDNN on cuda:0" in caplog.text
    assert "too many blocks in cooperative launch" in caplog.text


def test_a_gru_kernel_with_wrong_results_is_not_used(gpu, monkeypatch, caplog) -> None:
    gru_kernel_that_launches(monkeypatch, lambda expressions: True, error=0.02)
    with caplog.at_level("INFO"):
        assert fused_gru(64, 1, torch.float16, gpu) is None
    assert "its results differ by 0.0" in caplog.text


def test_gpus_before_compute_capability_8_use_cudnn(gpu, monkeypatch) -> None:
    gru_kernel_that_launches(monkeypatch, lambda expressions: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert fused_gru(64, 1, torch.float16, gpu) is None


def test_expressions_are_read_by_the_kernel_as_by_pytorch(gpu, monkeypatch) -> None:
    launched = gru_kernel_that_launches(monkeypatch, lambda expressions: True)
    adapter = LinguisticAttentionAdapter(12, 32).requires_grad_(False)
    words, padding = torch.randn(3, 9, 12), torch.arange(9) >= torch.tensor([[4], [7], [1]])
    expected = adapter(words, padding)
    half = copy.deepcopy(adapter).to(gpu, torch.float16)
    on_gpu = words.to(gpu, torch.float16), padding.to(gpu)
    for folded in (False, True):
        launched.clear()
        features = half(*on_gpu)
        assert launched[-1] == 3
        for ours, of_the_cpu in zip(features, expected, strict=True):
            assert torch.allclose(ours.float().cpu(), of_the_cpu, atol=5e-3)
        if not folded:
            half.fold()
            monkeypatch.setattr(attention_adapters, "stack_directions", None)  # is not called any more
    launched.clear()
    with torch.enable_grad():  # the kernel has no derivative
        half(*on_gpu)
    assert not launched
