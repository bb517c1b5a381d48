"""SAM's image encoder (docs/method.md, section 4).

The modules are subclasses of segment_anything's, with the same parameter names. Their attention differs: the stock
attention adds the relative positions to a matrix of all scores (1 GB in a global block of ViT-H) and computes the
softmax of that matrix. Here one fused attention does all of it, in one of two ways with the same result. On a GPU
whose fused kernels take the wider heads, the relative positions are further columns of queries and keys
(`column_attention.py`). Elsewhere they are the additive bias of the attention. A CPU is faster so: it computes the bias
in its cache (`benchmarks/relative_positions.py` compares the two).

On a CPU a block computes a few rows of the grid at a time, a band. The tensors of a band mostly stay in the cache, and
they are so small that the allocator reuses their memory. The allocator gets every tensor of 32 MB or more from the
operating system, which clears its memory page by page; that takes as long as the product that is then written there.
"""

import types
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sspsam.config import SAMConfig
from sspsam.models import norms, stock
from sspsam.models.column_attention import (
    attend_with_columns,
    column_buffer,
    table_of_distances,
    width_with_columns,
)
from sspsam.models.kernels import fused_attention_accepts, linear
from sspsam.models.layers import FoldingModule, Linear, MLPBlock

_BAND_ROWS: Final = 7  # rows of the grid in a band, in a block without windows, on a CPU
_MAX_BIAS_BYTES: Final = 30_000_000  # of the heads that a CPU computes together; below the 32 MB of the allocator


class Attention(FoldingModule, stock.ImageAttention):
    """Attention with relative positions, to a whole grid or inside windows.

    Args:
        width: width of the tokens.
        heads: number of heads.
        side: s, the side of the square of tokens to attend to.
    """

    num_heads: int
    rel_pos_h: nn.Parameter  # (2s-1, d) with d = width/heads
    rel_pos_w: nn.Parameter  # (2s-1, d)
    _table: Tensor | None = None

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__(width, heads, use_rel_pos=True, input_size=(side, side))
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)

    def fold(self) -> None:
        """Compute the table of `column_attention`; see `FoldingModule`."""
        self._table = table_of_distances(self.rel_pos_h, self.rel_pos_w)

    def column_buffer(self, count: int, device: torch.device) -> Tensor | None:
        """Return the buffer of `column_attention` for `count` squares; None where relative positions are a bias.

        They are a bias where no fused kernel takes the wider heads, and in training: the buffer is overwritten.
        """
        side, (_, head_width) = (len(self.rel_pos_h) + 1) // 2, self.rel_pos_h.shape
        dtype = self.qkv.weight.dtype
        if torch.is_grad_enabled() or not fused_attention_accepts(width_with_columns(side, head_width), dtype, device):
            return None
        return column_buffer(count, self.num_heads, side, head_width, dtype, device)

    def attend_with_columns(self, x: Tensor, buffer: Tensor) -> Tensor:
        """Attend inside X squares; (X, s*s, width) -> (X, s*s, width), with both projections."""
        attended = attend_with_columns(buffer, self.qkv(x), self.rel_pos_h, self.rel_pos_w, self._table)
        return self.proj(attended)

    def attend_globally(self, qkv_bands: Sequence[Tensor]) -> Iterator[Tensor]:
        """Attend from each band to the whole grid; (B, rows, g, 3*width) -> (B, rows, g, width), band by band."""
        queries, keys, values = zip(*(qkv.chunk(3, dim=-1) for qkv in qkv_bands), strict=True)
        k, v = _concatenate(keys), _concatenate(values)  # (B, g, g, width)
        first_row = 0
        for q in queries:
            yield self.attend(q, k, v, first_row)
            first_row += q.shape[1]

    def attend_in_windows(self, qkv: Tensor, window: int) -> Tensor:
        """Attend inside windows of `window` x `window` tokens, from the first row of a band on.

        Args:
            qkv: (B, rows, g, 3*width).
            window: side of a window, tokens.

        Returns:
            (B, rows, g, width).
        """
        rows, grid = qkv.shape[1:3]
        down, across = -(-rows // window), -(-grid // window)  # windows, rounded up
        qkv = _pad(qkv, self.qkv.bias, (down * window, across * window))
        qkv = qkv.view(-1, down, window, across, window, qkv.shape[-1])  # (B, down, window, across, window, 3*width)
        windows = qkv.transpose(2, 3).flatten(0, 2)  # (B*down*across, window, window, 3*width)
        q, k, v = windows.chunk(3, dim=-1)
        # a band of one row of windows needs no output for the padding below it
        attended = self.attend(q[:, : min(rows, window)], k, v)  # (B*down*across, rows or window, window, width)
        attended = attended.view(-1, down, across, *attended.shape[1:]).transpose(2, 3)
        attended = attended.flatten(3, 4).flatten(1, 2)  # (B, rows or down*window, across*window, width)
        # the rest of the padding is cut off here, so that the projection does not multiply it
        return attended[:, :rows, :grid]

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, first_row: int = 0) -> Tensor:
        """Attend from some rows of a square of tokens to all of its tokens.

        Args:
            queries: (X, rows, s, width), X images or windows.
            keys: (X, s, s, width).
            values: (X, s, s, width).
            first_row: the row of the square in which the queries begin.

        Returns:
            (X, rows, s, width).
        """
        count, rows, side, width = queries.shape
        # (heads, X, rows or s, s, d)
        q, k, v = (x.view(*x.shape[:3], self.num_heads, -1).permute(3, 0, 1, 2, 4) for x in (queries, keys, values))
        vertical = _relative_positions(self.rel_pos_h, side)[first_row : first_row + rows]  # (rows, s, d)
        horizontal = _relative_positions(self.rel_pos_w, side)  # (s, s, d)
        vertical_bias = torch.einsum("...ijd,ikd->...ijk", q, vertical).unsqueeze(-1)  # (heads, X, rows, s, s, 1)
        horizontal_bias = torch.einsum("...ijd,jkd->...ijk", q, horizontal).unsqueeze(-2)  # (heads, X, rows, s, 1, s)
        q, k, v = (x.flatten(2, 3) for x in (q, k, v))  # (heads, X, rows*s or s*s, d)
        attended = []
        group_size = _heads_at_once(q, k)
        for start in range(0, self.num_heads, group_size):
            group = slice(start, start + group_size)
            bias = vertical_bias[group] + horizontal_bias[group]  # (group, X, rows, s, s, s)
            bias = bias.flatten(4).flatten(2, 3)  # (group, X, rows*s, s*s)
            attended.append(F.scaled_dot_product_attention(q[group], k[group], v[group], attn_mask=bias))
        context = torch.cat(attended)  # (heads, X, rows*s, d)
        return context.permute(1, 2, 0, 3).reshape(count, rows, side, width)


