"""SAM's image encoder: the stock modules, our way through them (section 4).

Attention is where the time and memory go. The stock code adds the relative positions to a matrix of all scores (1 GB in
a global block of ViT-H) and takes the softmax of that; here they are the additive bias of one fused attention.

A CPU goes through a picture in parts, a few rows at a time. What a part needs on its way mostly stays in the cache, and
is so small that the allocator hands out the same memory again; anything of 32 MB or more it takes anew from the system,
which clears it page by page, and that takes as long as the product that is then written there.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sspsam.models.layers import linear
from sspsam.models.stock import ImageEncoderViT

_ROWS: Final = 7  # of the grid that a CPU takes at a time in a block without windows
_BIAS_BYTES: Final = 30_000_000  # of the heads that a CPU attends with at once; see above


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
        _product(cast(nn.Linear, layer)) for layer in (attention.qkv, attention.proj, mlp.lin1, mlp.lin2)
    )
    parts = torch.split(x, _rows_at_once(x, window), dim=1)  # each (B, rows, g, width)
    packed = (qkv(first_norm(part)) for part in parts)  # each (B, rows, g, 3*width)
    if window == 0:
        attended = _attend_globally(attention, list(packed))
    else:
        attended = (_attend_in_windows(attention, each, window) for each in packed)
    done = []
    for part, each in zip(parts, attended, strict=True):
        residual = part + projection(each)
        done.append(residual + lin2(lin1(second_norm(residual), activation="gelu")))
    return _joined(done)


def _rows_at_once(x: Tensor, window: int) -> int:
    """How many rows of (B, g, g, width) go through a block together: on a CPU one row of windows or a few, else all."""
    return (window or _ROWS) if x.device.type == "cpu" else x.shape[1]


def _product(layer: nn.Linear) -> Callable[..., Tensor]:
    """The layer as a function of a part of a picture.

    In mixed precision its weights are narrowed once for all parts of a block. PyTorch would do so for each part: it
    remembers narrow weights only where gradients are wanted.
    """
    device = layer.weight.device.type
    narrow = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else layer.weight.dtype
    return partial(linear, weight=layer.weight.to(narrow), bias=layer.bias.to(narrow))


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Rows of a picture, (B, rows, g, ...) each, as one tensor."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)


def _attend_globally(attention: nn.Module, packed: Sequence[Tensor]) -> Iterator[Tensor]:
    """From each part, (B, rows, g, 3*width), to all of the picture; (B, rows, g, width)."""
    queries, keys, values = zip(*(part.chunk(3, dim=-1) for part in packed), strict=True)
    k, v = _joined(keys), _joined(values)  # (B, g, g, width)
    first = 0
    for q in queries:
        yield _attend(attention, q, k, v, first)
        first += q.shape[1]


def _attend_in_windows(attention: nn.Module, packed: Tensor, window: int) -> Tensor:
    """(B, rows, g, 3*width) -> (B, rows, g, width), inside windows of `window` x `window` tokens from the first row."""
    rows, grid = packed.shape[1:3]
    down, across = -(-rows // window), -(-grid // window)
    packed = _padded(packed, cast(nn.Linear, attention.qkv).bias, (down * window, across * window))
    # (B, down, window, across, window, 3*width) -> (B*down*across, window, window, 3*width)
    windows = packed.view(-1, down, window, across, window, packed.shape[-1]).transpose(2, 3).flatten(0, 2)
    q, k, v = windows.chunk(3, dim=-1)
    # in a part that is one row of windows nobody reads what the padding below would attend to
    attended = _attend(attention, q[:, : min(rows, window)], k, v)  # (B*down*across, rows or window, window, width)
    attended = attended.view(-1, down, across, *attended.shape[1:]).transpose(2, 3)
    # what other padding attended to is dropped before the projection, not after it
    return attended.flatten(3, 4).flatten(1, 2)[:, :rows, :grid]


def _padded(packed: Tensor, bias: Tensor, size: tuple[int, int]) -> Tensor:
    """Pad (B, h, w, 3*width) on the right and below: the stock code pads with zeros, whose qkv is the bias."""
    height, width = packed.shape[1:3]
    if size == (height, width):
        return packed
    padded = bias.to(packed.dtype).expand(len(packed), *size, -1).clone()
    padded[:, :height, :width] = packed
    return padded


def _attend(attention: nn.Module, queries: Tensor, keys: Tensor, values: Tensor, first: int = 0) -> Tensor:
    """From some rows of a square of tokens to all of it.

    Args:
        attention: stock.
        queries: (N, rows, s, width).
        keys: (N, s, s, width).
        values: (N, s, s, width).
        first: which row of the square is the first of the queries.

    Returns:
        (N, rows, s, width).
    """
    count, rows, side, width = queries.shape
    heads = cast(int, attention.num_heads)
    # (heads, N, rows, s, d)
    q, k, v = (x.view(*x.shape[:3], heads, -1).permute(3, 0, 1, 2, 4) for x in (queries, keys, values))
    vertical = _relative(cast(Tensor, attention.rel_pos_h), side)[first : first + rows]  # (rows, s, d)
    horizontal = _relative(cast(Tensor, attention.rel_pos_w), side)  # (s, s, d)
    down = torch.einsum("...ijd,ikd->...ijk", q, vertical).unsqueeze(-1)  # (heads, N, rows, s, s, 1)
    across = torch.einsum("...ijd,jkd->...ijk", q, horizontal).unsqueeze(-2)  # (heads, N, rows, s, 1, s)
    q, k, v = (x.flatten(2, 3) for x in (q, k, v))  # (heads, N, rows*s or s*s, d)
    attended = []
    step = _heads_at_once(q, k)
    for start in range(0, heads, step):
        some = slice(start, start + step)
        bias = (down[some] + across[some]).flatten(4).flatten(2, 3)  # (some, N, rows*s, s*s)
        attended.append(F.scaled_dot_product_attention(q[some], k[some], v[some], attn_mask=bias))
    joined = torch.cat(attended)  # (heads, N, rows*s, d)
    return joined.permute(1, 2, 0, 3).reshape(count, rows, side, width)


def _heads_at_once(q: Tensor, k: Tensor) -> int:
    """How many heads a device attends with at once, of (heads, N, queries, d) and (heads, N, keys, d).

    A GPU with all. A CPU, where the bias of all would be gigabytes, with as few as give every thread 64 queries, which
    is how many PyTorch gives a thread at a time.
    """
    heads, count, queries, _ = q.shape
    if q.device.type != "cpu":
        return heads
    busy = -(-torch.get_num_threads() * 64 // (count * queries))
    small = _BIAS_BYTES // (count * queries * k.shape[2] * q.element_size())
    return max(1, min(heads, busy, small))


def _relative(table: Tensor, side: int) -> Tensor:
    """(2s-1, d) embeddings of relative positions -> (s, s, d): of each key as seen from each query, along one axis."""
    place = torch.arange(side, device=table.device)
    return table[place.unsqueeze(1) - place + side - 1]
