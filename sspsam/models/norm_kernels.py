"""Layer norms with the sum before them, and QuickGELU, as one kernel each, in Triton; imported where Triton is there.

PyTorch launches a kernel for the sum of a residual, one for its norm and one that narrows the result, and each reads
and writes all tokens. Here one kernel reads both terms once and writes what is needed. It also moves tokens into the
windows of SAM's image encoder, or out of them, on their way.
"""

from typing import Any, Final

import torch
import triton
import triton.language as tl
from torch import Tensor

_NO_WINDOWS: Final = 0
_RESULT_IN_WINDOWS: Final = 1
_UPDATE_IN_WINDOWS: Final = 2
_GELU_BLOCK: Final = 1024
_ELEMENTS: Final = 1024  # of a block, at least, where there are many rows
_MANY_ROWS: Final = 2048


@triton.jit  # type: ignore[untyped-decorator]
def _add_and_normalize(  # type: ignore[no-untyped-def]
    x,  # (x_rows, width) float32; repeated
    update,  # (rows, width), or in windows
    weight,  # (width,)
    bias,  # (width,)
    total,  # (x_rows or rows, width) float32, written: the sum, never in windows
    wide,  # (rows, width) float32, written: the normalised sum
    narrow,  # (rows, width), written: the same; or in windows, with zeros as their padding
    position,  # (position_rows, width) float32; repeated
    positioned,  # (rows, width), written: the normalised sum plus the position
    rows,
    x_rows,
    position_rows,
    epsilon,
    grid,  # side of the grid of tokens
    windows,  # along one axis
    window,  # side of a window
    width: tl.constexpr,
    block: tl.constexpr,
    tile: tl.constexpr,
    layout: tl.constexpr,
    has_update: tl.constexpr,
    writes_total: tl.constexpr,
    writes_wide: tl.constexpr,
    writes_positioned: tl.constexpr,
    gelu: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * tile + tl.arange(0, tile)  # of the result
    columns = tl.arange(0, block)[None, :]
    in_width = columns < width
    is_row = row < rows
    source, update_row, has_source = row, row, is_row
    if layout == 1:  # _RESULT_IN_WINDOWS
        inside, number = row % (window * window), row // (window * window)
        down = (number // windows) % windows * window + inside // window
        across = number % windows * window + inside % window
        source = (number // (windows * windows) * grid + down) * grid + across
        update_row = source
        has_source = is_row & (down < grid) & (across < grid)
    if layout == 2:  # _UPDATE_IN_WINDOWS
        down, across = row // grid % grid, row % grid
        number = (row // (grid * grid) * windows + down // window) * windows + across // window
        update_row = (number * window + down % window) * window + across % window
    mask = has_source[:, None] & in_width
    value = tl.load(x + (source % x_rows)[:, None] * width + columns, mask=mask, other=0.0).to(tl.float32)
    if has_update:
        value += tl.load(update + update_row[:, None] * width + columns, mask=mask, other=0.0).to(tl.float32)
    place = row[:, None] * width + columns
    result_mask = is_row[:, None] & in_width
    if writes_total:
        total_row = source if layout == 1 else row
        tl.store(total + total_row[:, None] * width + columns, value, mask=mask)
    mean = tl.sum(value, axis=1) / width
    centered = tl.where(in_width, value - mean[:, None], 0.0)
    variance = tl.sum(centered * centered, axis=1) / width
    scale = tl.load(weight + columns, mask=in_width, other=0.0).to(tl.float32)
    shift = tl.load(bias + columns, mask=in_width, other=0.0).to(tl.float32)
    normalized = centered * tl.rsqrt(variance + epsilon)[:, None] * scale + shift
    if gelu:
        normalized = 0.5 * normalized * (1 + tl.erf(normalized * 0.7071067811865476))
    normalized = tl.where(has_source[:, None], normalized, 0.0)
    if writes_wide:
        tl.store(wide + place, normalized, mask=result_mask)
    tl.store(narrow + place, normalized.to(narrow.dtype.element_ty), mask=result_mask)
    if writes_positioned:
        added = tl.load(position + (row % position_rows)[:, None] * width + columns, mask=result_mask, other=0.0)
        tl.store(positioned + place, (normalized + added).to(positioned.dtype.element_ty), mask=result_mask)


@triton.jit  # type: ignore[untyped-decorator]
def _quick_gelu(x, result, count, block: tl.constexpr):  # type: ignore[no-untyped-def]
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    mask = place < count
    value = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
    tl.store(result + place, (value * tl.sigmoid(1.702 * value)).to(result.dtype.element_ty), mask=mask)


def normalize(norm: Any, x: Tensor, dtype: torch.dtype, *, gelu: bool = False) -> Tensor:
    """Normalise the last axis in float32.

    Args:
        norm: with `weight`, `bias` and `eps`.
        x: (..., width).
        dtype: of the result.
        gelu: whether to apply the exact GELU to it.

    Returns:
        (..., width).
    """
    narrow = torch.empty(x.shape, dtype=dtype, device=x.device)
    _launch(norm, x, narrow=narrow, gelu=gelu)
    return narrow


def normalize_into_windows(
    norm: Any, x: Tensor, update: Tensor | None, window: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Compute `x + update` in float32 and its norm in `dtype`, in windows whose padding is zeros.

    Args:
        norm: with `weight`, `bias` and `eps`.
        x: (B, g, g, width) float32.
        update: of the same shape; None: the sum is `x`.
        window: side of a window.
        dtype: of the normalised sum.

    Returns:
        The sum, and the normalised sum as (B*windows*windows, window*window, width).
    """
    count, grid, _, width = x.shape
    windows = -(-grid // window)
    narrow = torch.empty(count * windows**2, window**2, width, dtype=dtype, device=x.device)
    total = None if update is None else torch.empty(x.shape, dtype=torch.float32, device=x.device)
    _launch(norm, x, update, total=total, narrow=narrow, layout=_RESULT_IN_WINDOWS, grid=grid, window=window)
    return x if total is None else total, narrow


def add_and_normalize(
    norm: Any, x: Tensor, update: Tensor, dtype: torch.dtype, window: int = 0
) -> tuple[Tensor, Tensor]:
    """Compute `x + update` in float32 and its norm in `dtype`.

    Args:
        norm: with `weight`, `bias` and `eps`.
        x: (..., width) float32; with windows (B, g, g, width).
        update: of the same shape; with windows (B*windows*windows, window*window, width).
        dtype: of the normalised sum.
        window: side of the windows of `update`; 0: it has the layout of `x`.
    """
    total, narrow = (torch.empty(x.shape, dtype=kind, device=x.device) for kind in (torch.float32, dtype))
    layout, grid = (_UPDATE_IN_WINDOWS, x.shape[1]) if window else (_NO_WINDOWS, 1)
    _launch(norm, x, update, total=total, narrow=narrow, layout=layout, grid=grid, window=window)
    return total, narrow


def normalize_sum(
    norm: Any, x: Tensor | None, update: Tensor, dtype: torch.dtype, position: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Compute `norm(x + update)` in float32 and in `dtype`, and with a position added to it.

    Args:
        norm: with `weight`, `bias` and `eps`.
        x: (1 or E, tokens, width) float32; None: nothing is added.
        update: (E, tokens, width).
        dtype: of the second and third result.
        position: ([E,] tokens, width) float32; None: the third result is None.
    """
    wide = torch.empty(update.shape, dtype=torch.float32, device=update.device)
    narrow = torch.empty(update.shape, dtype=dtype, device=update.device)
    positioned = None if position is None else torch.empty_like(narrow)
    terms = (update, None) if x is None else (x, update)
    _launch(norm, *terms, wide=wide, narrow=narrow, position=position, positioned=positioned)
    return wide, narrow, positioned


def quick_gelu(x: Tensor) -> Tensor:
    """Compute `x * sigmoid(1.702 * x)` in float32, rounded to the dtype of `x`; any shape."""
    x = x.contiguous()
    result, count = torch.empty_like(x), x.numel()
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        _quick_gelu[(triton.cdiv(count, _GELU_BLOCK),)](x, result, count, block=_GELU_BLOCK)
    return result


def _launch(
    norm: Any,
    x: Tensor,
    update: Tensor | None = None,
    *,
    total: Tensor | None = None,
    wide: Tensor | None = None,
    narrow: Tensor,
    position: Tensor | None = None,
    positioned: Tensor | None = None,
    layout: int = _NO_WINDOWS,
    grid: int = 1,
    window: int = 0,
    gelu: bool = False,
) -> None:
    """Launch the kernel; without `total`, `wide`, `positioned` or `update` it neither writes nor reads there."""
    x = x.contiguous()
    position = x if position is None else position.contiguous()
    update = None if update is None else update.contiguous()
    width = x.shape[-1]
    rows, block = narrow.numel() // width, triton.next_power_of_2(width)
    tile = max(1, _ELEMENTS // block) if rows >= _MANY_ROWS else 1
    side = max(1, window)
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        _add_and_normalize[(triton.cdiv(rows, tile),)](
            x,
            x if update is None else update,
            norm.weight,
            norm.bias,
            x if total is None else total,
            x if wide is None else wide,
            narrow,
            position,
            narrow if positioned is None else positioned,
            rows,
            x.numel() // width,
            position.numel() // width,
            norm.eps,
            grid,
            -(-grid // side),
            side,
            width=width,
            block=block,
            tile=tile,
            layout=layout,
            has_update=update is not None,
            writes_total=total is not None,
            writes_wide=wide is not None,
            writes_positioned=positioned is not None,
            gelu=gelu,
            num_warps=max(1, min(8, block * tile // 256)),
        )
