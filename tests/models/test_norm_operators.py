"""The norms of compiled blocks as operators of PyTorch's compiler, with PyTorch in the place of the kernels."""

import importlib
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from sspsam.models import norm_operators, norms
from tests.support.own_kernels import NormKernels, norm_kernels_on_the_cpu
from tests.support.pages import ROOT


@pytest.fixture(autouse=True)
def kernels() -> Iterator[NormKernels]:
    with norm_kernels_on_the_cpu(NormKernels()) as kernels:
        yield kernels


def example(grid: int) -> tuple[nn.LayerNorm, torch.Tensor, torch.Tensor]:
    torch.manual_seed(grid)
    norm = nn.LayerNorm(16, eps=1e-3).requires_grad_(False)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm, torch.randn(2, grid, grid, 16), torch.randn(2, grid, grid, 16).half()


@pytest.mark.parametrize("grid", [5, 6])
def test_they_do_what_the_norms_do_with_the_kernels(grid: int, kernels: NormKernels) -> None:
    norm, x, update = example(grid)
    for dtype in (torch.float16, torch.bfloat16):
        with torch.no_grad():
            windows = norms.normalize_into_windows(norm, x, update, 3, dtype)
            pairs = [
                (norm_operators.normalize_into_windows(norm, x, update, 3, dtype), windows),
                (
                    norm_operators.add_and_normalize(norm, x, update, dtype),
                    norms.add_and_normalize(norm, x, update, dtype),
                ),
                (
                    norm_operators.add_and_normalize(norm, x, windows[1], dtype, 3),
                    norms.add_and_normalize(norm, x, windows[1], dtype, 3),
                ),
            ]
        for results, expected in pairs:
            assert [result.dtype for result in results] == [torch.float32, dtype]
            assert all(torch.equal(*pair) for pair in zip(results, expected, strict=True))
    assert kernels.results["windows of the total"] >= 4
    assert kernels.results["norm of the total"] >= 8


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("grid", [5, 6])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_compiler_knows_their_shapes_and_dtypes(count: int, grid: int, dtype: torch.dtype) -> None:
    norm, x, update = example(grid)
    x, update = x[:count], update[:count]
    of_norm = norm.weight, norm.bias, norm.eps
    operators = torch.ops.sspsam
    squares, no_windows = operators.normalize_into_windows.default, operators.add_and_normalize.default
    _, windows = squares(x, update, *of_norm, 3, dtype)
    torch.library.opcheck(squares, (x, update, *of_norm, 3, dtype))
    torch.library.opcheck(no_windows, (x, update, *of_norm, 0, dtype))
    torch.library.opcheck(no_windows, (x, windows, *of_norm, 3, dtype))
    strided = x.transpose(1, 2)
    torch.library.opcheck(squares, (strided, update, *of_norm, 3, dtype))
    torch.library.opcheck(no_windows, (strided, update, *of_norm, 0, dtype))


def test_imported_again_they_work_and_so_does_what_was_compiled_before(kernels: NormKernels) -> None:
    norm, x, update = example(5)
    before = norm_operators.add_and_normalize

    @torch.compile(backend="aot_eager")
    def compiled(x: torch.Tensor, update: torch.Tensor) -> torch.Tensor:
        return before(norm, x, update, torch.float16)[1] * 2

    with torch.no_grad():
        expected = compiled(x, update)
        importlib.reload(norm_operators)
        kernels.results.clear()
        assert torch.equal(compiled(x, update), expected)
        assert torch.equal(norm_operators.add_and_normalize(norm, x, update, torch.float16)[1] * 2, expected)
    assert kernels.results["norm of the total"] == 2


def test_nothing_is_registered_where_no_block_is_compiled_with_them() -> None:
    program = "import torch, sspsam.predictor, sspsam.models.compilation\nassert not list(torch.ops.sspsam)\n"
    program += 'assert not hasattr(torch.ops.sspsam, "add_and_normalize")'
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
