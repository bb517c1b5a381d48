"""Norms of SAM's blocks for PyTorch's compiler: kernels of `norm_kernels.py` as operators that it does not look into.

The compiler could fuse sums and norms itself, but not with the way into windows and out of them. The functions have the
names and arguments of those in `norms.py`. The module is imported where the kernels work and a block is compiled with
them; importing it again replaces the operators by the same ones.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class _Norm(NamedTuple):
    """The parts of a norm that the kernels read; an operator takes tensors and numbers, but no modules."""

    weight: Tensor
    bias: Tensor
    eps: float


def normalize_into_windows(
    norm: nn.LayerNorm, x: Tensor, update: Tensor, window: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Do what `norms.normalize_into_windows` does with an update."""
    total, windows = _normalize_into_windows(x, update, norm.weight, norm.bias, norm.eps, window, dtype)
    return total, windows


def add_and_normalize(
    norm: nn.LayerNorm, x: Tensor, update: Tensor, dtype: torch.dtype, window: int = 0
) -> tuple[Tensor, Tensor]:
    """Do what `norms.add_and_normalize` does with an update."""
    total, narrow = _add_and_normalize(x, update, norm.weight, norm.bias, norm.eps, window, dtype)
    return total, narrow


@torch.library.custom_op("sspsam::normalize_into_windows", mutates_args=())
def _normalize_into_windows(
    x: Tensor, update: Tensor, weight: Tensor, bias: Tensor, eps: float, window: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    from sspsam.models import norm_kernels

    return norm_kernels.normalize_into_windows(_Norm(weight, bias, eps), x, update, window, dtype)


@_normalize_into_windows.register_fake
def _empty_total_and_windows(
    x: Tensor, update: Tensor, weight: Tensor, bias: Tensor, eps: float, window: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    count, grid, _, width = x.shape
    windows = -(-grid // window)
    narrow = x.new_empty(count * windows**2, window**2, width, dtype=dtype)
    return x.new_empty(x.shape, dtype=torch.float32), narrow


@torch.library.custom_op("sspsam::add_and_normalize", mutates_args=())
def _add_and_normalize(
    x: Tensor, update: Tensor, weight: Tensor, bias: Tensor, eps: float, window: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    from sspsam.models import norm_kernels

    return norm_kernels.add_and_normalize(_Norm(weight, bias, eps), x, update, dtype, window)


@_add_and_normalize.register_fake
def _empty_total_and_narrow(
    x: Tensor, update: Tensor, weight: Tensor, bias: Tensor, eps: float, window: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape, dtype=torch.float32), x.new_empty(x.shape, dtype=dtype)
