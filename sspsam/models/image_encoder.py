"""SAM's image encoder: the stock modules, our way through them (section 4).

Attention is where the time and memory go. The stock code adds the relative positions to a matrix of all scores (1 GB in
a global block of ViT-H) and takes the softmax of that; here they are the additive bias of one fused attention.

A CPU goes through a picture in parts, a few rows at a time. What a part needs on its way stays in the cache, and is so
small that the allocator hands out the same memory again; anything of 32 MB or more it takes anew from the system, which
clears it page by page, and that takes as long as the product that is then written there.
"""

from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sspsam._stock import ImageEncoderViT
from sspsam.models.layers import Activation, linear

_ROWS: Final = 14  # of the grid that a CPU takes at a time where windows do not say it


def encode_image(encoder: ImageEncoderViT, pixels: Tensor) -> Tensor:
    """(B, 3, image size, image size) normalised pictures -> (B, D, g, g) embeddings."""
    x = encoder.patch_embed(pixels) + encoder.pos_embed  # (B, g, g, width)
    for block in encoder.blocks:
        x = _through(block, x)
    reduction, first_norm, convolution, last_norm = encoder.neck
    # a 1 x 1 convolution is a product, which unlike that gives the same bits for any number of threads
    x = linear(x, cast(Tensor, reduction.weight).flatten(1)).permute(0, 3, 1, 2)  # (B, D, g, g)
    return _normalized(last_norm, convolution(_normalized(first_norm, x))).contiguous()


def _normalized(norm: nn.Module, x: Tensor) -> Tensor:
    """The stock norm over channels squares by hand, which in float16 overflows and is wrong with finite numbers."""
    with torch.autocast(x.device.type, enabled=False):
        return cast(Tensor, norm(x.float()))


def _through(block: nn.Module, x: Tensor) -> Tensor:
    """One block, (B, g, g, width) -> the same."""
    attention, mlp, window = cast(nn.Module, block.attn), cast(nn.Module, block.mlp), cast(int, block.window_size)
    first_norm, second_norm = cast(nn.Module, block.norm1), cast(nn.Module, block.norm2)
    qkv, projection, lin1, lin2 = (
        _Product(cast(nn.Linear, layer)) for layer in (attention.qkv, attention.proj, mlp.lin1, mlp.lin2)
    )
    step = (window or _ROWS) if x.device.type == "cpu" else x.shape[1]
    parts = torch.split(x, step, dim=1)  # (B, rows, g, width)
    packed = (qkv(first_norm(part)) for part in parts)  # (B, rows, g, 3*width)
    if window == 0:
        square = torch.cat(list(packed), dim=1)
        attended = (_attend(attention, square, slice(start, start + step)) for start in range(0, x.shape[1], step))
    else:
        attended = (_attend_in_windows(attention, each, window) for each in packed)
    through = []
    for part, seen in zip(parts, attended, strict=True):
        between = part + projection(seen)
        through.append(between + lin2(lin1(second_norm(between), "gelu")))
    return torch.cat(through, dim=1)


class _Product:
    """A linear layer's product with parts of a picture; in mixed precision its weights are narrowed once for all."""

    def __init__(self, layer: nn.Linear) -> None:
        device = layer.weight.device.type
        narrow = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else layer.weight.dtype
        self._weight, self._bias = layer.weight.to(narrow), layer.bias.to(narrow)

    def __call__(self, x: Tensor, activation: Activation = "none") -> Tensor:
        return linear(x, self._weight, self._bias, activation)


def _attend_in_windows(attention: nn.Module, packed: Tensor, window: int) -> Tensor:
    """(B, rows, g, 3*width) -> (B, rows, g, width), inside windows of `window` x `window` tokens from the first row."""
    rows, grid = packed.shape[1:3]
    down, across = -(-rows // window), -(-grid // window)
    packed = _padded(packed, cast(nn.Linear, attention.qkv).bias, (down * window, across * window))
    # (B, down, window, across, window, 3*width) -> (B*down*across, window, window, 3*width)
    windows = packed.view(-1, down, window, across, window, packed.shape[-1]).transpose(2, 3).flatten(0, 2)
    asking = slice(0, min(rows, window))  # in a part that is one row of windows nobody needs the padding below
    attended = _attend(attention, windows, asking)  # (B*down*across, window, window, width)
    attended = attended.view(-1, down, across, *attended.shape[1:]).transpose(2, 3)
    # what the padding attended to is dropped before the projection, not after it
    return attended.flatten(3, 4).flatten(1, 2)[:, :rows, :grid]


def _padded(packed: Tensor, bias: Tensor, size: tuple[int, int]) -> Tensor:
    """Pad (B, h, w, 3*width) on the right and below: the stock code pads with zeros, whose qkv is the bias."""
    height, width = packed.shape[1:3]
    if size == (height, width):
        return packed
    padded = bias.to(packed.dtype).expand(len(packed), *size, -1).clone()
    padded[:, :height, :width] = packed
    return padded


def _attend(attention: nn.Module, packed: Tensor, rows: slice) -> Tensor:
    """From some rows of a square of tokens to all of it.

    Args:
        attention: stock.
        packed: (N, s, s, 3*width) queries, keys and values.
        rows: which of the s ask.

    Returns:
        (N, rows, s, width).
    """
    count, side = packed.shape[:2]
    heads = cast(int, attention.num_heads)
    q, k, v = packed.view(count, side, side, 3, heads, -1).permute(3, 4, 0, 1, 2, 5)  # (heads, N, s, s, d)
    q, k, v = q[:, :, rows], k.flatten(2, 3), v.flatten(2, 3)
    vertical = _relative(cast(Tensor, attention.rel_pos_h), side)[rows]  # (rows, s, d)
    horizontal = _relative(cast(Tensor, attention.rel_pos_w), side)  # (s, s, d)
    down = torch.einsum("...ijd,ikd->...ijk", q, vertical).unsqueeze(-1)  # (heads, N, rows, s, s, 1)
    across = torch.einsum("...ijd,jkd->...ijk", q, horizontal).unsqueeze(-2)  # (heads, N, rows, s, 1, s)
    q = q.flatten(2, 3)  # (heads, N, rows*s, d)
    attended = []
    step = _heads_at_once(q)
    for first in range(0, heads, step):
        few = slice(first, first + step)
        bias = (down[few] + across[few]).flatten(4).flatten(2, 3)  # (few, N, rows*s, s*s)
        attended.append(F.scaled_dot_product_attention(q[few], k[few], v[few], attn_mask=bias))
    joined = torch.cat(attended)  # (heads, N, rows*s, d)
    return joined.permute(1, 2, 0, 3).reshape(count, -1, side, heads * joined.shape[-1])


def _heads_at_once(q: Tensor) -> int:
    """How many of the heads of (heads, N, queries, d) a device attends with at once.

    On the CPU as few as give every thread 256 queries, as many as PyTorch gives one at a time: their bias stays in the
    cache, that of all heads would be gigabytes.
    """
    heads, count, queries, _ = q.shape
    return min(heads, -(-torch.get_num_threads() * 256 // (count * queries))) if q.device.type == "cpu" else heads


def _relative(table: Tensor, side: int) -> Tensor:
    """(2s-1, d) embeddings of relative positions -> (s, s, d): of each key as seen from each query, along one axis."""
    place = torch.arange(side, device=table.device)
    return table[place.unsqueeze(1) - place + side - 1]
