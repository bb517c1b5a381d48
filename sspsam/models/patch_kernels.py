"""The weights of patches by sentence and by words as one kernel each, in Triton; imported where Triton is there.

PyTorch's operators for them read and write all patches about twenty times for one expression. Here they are read once.
"""

from typing import Any, Final

import torch
import triton
import triton.language as tl
from torch import Tensor

_SMALLEST_NORM: Final = 1e-8  # as in `torch.nn.functional.cosine_similarity`
_ELEMENTS: Final = 2048  # of the patches in a block


@triton.jit  # type: ignore[untyped-decorator]
def _weight_by_sentence(  # type: ignore[no-untyped-def]
    products,  # (E, G*G) float32
    projected,  # (G*G, width)
    bias,  # (width,)
    similarity,  # (E, G*G) float32, written
    weighted,  # (E, G*G, width), written
    count,  # G*G
    width: tl.constexpr,
    all_patches: tl.constexpr,
    block: tl.constexpr,
    tile: tl.constexpr,
    relu: tl.constexpr,
):
    row = tl.program_id(1).to(tl.int64)  # of the expression
    patches = tl.arange(0, all_patches)
    is_patch = patches < count
    product = tl.load(products + row * count + patches, mask=is_patch, other=0.0)
    low = tl.min(tl.where(is_patch, product, float("inf")), axis=0)
    high = tl.max(tl.where(is_patch, product, float("-inf")), axis=0)
    own = tl.program_id(0) * tile + tl.arange(0, tile)
    is_own = own < count
    product = tl.load(products + row * count + own, mask=is_own, other=0.0)
    weight = tl.div_rn(product - low, high - low)  # the largest is exactly 1
    tl.store(similarity + row * count + own, weight, mask=is_own)
    columns = tl.arange(0, block)[None, :]
    in_width = columns < width
    mask = is_own[:, None] & in_width
    value = tl.load(projected + own[:, None] * width + columns, mask=mask, other=0.0).to(tl.float32)
    value = tl.load(bias + columns, mask=in_width, other=0.0).to(tl.float32) + weight[:, None] * value
    if relu:
        value = tl.where(value < 0, 0.0, value)  # which keeps NaN
    place = (row * count + own)[:, None] * width + columns
    tl.store(weighted + place, value.to(weighted.dtype.element_ty), mask=mask)


@triton.jit  # type: ignore[untyped-decorator]
def _weight_by_words(  # type: ignore[no-untyped-def]
    image,  # (E*G*G, width)
    context,  # (E*G*G, width)
    patches,  # (E*G*G, width)
    sentence,  # (E, width) float32
    weight,  # (width,) of the norm
    bias,  # (width,) of the norm
    scale,  # (1,)
    sigma,  # (1,)
    verification,  # (E*G*G,) float32, written
    result,  # (E*G*G, width), written
    rows,
    count,  # G*G
    epsilon,
    smallest_norm,
    width: tl.constexpr,
    block: tl.constexpr,
    tile: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * tile + tl.arange(0, tile)
    columns = tl.arange(0, block)[None, :]
    is_row, in_width = row < rows, columns < width
    mask = is_row[:, None] & in_width
    place = row[:, None] * width + columns
    image_row = tl.load(image + place, mask=mask, other=0.0).to(tl.float32)
    context_row = tl.load(context + place, mask=mask, other=0.0).to(tl.float32)
    image_norm = tl.sqrt(tl.sum(image_row * image_row, axis=1))
    context_norm = tl.sqrt(tl.sum(context_row * context_row, axis=1))
    image_norm = tl.where(image_norm < smallest_norm, smallest_norm, image_norm)
    context_norm = tl.where(context_norm < smallest_norm, smallest_norm, context_norm)
    distance = 1 - tl.sum(image_row * context_row, axis=1) / (image_norm * context_norm)
    deviation = tl.load(sigma).to(tl.float32)
    verified = tl.load(scale).to(tl.float32) * tl.exp(-distance * distance / (2 * deviation * deviation))
    tl.store(verification + row, verified, mask=is_row)
    value = tl.load(patches + place, mask=mask, other=0.0).to(tl.float32)
    centered = tl.where(in_width, value - (tl.sum(value, axis=1) / width)[:, None], 0.0)
    variance = tl.sum(centered * centered, axis=1) / width
    normalized = centered * tl.rsqrt(variance + epsilon)[:, None]
    normalized = normalized * tl.load(weight + columns, mask=in_width, other=0.0).to(tl.float32)
    normalized += tl.load(bias + columns, mask=in_width, other=0.0).to(tl.float32)
    gate = tl.load(sentence + (row // count)[:, None] * width + columns, mask=mask, other=0.0)
    # the hyperbolic tangent of x is 2 * sigmoid(2 * x) - 1
    value = (2 * tl.sigmoid(2 * normalized * verified[:, None]) - 1) * (2 * tl.sigmoid(2 * gate) - 1)
    tl.store(result + place, value.to(result.dtype.element_ty), mask=mask)


def weight_by_sentence(
    products: Tensor, projected: Tensor, bias: Tensor, dtype: torch.dtype, *, relu: bool
) -> tuple[Tensor, Tensor]:
    """Compute the same as `patch_weights.weight_by_sentence`; the patches are in `dtype`.

    Args:
        products: (E, G*G) float32.
        projected: (G*G, width).
        bias: (width,).
        dtype: of the weighted patches.
        relu: whether to apply a ReLU to them.
    """
    expressions, count = products.shape
    width = projected.shape[-1]
    similarity = torch.empty_like(products, memory_format=torch.contiguous_format)
    weighted = torch.empty(expressions, count, width, dtype=dtype, device=products.device)
    block = triton.next_power_of_2(width)
    tile = max(1, _ELEMENTS // block)
    with torch.cuda.device_of(products):  # type: ignore[no-untyped-call]
        _weight_by_sentence[(triton.cdiv(count, tile), expressions)](
            products.contiguous(),
            projected.contiguous(),
            bias,
            similarity,
            weighted,
            count,
            width=width,
            all_patches=triton.next_power_of_2(count),
            block=block,
            tile=tile,
            relu=relu,
        )
    return similarity, weighted


def weight_by_words(
    norm: Any,
    scale: Tensor,
    sigma: Tensor,
    image: Tensor,
    context: Tensor,
    patches: Tensor,
    sentence: Tensor,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Compute the same as `patch_weights.weight_by_words`; the patches are in `dtype`.

    Args:
        norm: with `weight`, `bias` and `eps`.
        scale, sigma: (1,).
        image, context, patches: (E, G*G, width).
        sentence: (E, width) float32.
        dtype: of the weighted patches.
    """
    expressions, count, width = patches.shape
    verification = torch.empty(expressions, count, dtype=torch.float32, device=patches.device)
    result = torch.empty(patches.shape, dtype=dtype, device=patches.device)
    rows, block = expressions * count, triton.next_power_of_2(width)
    tile = max(1, _ELEMENTS // block) if expressions > 1 else 1
    with torch.cuda.device_of(patches):  # type: ignore[no-untyped-call]
        _weight_by_words[(triton.cdiv(rows, tile),)](
            image.contiguous(),
            context.contiguous(),
            patches.contiguous(),
            sentence.contiguous(),
            norm.weight,
            norm.bias,
            scale,
            sigma,
            verification,
            result,
            rows,
            count,
            norm.eps,
            _SMALLEST_NORM,
            width=width,
            block=block,
            tile=tile,
            num_warps=max(1, min(8, block * tile // 256)),
        )
    return verification, result
