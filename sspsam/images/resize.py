"""Pillow's antialiased bilinear resize of uint8 images as integer tensor operations, on any device.

A resize is two passes, one along each axis, and the result of the first pass is rounded to uint8. In a pass, every
output position is the weighted sum of a window of input positions, with weights of 22 fractional bits. All numbers on
the device are integers, so that every device computes the same bits. The order of the passes changes some of them and
depends on the release of Pillow.
"""

import re
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import PIL
import torch
from torch import Tensor

_FRACTION_BITS = 22  # 255 * 2**22 fits int32
_MOST_LOOPED_TAPS = 96  # longer windows, and those of small images, are gathered whole: fewer launches, more memory
_GATHERED_ELEMENTS = 1 << 24  # of a chunk of whole windows; 64 MB as int32
_MOST_CACHED_SIDE = 1 << 16  # the windows of longer sides are computed for each image


def resize_bilinear(pixels: Tensor, height: int, width: int) -> Tensor:
    """Resize an image with the numbers of the installed Pillow's `Image.resize((width, height), BILINEAR)`.

    Args:
        pixels: (h, w, 3) uint8 on any device.
        height, width: of the result, in pixels.

    Returns:
        (height, width, 3) uint8 on the same device.
    """
    in_height, in_width = pixels.shape[:2]
    if _vertical_pass_first(_pillow_release(PIL.__version__), (in_height, in_width), (height, width)):
        return _pass(_pass(pixels, 0, height), 1, width)
    return _pass(_pass(pixels, 1, width), 0, height)


def _pillow_release(version: str) -> tuple[int, int]:
    """Return the first two numbers of a version such as "13.0.0" or "13.1.0.dev0"."""
    major, minor = re.findall(r"\d+", version)[:2]
    return int(major), int(minor)


def _vertical_pass_first(release: tuple[int, int], before: tuple[int, int], after: tuple[int, int]) -> bool:
    """Return True if a release of Pillow resizes vertically first from one (height, width) to another."""
    (in_height, in_width), (height, width) = before, after
    lost_rows, lost_columns = in_height - height, in_width - width
    if release >= (13, 0):
        return lost_rows > 0 and lost_rows > 2 * lost_columns
    if release >= (12, 2):
        return lost_rows > 0 and in_height > 100 * in_width
    return False


class _Windows(NamedTuple):
    """The input positions and integer weights behind each of `size` output positions of an axis.

    Args:
        positions: (taps, size) int32; where a window is shorter than `taps`, any position, with weight zero.
        weights: (taps, size) int32.
    """

    positions: Tensor
    weights: Tensor


def _pass(pixels: Tensor, axis: int, size: int) -> Tensor:
    """Resize (h, w, 3) uint8 along axis 0 or 1; like Pillow, leave an axis alone that has the size already."""
    in_size = pixels.shape[axis]
    if in_size == size:
        return pixels
    windows = _windows(in_size, size, pixels.device)
    taps = len(windows.weights)
    if taps > _MOST_LOOPED_TAPS or taps * size * pixels.numel() // in_size <= _GATHERED_ELEMENTS:
        return _gathered_pass(pixels, axis, windows)
    shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
    total: Tensor | None = None
    for positions, weights in zip(*windows, strict=True):  # (size,) each
        products = pixels.index_select(axis, positions) * weights.view(shape)  # int32
        total = products.add_(_half()) if total is None else total.add_(products)
    assert total is not None  # there is at least one tap
    return _rounded(total)


def _gathered_pass(pixels: Tensor, axis: int, windows: _Windows) -> Tensor:
    """Resize along an axis by gathering the whole windows of as many output positions as memory allows."""
    taps, size = windows.weights.shape
    per_position = taps * pixels.numel() // pixels.shape[axis]
    chunk = max(1, _GATHERED_ELEMENTS // per_position)
    shape = (-1, taps, 1, 1) if axis == 0 else (1, -1, taps, 1)
    parts = []
    for start in range(0, size, chunk):
        positions, weights = (tensor[:, start : start + chunk].T.contiguous() for tensor in windows)  # (chunk, taps)
        gathered = pixels.index_select(axis, positions.flatten())
        windowed = gathered.view(*pixels.shape[:axis], *positions.shape, *pixels.shape[axis + 1 :])
        total = (windowed * weights.view(shape)).sum(axis + 1, dtype=torch.int32)
        parts.append(_rounded(total.add_(_half())))
    return torch.cat(parts, axis)


def _half() -> int:
    return 1 << (_FRACTION_BITS - 1)


def _rounded(total: Tensor) -> Tensor:
    """Drop the fractional bits of sums that contain the half; the weights of a long window may exceed one in total."""
    return (total >> _FRACTION_BITS).clamp_(max=255).to(torch.uint8)


def _windows(in_size: int, size: int, device: torch.device) -> _Windows:
    compute = _cached_windows if in_size <= _MOST_CACHED_SIDE else _computed_windows
    return compute(in_size, size, device)


def _computed_windows(in_size: int, size: int, device: torch.device) -> _Windows:
    positions, weights = _coefficients(in_size, size)
    return _Windows(torch.from_numpy(positions).to(device), torch.from_numpy(weights).to(device))


_cached_windows = lru_cache(maxsize=64)(_computed_windows)


def _coefficients(in_size: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return positions and weights, (taps, size) int32 each; the float64 operations and their order are Pillow's."""
    scale = in_size / size
    support = max(scale, 1.0)  # half the width of the triangular filter
    centres = (np.arange(size) + 0.5) * scale
    first = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centres + support + 0.5).astype(np.int64), in_size)  # exclusive
    positions = first + np.arange((last - first).max())[:, None]  # (taps, size)
    weights = np.maximum(1.0 - np.abs((positions - centres + 0.5) * (1.0 / support)), 0.0)
    weights[positions >= last] = 0.0
    total = np.add.accumulate(weights)[-1]  # one tap after the other: `sum` adds in another order
    weights /= np.where(total == 0.0, 1.0, total)
    fixed = (weights * (1 << _FRACTION_BITS) + 0.5).astype(np.int32)
    taps = max(1, int(np.flatnonzero(fixed.any(axis=1)).max(initial=0)) + 1)
    return np.minimum(positions[:taps], in_size - 1).astype(np.int32), fixed[:taps]
