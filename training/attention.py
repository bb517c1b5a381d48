"""Attention as plain products, for training on the CPU.

PyTorch's fused attention saves memory that these small networks do not need, and pays for it: in bfloat16 its backward
pass is several times slower here, and its unfused one looks for rows in which everything is masked, which none is.
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
    """While it is entered, `F.scaled_dot_product_attention` is computed by `attend`."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Whatever else is called stays what it is."""
        compute = attend if func is F.scaled_dot_product_attention else func
        return compute(*args, **(kwargs or {}))


def plain_attention(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """`PlainAttention` where it is faster: on the CPU."""
    return PlainAttention() if device.type == "cpu" else contextlib.nullcontext()


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """`torch.nn.functional.scaled_dot_product_attention`, as far as the networks use it, in autocast's precision.

    Args:
        queries: (..., Q, d).
        keys: (..., K, d).
        values: (..., K, d).
        attn_mask: (..., Q, K), or of a shape that broadcasts to it: bool, False where nobody may attend to, and true
            somewhere in every row; or what is added to the scores.
        is_causal: attend to nothing that comes later.

    Returns:
        (..., Q, d).
    """
    if torch.is_autocast_enabled(queries.device.type):
        lower = torch.get_autocast_dtype(queries.device.type)
        queries, keys, values = queries.to(lower), keys.to(lower), values.to(lower)
    if is_causal:
        attn_mask = torch.ones(queries.shape[-2], keys.shape[-2], dtype=torch.bool, device=queries.device).tril()
    elif attn_mask is not None and attn_mask.is_floating_point():
        attn_mask = attn_mask.to(queries.dtype)
    with torch.autocast(queries.device.type, enabled=False):
        attended: Tensor = _Attention.apply(queries, keys, values, attn_mask)
    return attended


class _Attention(torch.autograd.Function):
    """Keeps the shares alone, in the precision of the products."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """(..., Q, d), (..., K, d), (..., K, d), (..., Q, K) or None -> (..., Q, d)."""
        scale = 1 / math.sqrt(queries.shape[-1])
        scores = (scale * queries) @ keys.mT  # (..., Q, K)
        if mask is not None:
            scores = scores.masked_fill_(~mask, -math.inf) if mask.dtype == torch.bool else scores.add_(mask)
        shares = scores.softmax(dim=-1)
        ctx.save_for_backward(queries, keys, values, shares)
        ctx.scale, ctx.mask_shape = scale, None if mask is None else mask.shape
        return shares @ values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Of what `forward` was given."""
        queries, keys, values, shares = ctx.saved_tensors
        (gradient,) = gradients
        of_scores = torch._softmax_backward_data(gradient @ values.mT, shares, -1, shares.dtype)
        return (
            ctx.scale * (of_scores @ keys),
            ctx.scale * (of_scores.mT @ queries),
            shares.mT @ gradient,
            of_scores.sum_to_size(ctx.mask_shape) if ctx.needs_input_grad[3] else None,
        )
