"""Sums, layer norms and QuickGELU between the products of a network.

On most devices these are PyTorch's operators. In mixed precision on an NVIDIA GPU they are kernels that add, normalise
and narrow at once (`norm_kernels.py`): for a single expression their number matters more than the work in them.
"""

import types
from functools import partial
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sspsam.models.column_attention import from_windows, to_windows
from sspsam.models.kernels import widened
from sspsam.models.trials import Trial, TriedKernels, half_precision_kernels, try_in_half_precision, wave

# widths and sides of the grids on which the kernels are tried: one row in a block of few and of many threads, and
# several rows in a block, with a part of the last block
_TRIED_SIZES: Final = ((48, 4), (1280, 4), (48, 34))
_WINDOW: Final = 3  # side of the windows of these grids


class Tokens(NamedTuple):
    """The same tokens for sums, for products, and with their position encoding."""

    wide: Tensor  # float32
    narrow: Tensor  # in the dtype of the products; or float32, which the products narrow themselves
    positioned: Tensor | None = None  # with the position added, as `narrow`; None: not computed


def normalize(norm: nn.LayerNorm, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Compute `norm(x)` for products in `dtype`, (..., width) -> the same shape; see `Tokens.narrow`."""
    kernels = chosen_kernels(x, dtype)
    result: Tensor = norm(x) if kernels is None else kernels.normalize(norm, x, dtype)
    return result


def normalize_into_windows(
    norm: nn.LayerNorm, x: Tensor, update: Tensor | None, window: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Add an update to the residual stream, normalise the sum in `dtype` and split it into windows.

    Args:
        norm: of the sum.
        x: (B, g, g, width).
        update: of the same shape; None: nothing is added.
        window: side of a window.
        dtype: of the normalised sum.

    Returns:
        The sum, and the windows of the normalised sum; see `column_attention.to_windows`.
    """
    kernels = chosen_kernels(x, dtype)
    if kernels is not None:
        total, windows = kernels.normalize_into_windows(norm, x, update, window, dtype)
        return total, windows
    total = x if update is None else x + update
    return total, to_windows(norm(total).to(dtype), window)


def normalize_with_gelu(norm: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Normalise the last axis in float32 and apply the exact GELU, for products in `dtype`.

    Args:
        norm: with `weight`, `bias` and `eps`; SAM's norm of channels is no `nn.LayerNorm`.
        x: (..., width).
        dtype: of the products.
    """
    kernels = chosen_kernels(x, dtype)
    if kernels is None:
        return F.gelu(F.layer_norm(widened(x), x.shape[-1:], norm.weight, norm.bias, norm.eps))
    result: Tensor = kernels.normalize(norm, x, dtype, gelu=True)
    return result


def add_and_normalize(
    norm: nn.LayerNorm, x: Tensor, update: Tensor | None, dtype: torch.dtype, window: int = 0
) -> tuple[Tensor, Tensor]:
    """Add an update to the residual stream, and normalise the sum for products in `dtype`.

    Args:
        norm: of the sum.
        x: (..., width); with windows (B, g, g, width).
        update: of the same shape; with windows as from `normalize_into_windows`; None: nothing is added.
        dtype: of the products.
        window: side of the windows of `update`; 0: none.

    Returns:
        The sum and the normalised sum, of the shape of `x`.
    """
    if update is None:
        return x, normalize(norm, x, dtype)
    kernels = chosen_kernels(x, dtype)
    if kernels is not None:
        total, narrow = kernels.add_and_normalize(norm, x, update, dtype, window)
        return total, narrow
    total = x + (from_windows(update, window, x.shape[1]) if window else update.view(x.shape))
    return total, norm(total)


def normalize_sum(
    norm: nn.LayerNorm, x: Tensor | None, update: Tensor, dtype: torch.dtype, position: Tensor | None = None
) -> Tokens:
    """Add an update and normalise the sum, which is the next residual stream and the input of products in `dtype`.

    Args:
        norm: of the sum.
        x: (1 or E, tokens, width); None: the update alone is normalised.
        update: (E, tokens, width).
        dtype: of the products.
        position: ([E,] tokens, width), for `Tokens.positioned`; None: it is not added.
    """
    kernels = chosen_kernels(update, dtype)
    if kernels is not None:
        return Tokens(*kernels.normalize_sum(norm, x, update, dtype, position))
    normalized = norm(widened(update) if x is None else x + update)
    return Tokens(normalized, normalized, None if position is None else normalized + position)


def with_position(tokens: Tokens, position: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `tokens.positioned`, or add the position now.

    Args:
        tokens: (1 or E, tokens, width).
        position: ([E,] tokens, width).
        dtype: of the products.
    """
    return add_for_products(tokens.wide, position, dtype) if tokens.positioned is None else tokens.positioned


def add_for_products(x: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
    """Compute `x + y` for products in `dtype`; `y` is broadcast to the shape of `x`. See `Tokens.narrow`."""
    if chosen_kernels(x, dtype) is None:
        return x + y
    result = torch.empty(x.shape, dtype=dtype, device=x.device)
    return torch.add(x, y, out=result)  # narrowed while it is written


def quick_gelu(x: Tensor) -> Tensor:
    """Compute OpenAI's approximation of GELU, `x * sigmoid(1.702 * x)`; any shape."""
    kernels = chosen_kernels(x, x.dtype)
    result: Tensor = x * torch.sigmoid(1.702 * x) if kernels is None else kernels.quick_gelu(x)
    return result


def chosen_kernels(x: Tensor, dtype: torch.dtype) -> types.ModuleType | None:
    """Return `norm_kernels` where its kernels compute these results in `dtype` from `x`; None: PyTorch's operators."""
    return half_precision_kernels(norm_kernels_on, x, dtype)


@TriedKernels
def norm_kernels_on(device: torch.device, dtype: torch.dtype) -> Trial:
    """Try the kernels of `norm_kernels` in a dtype on a device."""
    return try_in_half_precision(_load_kernels, device, dtype, "norms", _pairs, _TRIED_SIZES)


def _load_kernels() -> types.ModuleType:
    from sspsam.models import norm_kernels

    return norm_kernels


def _pairs(
    kernels: types.ModuleType, width: int, side: int, dtype: torch.dtype, device: torch.device
) -> list[tuple[Tensor, Tensor]]:
    """Return the results of each kernel for two grids of `side` x `side` tokens, each with that of PyTorch."""
    example = partial(wave, device=device)
    norm = nn.LayerNorm(width, dtype=torch.float32).requires_grad_(False).to(device)
    norm.weight.copy_(example(width))
    norm.bias.copy_(example(width) / 2)
    windows = -(-side // _WINDOW)
    x, in_windows = example(2, side, side, width), example(2 * windows**2, _WINDOW**2, width).to(dtype)
    total, summed, narrow = x + from_windows(in_windows, _WINDOW, side), norm(x[:1] + x), x.to(dtype)
    alone = norm(narrow.float())
    in_new_windows = x + narrow, to_windows(norm(x + narrow), _WINDOW)
    return [
        (kernels.normalize(norm, x, dtype), norm(x)),
        (kernels.normalize(norm, x, dtype, gelu=True), F.gelu(norm(x))),
        (kernels.normalize_into_windows(norm, x, None, _WINDOW, dtype)[1], to_windows(norm(x), _WINDOW)),
        *zip(kernels.normalize_into_windows(norm, x, narrow, _WINDOW, dtype), in_new_windows, strict=True),
        *zip(kernels.add_and_normalize(norm, x, in_windows, dtype, _WINDOW), (total, norm(total)), strict=True),
        *zip(kernels.normalize_sum(norm, x[:1], x, dtype, x[1]), (summed, summed, summed + x[1]), strict=True),
        *zip(kernels.normalize_sum(norm, None, narrow, dtype, x[1]), (alone, alone, alone + x[1]), strict=True),
        (kernels.quick_gelu(narrow), narrow.float() * torch.sigmoid(1.702 * narrow.float())),
    ]
