"""Sums, norms and QuickGELU: PyTorch's operators on the CPU, and the kernels for a GPU in Triton's interpreter."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sspsam.models import norms
from sspsam.models.column_attention import from_windows, to_windows

# run where Triton interprets kernels on the CPU, which it decides when it is imported
INTERPRETED = """
import json, sys, torch
from torch import nn
from torch.nn import functional as F
from sspsam.models import norm_kernels as kernels
from sspsam.models.column_attention import from_windows, to_windows

torch.manual_seed(0)
dtype, differences = torch.float16, {}

def compare(name, result, expected, wide=False):
    assert result.shape == expected.shape, name
    assert result.dtype == (torch.float32 if wide else dtype), name
    # relative to float16, whose numbers from 1 to 2 are 2**-10 apart
    difference = (result.float() - expected.float()).abs() / expected.float().abs().clamp(min=1)
    differences[name] = float(difference.max()) * (100 if wide else 1)

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
        wide, narrow = kernels.normalize_sum(norm, x[:1], update, dtype)  # one image, several expressions
        compare(f"wide {width}", wide, norm(x[:1] + update), wide=True)
        compare(f"narrow {width}", narrow, norm(x[:1] + update))
        grid = torch.randn(2, 7, 7, width)
        for window in (3, 7):
            windows = kernels.normalize_into_windows(norm, grid, window, dtype)
            compare(f"windows of {window}, {width}", windows, to_windows(norm(grid), window))
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


def layer_norm(width: int) -> nn.LayerNorm:
    norm = nn.LayerNorm(width).requires_grad_(False)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_the_kernels_give_pytorch_s_results_in_the_interpreter() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    process = subprocess.run(
        [sys.executable, "-c", INTERPRETED], env=environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    differences = json.loads(process.stdout)
    assert len(differences) == 34
    assert {name: value for name, value in differences.items() if not value < 1e-3} == {}


def test_on_the_cpu_they_are_pytorch_s_operators_bit_for_bit() -> None:
    norm, x, update = layer_norm(16), torch.randn(2, 6, 6, 16), torch.randn(2, 6, 6, 16)
    dtype = torch.float32
    total, normalized = norms.add_and_normalize(norm, x, update, dtype)
    assert torch.equal(total, x + update)
    assert torch.equal(normalized, norm(x + update))
    windows = norms.normalize_into_windows(norm, x, 4, dtype)
    assert torch.equal(windows, to_windows(norm(x), 4))
    total, normalized = norms.add_and_normalize(norm, x, windows, dtype, 4)
    assert torch.equal(total, x + from_windows(windows, 4, 6))
    assert torch.equal(normalized, norm(total))
    tokens = norms.normalize_sum(norm, x, update, dtype)
    assert tokens.wide is tokens.narrow
    assert torch.equal(tokens.wide, norm(x + update))
    assert torch.equal(norms.normalize(norm, x, dtype), norm(x))
    assert torch.equal(norms.normalize_with_gelu(norm, x, dtype), F.gelu(norm(x)))
    assert torch.equal(norms.add_for_products(x, update[:1, :1], dtype), x + update[:1, :1])
    assert torch.equal(norms.quick_gelu(x), x * torch.sigmoid(1.702 * x))


def test_windows_of_half_precision_are_narrow_before_they_are_moved() -> None:
    norm, x = layer_norm(16), torch.randn(1, 5, 5, 16)
    assert norms.normalize_into_windows(norm, x, 4, torch.bfloat16).dtype is torch.bfloat16


def test_kernels_that_are_wrong_or_fail_are_logged_and_not_used(monkeypatch, caplog) -> None:
    device = torch.device("cuda")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    for difference, reason in ((lambda *_: 0.5, "its results differ by 0.5"), (lambda *_: 1 / 0, "ZeroDivisionError")):
        monkeypatch.setattr(norms, "_difference", difference)
        monkeypatch.setitem(sys.modules, "sspsam.models.norm_kernels", sys.modules[__name__])
        norms.norm_kernels_on.cache_clear()
        with caplog.at_level("INFO"):
            assert norms.norm_kernels_on(device) is None
        assert reason in caplog.text
    norms.norm_kernels_on.cache_clear()


def test_without_cuda_there_are_no_kernels(monkeypatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)  # ROCm's devices are called "cuda" too
    norms.norm_kernels_on.cache_clear()
    assert norms.norm_kernels_on(torch.device("cuda")) is None
    norms.norm_kernels_on.cache_clear()
