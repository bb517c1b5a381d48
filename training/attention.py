"""Attention as plain matrix products, for training on the CPU.

PyTorch's fused attention saves memory that these small networks do not need. In bfloat16 its backward pass is several
times slower on a CPU, and its unfused fallback searches for rows that are masked entirely, which do not occur here.
"""

import contextlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class PlainAttention(TorchFunctionMode):
    """Context manager under which `attend` computes `F.scaled_dot_product_attention`."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace scaled dot product attention; call every other function unchanged."""
        compute = attend if func is F.scaled_dot_product_attention else func
        return compute(*args, **(kwargs or {}))


def plain_attention(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return `PlainAttention` on the CPU, where it is faster, and a null context elsewhere."""
    return PlainAttention() if device.type == "cpu" else contextlib.nullcontext()


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """Scaled dot product attention in the precision of autocast.

    Implements the arguments of `torch.nn.functional.scaled_dot_product_attention` that the networks use.

    Args:
        queries: (..., Q, d).
        keys: (..., K, d).
        values: (..., K, d).
        attn_mask: a tensor that broadcasts to (..., Q, K): bool, True where attention is allowed, with at least one
            True in every row; or floating point, added to the scores.
        is_causal: position i attends to positions 0 to i.

    Returns:
        (..., Q, d).
    """
    if torch.is_autocast_enabled(queries.device.type):
        dtype = torch.get_autocast_dtype(queries.device.type)
        queries, keys, values = queries.to(dtype), keys.to(dtype), values.to(dtype)
    if is_causal:
        attn_mask = torch.ones(queries.shape[-2], keys.shape[-2], dtype=torch.bool, device=queries.device).tril()
    elif attn_mask is not None and attn_mask.is_floating_point():
        attn_mask = attn_mask.to(queries.dtype)
    with torch.autocast(queries.device.type, enabled=False):
        attended: Tensor = _Attention.apply(queries, keys, values, attn_mask)
    return attended


class _Attention(torch.autograd.Function):
    """Saves only the attention weights for the backward pass, in the precision of the products."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """(..., Q, d), (..., K, d), (..., K, d), (..., Q, K) or None -> (..., Q, d)."""
        scale = 1 / math.sqrt(queries.shape[-1])
        scores = (scale * queries) @ keys.mT  # (..., Q, K)
        if mask is not None:
            scores = scores.masked_fill_(~mask, -math.inf) if mask.dtype == torch.bool else scores.add_(mask)
        weights = scores.softmax(dim=-1)  # (..., Q, K)
        ctx.save_for_backward(queries, keys, values, weights)
        ctx.scale, ctx.mask_shape = scale, None if mask is None else mask.shape
        return weights @ values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of queries, keys, values and mask."""
        queries, keys, values, weights = ctx.saved_tensors
        (gradient,) = gradients
        score_gradient = torch._softmax_backward_data(gradient @ values.mT, weights, -1, weights.dtype)  # (..., Q, K)
        return (
            ctx.scale * (score_gradient @ keys),
            ctx.scale * (score_gradient.mT @ queries),
            weights.mT @ gradient,
            score_gradient.sum_to_size(ctx.mask_shape) if ctx.needs_input_grad[3] else None,
        )
