"""SAM's image encoder: the stock modules, our way through them (section 4).

Attention is where the time and memory go. The stock code adds the relative positions to a matrix of all scores (1 GB in
a global block of ViT-H) and takes the softmax of that; here they are the additive bias of one fused attention.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sspsam._stock import ImageEncoderViT
from sspsam.models.layers import linear


def encode_image(encoder: ImageEncoderViT, pixels: Tensor) -> Tensor:
    """(B, 3, image size, image size) normalised pictures -> (B, D, g, g) embeddings."""
    x = encoder.patch_embed(pixels) + encoder.pos_embed  # (B, g, g, width)
    for block in encoder.blocks:
        x = x + _attend(block.attn, block.norm1(x), block.window_size)
        hidden = linear(block.norm2(x), block.mlp.lin1.weight, block.mlp.lin1.bias, "gelu")
        x = x + block.mlp.lin2(hidden)
    reduction, first_norm, convolution, last_norm = encoder.neck
    # a 1 x 1 convolution is a product, which unlike that gives the same bits for any number of threads
    x = linear(x, cast(Tensor, reduction.weight).flatten(1)).permute(0, 3, 1, 2)  # (B, D, g, g)
    return _normalized(last_norm, convolution(_normalized(first_norm, x))).contiguous()


def _normalized(norm: nn.Module, x: Tensor) -> Tensor:
    """The stock norm over channels squares by hand, which in float16 overflows and is wrong with finite numbers."""
    with torch.autocast(x.device.type, enabled=False):
        return cast(Tensor, norm(x.float()))


def _attend(attention: nn.Module, x: Tensor, window: int) -> Tensor:
    """Attention inside windows of `window` x `window` tokens, or over the whole grid for 0; (B, g, g, width)."""
    qkv, projection = cast(nn.Linear, attention.qkv), cast(nn.Linear, attention.proj)
    grid = x.shape[1]
    packed = qkv(x)  # (B, g, g, 3*width)
    if window == 0:
        return cast(Tensor, projection(_scaled_dot_product(attention, packed)))
    count = -(-grid // window)
    packed = _padded(packed, qkv.bias, count * window)
    # (B, rows of windows, window, columns of windows, window, 3*width) -> (B*windows, window, window, 3*width)
    windows = packed.view(-1, count, window, count, window, packed.shape[-1]).transpose(2, 3).flatten(0, 2)
    attended = _scaled_dot_product(attention, windows)  # (B*windows, window, window, width)
    attended = attended.view(-1, count, count, window, window, x.shape[-1]).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    # what the padding attended to is dropped before the projection, not after it
    return cast(Tensor, projection(attended[:, :grid, :grid]))


def _padded(packed: Tensor, bias: Tensor | None, side: int) -> Tensor:
    """Pad (B, g, g, 3*width) on the right and below: the stock code pads with zeros, whose qkv is the bias."""
    batch, grid, _, width = packed.shape
    if side == grid:
        return packed
    if bias is None:
        return F.pad(packed, (0, 0, 0, side - grid, 0, side - grid))
    padded = bias.to(packed.dtype).expand(batch, side, side, width).clone()
    padded[:, :grid, :grid] = packed
    return padded


def _scaled_dot_product(attention: nn.Module, packed: Tensor) -> Tensor:
    """(N, s, s, 3*width) queries, keys and values of a square of tokens -> (N, s, s, width)."""
    side, heads = packed.shape[1], cast(int, attention.num_heads)
    # (3, heads, N, s*s, d)
    q, k, v = packed.view(len(packed), side * side, 3, heads, -1).permute(2, 3, 0, 1, 4)
    vertical = _relative(cast(Tensor, attention.rel_pos_h), side)
    horizontal = _relative(cast(Tensor, attention.rel_pos_w), side)
    square = q.reshape(heads, len(packed), side, side, -1)
    down = torch.einsum("...ijd,ikd->...ijk", square, vertical).flatten(2, 3)  # (heads, N, s*s, s)
    across = torch.einsum("...ijd,jkd->...ijk", square, horizontal).flatten(2, 3)
    # one head at a time on the CPU: the bias of one stays in the cache, that of all would be gigabytes
    step = 1 if packed.device.type == "cpu" else heads
    attended = []
    for first in range(0, heads, step):
        some = slice(first, first + step)
        bias = (down[some].unsqueeze(-1) + across[some].unsqueeze(-2)).flatten(-2)  # (step, N, s*s, s*s)
        attended.append(F.scaled_dot_product_attention(q[some], k[some], v[some], attn_mask=bias))
    joined = torch.cat(attended)  # (heads, N, s*s, d)
    return joined.permute(1, 2, 0, 3).reshape(len(packed), side, side, -1)


def _relative(table: Tensor, side: int) -> Tensor:
    """(2s-1, d) embeddings of relative positions -> (s, s, d): of each key as seen from each query, along one axis."""
    place = torch.arange(side, device=table.device)
    return table[place.unsqueeze(1) - place + side - 1]