class Block(stock.ImageBlock):
    """One pre-norm block, with attention to the whole grid or inside windows.

    Args:
        config: dimensions.
        window: side of a window, tokens; 0: attention to the whole grid.
    """

    norm1: nn.LayerNorm
    attn: Attention
    norm2: nn.LayerNorm
    mlp: MLPBlock
    window_size: int

    def __init__(self, config: SAMConfig, window: int) -> None:
        super().__init__(
            config.width,
            config.heads,
            mlp_ratio=1.0,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            window_size=window,
        )
        self.attn = Attention(config.width, config.heads, window or config.grid)
        self.mlp = MLPBlock(config.width, config.mlp_width, "gelu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, g, g, width) -> (B, g, g, width)."""
        bands = torch.split(x, _rows_at_once(x, self.window_size), dim=1)  # (B, rows, g, width) each
        qkv_bands = (self.attn.qkv(self.norm1(band)) for band in bands)
        outputs = []
        for band, context in zip(bands, self._attend(qkv_bands), strict=True):
            residual = band + self.attn.proj(context)
            outputs.append(residual + self.mlp(self.norm2(residual)))
        return _concatenate(outputs)

    def forward_with_columns(
        self, x: Tensor, update: Tensor | None, buffer: Tensor, operators: types.ModuleType = norms
    ) -> tuple[Tensor, Tensor]:
        """Compute the whole grid at once, with relative positions as columns; the last sum is left to the next block.

        Args:
            x: (B, g, g, width).
            update: of the same shape, from the block before; None: none.
            buffer: from `Attention.column_buffer`.
            operators: module with the sums and norms: `norms`, or for PyTorch's compiler `norm_operators`.

        Returns:
            The next tokens as two terms of a sum.
        """
        window, (_, grid, _, width) = self.window_size, x.shape
        dtype = self.attn.qkv.weight.dtype
        if window:
            # unlike in bands, the padding is multiplied too: padding the product would move three times the bytes
            x, squares = operators.normalize_into_windows(self.norm1, x, update, window, dtype)
        else:
            x, normalized = operators.add_and_normalize(self.norm1, x, update, dtype)
            squares = normalized.view(-1, grid * grid, width)
        attended = self.attn.attend_with_columns(squares, buffer)
        x, normalized = operators.add_and_normalize(self.norm2, x, attended, dtype, window)
        return x, self.mlp(normalized)

    def _attend(self, qkv_bands: Iterator[Tensor]) -> Iterator[Tensor]:
        """(B, rows, g, 3*width) -> (B, rows, g, width), band by band."""
        if self.window_size == 0:
            return self.attn.attend_globally(list(qkv_bands))
        return (self.attn.attend_in_windows(qkv, self.window_size) for qkv in qkv_bands)


class ImageEncoderViT(stock.ImageEncoderViT):
    """SAM's image encoder: a vision transformer and two convolutions.

    Args:
        config: dimensions.
    """

    pos_embed: nn.Parameter  # (1, g, g, width)
    blocks: nn.ModuleList

    def __init__(self, config: SAMConfig) -> None:
        super().__init__(
            img_size=config.image_size,
            patch_size=config.patch_size,
            embed_dim=config.width,
            depth=0,
            out_chans=config.prompt_width,
        )
        windows = [0 if index in config.global_blocks else config.window_size for index in range(config.layers)]
        self.blocks.extend(Block(config, window) for window in windows)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, R, R) normalised and padded images -> (B, D, g, g) embeddings."""
        x = self.patch_embed(pixels.to(self.patch_embed.proj.weight.dtype)) + self.pos_embed  # (B, g, g, width)
        # a convolution's output is laid out by channels; every norm would copy it, and every sum would be strided
        x = x.contiguous()
        buffers = self._column_buffers(x)
        update = None
        for block in cast(Sequence[Block], self.blocks):
            buffer = buffers[block.window_size]
            if buffer is None:
                x, update = block(x if update is None else x + update), None
            else:
                x, update = block.forward_with_columns(x, update, buffer)
        x = x if update is None else x + update
        reduction, first_norm, convolution, last_norm = self.neck
        # a 1 x 1 convolution is a product; unlike the convolution it gives the same bits for any number of threads
        x = linear(x, reduction.weight.flatten(1)).permute(0, 3, 1, 2)  # (B, D, g, g)
        x = convolution(_normalize(first_norm, x).to(convolution.weight.dtype))
        return _normalize(last_norm, x).contiguous()

    def _column_buffers(self, x: Tensor) -> Mapping[int, Tensor | None]:
        """Return the buffer of `Attention.column_buffer` for each size of window and (B, g, g, width) tokens."""
        count, grid, _, _ = x.shape
        attentions = {block.window_size: block.attn for block in cast(Sequence[Block], self.blocks)}
        return {
            window: attention.column_buffer(count * ((-(-grid // window)) ** 2 if window else 1), x.device)
            for window, attention in attentions.items()
        }


def _normalize(norm: nn.Module, x: Tensor) -> Tensor:
    """Normalise over channels in float32: the stock norm squares its input, which in float16 overflows unnoticed."""
    with torch.autocast(x.device.type, enabled=False):
        normalized: Tensor = norm(x.float())
    return normalized


def _rows_at_once(x: Tensor, window: int) -> int:
    """Return the rows of a band of (B, g, g, width): on a CPU one row of windows or a few rows of tokens, else all."""
    return (window or _BAND_ROWS) if x.device.type == "cpu" else x.shape[1]


def _concatenate(bands: Sequence[Tensor]) -> Tensor:
    """Join bands, (B, rows, g, ...) each, along their rows."""
    return bands[0] if len(bands) == 1 else torch.cat(list(bands), dim=1)


def _pad(qkv: Tensor, bias: Tensor, size: tuple[int, int]) -> Tensor:
    """Pad (B, rows, g, 3*width) below and on the right to `size` with the bias, the qkv layer's output for zeros."""
    rows, columns = qkv.shape[1:3]
    if size == (rows, columns):
        return qkv
    padded = bias.to(qkv.dtype).expand(len(qkv), *size, -1).clone()
    padded[:, :rows, :columns] = qkv
    return padded


def _heads_at_once(q: Tensor, k: Tensor) -> int:
    """Return the number of heads that a device computes together.

    A GPU computes all. On a CPU the bias of all heads would take gigabytes, so the number of heads is just large enough
    for 64 queries per thread, the chunk size of PyTorch.

    Args:
        q: (heads, X, queries, d).
        k: (heads, X, keys, d).
    """
    heads, count, queries, _ = q.shape
    if q.device.type != "cpu":
        return heads
    most_in_memory = _MAX_BIAS_BYTES // (count * queries * k.shape[2] * q.element_size())
    if torch.compiler.is_compiling():  # the compiler cannot trace a question for the number of threads
        return max(1, min(heads, most_in_memory))
    enough_for_all_threads = -(-torch.get_num_threads() * 64 // (count * queries))
    return max(1, min(heads, enough_for_all_threads, most_in_memory))


def _relative_positions(table: Tensor, side: int) -> Tensor:
    """(2s-1, d) embeddings of distances -> (s, s, d) embeddings for each query and key along one axis."""
    index = torch.arange(side, device=table.device)
    return table[index.unsqueeze(1) - index + side - 1]
