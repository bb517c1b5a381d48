"""Statistics of the answers as two kernels, in Triton; imported where Triton is there.

PyTorch needs more than fifty operators for them, each a kernel that takes longer to launch than to run. Here the blocks
of the first kernel summarise a part of the logits of one expression each, and the second puts the parts together.
"""

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from sspsam.models import Prediction

NUMBERS: Final = 18  # of an expression
_PART: Final = 4096  # logits
_NUMBERS_OF_A_PART: Final = 9


@triton.jit  # type: ignore[untyped-decorator]
def _summarize_parts(  # type: ignore[no-untyped-def]
    logits,  # (E, side * side) float32
    parts,  # (E, number of parts, 9) float32, written
    side,
    part: tl.constexpr,
    numbers: tl.constexpr,
):
    size = side * side
    place = tl.program_id(0) * part + tl.arange(0, part)
    inside = place < size
    row = tl.program_id(1).to(tl.int64)
    value = tl.load(logits + row * size + place, mask=inside, other=0.0)
    foreground = inside & (value >= 0)
    x, y = place % side, place // side
    written = parts + (row * tl.num_programs(0) + tl.program_id(0)) * numbers
    # NaN is not less than infinity either
    tl.store(written, tl.sum(tl.where(tl.abs(value) < float("inf"), 0.0, 1.0), axis=0))
    tl.store(written + 1, tl.sum(tl.where(foreground, 1.0, 0.0), axis=0))
    tl.store(written + 2, tl.max(tl.where(inside, value, float("-inf")), axis=0))
    tl.store(written + 3, tl.sum(value, axis=0))
    tl.store(written + 4, tl.sum(tl.where(foreground, value, 0.0), axis=0))
    tl.store(written + 5, tl.min(tl.where(foreground, x, side), axis=0).to(tl.float32))
    tl.store(written + 6, tl.min(tl.where(foreground, y, side), axis=0).to(tl.float32))
    tl.store(written + 7, tl.max(tl.where(foreground, x + 1, 0), axis=0).to(tl.float32))
    tl.store(written + 8, tl.max(tl.where(foreground, y + 1, 0), axis=0).to(tl.float32))


@triton.jit  # type: ignore[untyped-decorator]
def _summarize(  # type: ignore[no-untyped-def]
    parts,  # (E, part_count, numbers) float32
    iou,  # (E,) float32
    boxes,  # (E, 4) float32
    similarity,  # (E, patch_count) float32
    verification,  # (E, patch_count) float32
    pixels_in_frame,  # (E,) integers
    summary,  # (E, 18) float32, written
    size,  # of the logits of one expression
    part_count,
    patch_count,
    side,
    numbers: tl.constexpr,
    all_parts: tl.constexpr,
    all_patches: tl.constexpr,
    written_numbers: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, all_parts)
    is_part = part < part_count
    read = parts + (row * part_count + part) * numbers
    not_finite = tl.sum(tl.load(read, mask=is_part, other=0.0), axis=0)
    pixels = tl.sum(tl.load(read + 1, mask=is_part, other=0.0), axis=0)
    largest = tl.max(tl.load(read + 2, mask=is_part, other=float("-inf")), axis=0)
    total = tl.sum(tl.load(read + 3, mask=is_part, other=0.0), axis=0)
    inside = tl.sum(tl.load(read + 4, mask=is_part, other=0.0), axis=0)
    x0 = tl.min(tl.load(read + 5, mask=is_part, other=float("inf")), axis=0)
    y0 = tl.min(tl.load(read + 6, mask=is_part, other=float("inf")), axis=0)
    x1 = tl.max(tl.load(read + 7, mask=is_part, other=0.0), axis=0)
    y1 = tl.max(tl.load(read + 8, mask=is_part, other=0.0), axis=0)
    empty = pixels == 0
    mean = tl.where(empty, largest, inside / tl.where(empty, 1.0, pixels))
    outside = size - pixels
    margin = mean - (total - inside) / tl.where(outside == 0, 1.0, outside)

    score = tl.load(iou + row)
    corner = tl.arange(0, 4)
    box = tl.load(boxes + row * 4 + corner)
    not_finite += tl.sum(tl.where(tl.abs(box) < float("inf"), 0.0, 1.0), axis=0)
    not_finite += tl.where(tl.abs(score) < float("inf"), 0.0, 1.0)
    written = summary + row * written_numbers
    tl.store(written, tl.where(not_finite == 0, 1.0, 0.0))
    tl.store(written + 1, tl.load(pixels_in_frame + row).to(tl.float32))
    tl.store(written + 2, score)
    tl.store(written + 3 + corner, box)
    tl.store(written + 7, largest)
    tl.store(written + 8, mean)
    tl.store(written + 9, margin)
    patch = tl.arange(0, all_patches)
    is_patch = patch < patch_count
    for index in tl.static_range(2):
        values = similarity if index == 0 else verification
        value = tl.load(values + row * patch_count + patch, mask=is_patch, other=0.0)
        tl.store(written + 10 + 2 * index, tl.max(tl.where(is_patch, value, float("-inf")), axis=0))
        away = tl.where(is_patch, value - tl.sum(value, axis=0) / patch_count, 0.0)
        tl.store(written + 11 + 2 * index, tl.sqrt(tl.sum(away * away, axis=0) / patch_count))
    tl.store(written + 14, tl.where(empty, 0.0, x0))
    tl.store(written + 15, tl.where(empty, 0.0, y0))
    tl.store(written + 16, tl.where(empty, side, x1).to(tl.float32))
    tl.store(written + 17, tl.where(empty, side, y1).to(tl.float32))


def summarize(prediction: Prediction, pixels_in_frame: Tensor) -> Tensor:
    """Compute the same as `summary.summarize_with_pytorch`.

    Args:
        prediction: in float32, about E expressions, on a GPU.
        pixels_in_frame: (E,) integers.
    """
    logits = prediction.low_res.contiguous()  # (E, M, M)
    count, side, _ = logits.shape
    part_count = triton.cdiv(side * side, _PART)
    parts = logits.new_empty(count, part_count, _NUMBERS_OF_A_PART)
    summary = logits.new_empty(count, NUMBERS)
    similarity, verification = prediction.similarity.contiguous(), prediction.verification.contiguous()
    patch_count = similarity[0].numel()
    with torch.cuda.device_of(logits):  # type: ignore[no-untyped-call]
        _summarize_parts[(part_count, count)](logits, parts, side, part=_PART, numbers=_NUMBERS_OF_A_PART, num_warps=8)
        _summarize[(count,)](
            parts,
            prediction.iou.contiguous(),
            prediction.box.contiguous(),
            similarity,
            verification,
            pixels_in_frame,
            summary,
            side * side,
            part_count,
            patch_count,
            side,
            numbers=_NUMBERS_OF_A_PART,
            all_parts=triton.next_power_of_2(part_count),
            all_patches=triton.next_power_of_2(patch_count),
            written_numbers=NUMBERS,
        )
    return summary
