"""Attention with relative positions as columns of queries and keys, for the fused kernels of a GPU.

SAM adds to the score of a query and a key one term for the distance of their rows and one for that of their columns.
Either term is a product of the query with an embedding of the distance. So each query gets, as further columns, its
terms for all s rows and all s columns of the square; each key gets the one-hot vectors of its row and its column. The
product of the two then holds the score and both terms, and no matrix of all scores is ever written.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def width_with_columns(side: int, head_width: int) -> int:
    """Return the width of a head with its columns, rounded up to the multiple of 8 that fused kernels want."""
    return -(-(head_width + 2 * side) // 8) * 8


def column_buffer(
    count: int, heads: int, side: int, head_width: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return memory for queries, keys and values of X squares; blocks of the same shape use it one after the other.

    Args:
        count: X, images or windows.
        heads: number of heads.
        side: s, tokens on a side of each square.
        head_width: d, width of a head.
        dtype: of the queries, keys and values.
        device: of the memory.

    Returns:
        (3, X, heads, s*s, width with columns), zeros but for the columns of the keys: one-hot vectors times sqrt(d),
        since the attention divides all scores by it.
    """
    width = width_with_columns(side, head_width)
    buffer = torch.zeros(3, count, heads, side * side, width, dtype=dtype, device=device)
    one_hot = torch.eye(side, dtype=dtype, device=device) * math.sqrt(head_width)  # (s, s)
    keys = buffer[1].view(count, heads, side, side, width)
    keys[..., head_width : head_width + side] = one_hot.unsqueeze(1)
    keys[..., head_width + side : head_width + 2 * side] = one_hot
    return buffer


def table_of_distances(rel_pos_h: Tensor, rel_pos_w: Tensor) -> Tensor:
    """Lay both tables of relative positions together for one product with the queries.

    Args:
        rel_pos_h, rel_pos_w: (2s-1, d), see `attend_with_columns`.

    Returns:
        (2*(2s-1 + spare), d): rows, then columns, each from the first distance on and padded with zeros.
    """
    spare = -len(rel_pos_h) % 4  # a GPU multiplies fast where the width of the product is a multiple of 8
    return F.pad(torch.stack((rel_pos_h, rel_pos_w)).flip(1), (0, 0, 0, spare)).flatten(0, 1)


def attend_with_columns(
    buffer: Tensor, qkv: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor, table: Tensor | None = None
) -> Tensor:
    """Attend inside X squares of s x s tokens.

    Args:
        buffer: from `column_buffer`; overwritten.
        qkv: (X, s*s, 3*heads*d).
        rel_pos_h: (2s-1, d), embeddings of the distances s-1 ... -(s-1) between rows, query minus key, from the last.
        rel_pos_w: (2s-1, d), the same between columns.
        table: from `table_of_distances`; None: it is made here.

    Returns:
        (X, s*s, heads*d).
    """
    if torch.compiler.is_compiling():  # the compiler fuses fresh tensors, and would copy the whole buffer
        return _attend_with_fresh_columns(buffer, qkv, rel_pos_h, rel_pos_w)
    _, count, heads, tokens, width = buffer.shape
    side, head_width = math.isqrt(tokens), rel_pos_h.shape[-1]
    copy_rows(buffer[..., :head_width], qkv.view(count, tokens, 3, heads, head_width).permute(2, 0, 3, 1, 4))
    q, k, v = buffer.unbind()  # (X, heads, s*s, width)
    if table is None:
        table = table_of_distances(rel_pos_h, rel_pos_w)
    products = (q[..., :head_width] @ table.T).contiguous()  # (X, heads, s*s, 2*(2s-1+spare))
    columns = q.view(count, heads, side, side, width)[..., head_width : head_width + 2 * side]
    columns[..., :side] = _terms_of_rows(products, side)
    columns[..., side:] = _terms_of_columns(products, side)
    context = F.scaled_dot_product_attention(q, k, v, scale=1 / math.sqrt(head_width))[..., :head_width]
    joined = torch.empty(count, tokens, heads, head_width, dtype=context.dtype, device=context.device)
    copy_rows(joined, context.transpose(1, 2))
    return joined.flatten(2)


def _attend_with_fresh_columns(buffer: Tensor, qkv: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor) -> Tensor:
    """Do what `attend_with_columns` does without writing to the buffer."""
    _, count, heads, tokens, width = buffer.shape
    side, head_width = math.isqrt(tokens), rel_pos_h.shape[-1]
    q, k, v = qkv.view(count, tokens, 3, heads, head_width).permute(2, 0, 3, 1, 4)  # (X, heads, s*s, d) each
    axis = torch.arange(side, device=qkv.device)
    distances = axis.unsqueeze(1) - axis + side - 1  # (s, s)
    square = q.unflatten(2, (side, side))  # (X, heads, s, s, d)
    rows = torch.einsum("xhijd,ikd->xhijk", square, rel_pos_h[distances]).flatten(2, 3)  # (X, heads, s*s, s)
    columns = torch.einsum("xhijd,jkd->xhijk", square, rel_pos_w[distances]).flatten(2, 3)  # (X, heads, s*s, s)
    q = F.pad(torch.cat([q, rows, columns], dim=-1), (0, width - head_width - 2 * side))
    k = torch.cat([k, buffer[1, ..., head_width:]], dim=-1)
    v = F.pad(v, (0, width - head_width))
    context = F.scaled_dot_product_attention(q, k, v, scale=1 / math.sqrt(head_width))[..., :head_width]
    return context.transpose(1, 2).flatten(2)


def _terms_of_rows(products: Tensor, side: int) -> Tensor:
    """Return a view (X, heads, s, s, s) of contiguous products: for the query in row i, those with all rows k.

    The distance of row k stands at index k - i + s - 1. One row further down, the range begins one index earlier.
    """
    count, heads, tokens, width = products.shape
    strides = (heads * tokens * width, tokens * width, side * width - 1, width, 1)
    return products.as_strided((count, heads, side, side, side), strides, side - 1)


def _terms_of_columns(products: Tensor, side: int) -> Tensor:
    """Return a view (X, heads, s, s, s) of contiguous products: for the query in column j, those with all columns k."""
    count, heads, tokens, width = products.shape
    strides = (heads * tokens * width, tokens * width, side * width, width - 1, 1)
    first = width // 2 + side - 1
    return products.as_strided((count, heads, side, side, side), strides, first)


def to_windows(x: Tensor, window: int) -> Tensor:
    """Split a padded grid into windows: (B, g, g, width) -> (B*down*across, window*window, width)."""
    count, grid = x.shape[:2]
    windows = -(-grid // window)  # along one axis, rounded up
    padding = windows * window - grid
    padded = F.pad(_words(x), (0, 0, 0, padding, 0, padding))
    padded = padded.view(count, windows, window, windows, window, -1)
    return padded.transpose(2, 3).reshape(-1, window * window, padded.shape[-1]).view(x.dtype)


def from_windows(x: Tensor, window: int, grid: int) -> Tensor:
    """Join windows and cut off the padding, the inverse of `to_windows`: -> (B, g, g, width)."""
    windows = -(-grid // window)
    joined = _words(x).view(-1, windows, windows, window, window, _words(x).shape[-1]).transpose(2, 3)
    joined = joined.reshape(-1, windows * window, windows * window, joined.shape[-1])
    return joined[:, :grid, :grid].contiguous().view(x.dtype)


def copy_rows(target: Tensor, source: Tensor) -> None:
    """Copy values whose last axis is contiguous in both tensors."""
    _words(target).copy_(_words(source))


def _words(x: Tensor) -> Tensor:
    """View the last axis as 64-bit integers, if it consists of such: a GPU copies strided values one by one."""
    if torch.compiler.is_compiling() or x.element_size() >= 8:  # the compiler copies well by itself
        return x
    in_bytes = [length * x.element_size() for length in (x.shape[-1], x.storage_offset(), *x.stride()[:-1])]
    return x if any(length % 8 for length in in_bytes) else x.view(torch.int64)
