"""The weights of patches: their similarity to the sentence, and their verification by the words.

On most devices these are PyTorch's operators. In mixed precision on an NVIDIA GPU they are kernels of this package
(`patch_kernels.py`), as in `norms.py`.
"""

import types
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sspsam.models.kernels import widened
from sspsam.models.trials import Trial, TriedKernels, half_precision_kernels, try_in_half_precision, wave

_TRIED_SIZES: Final = ((2, 9, 48), (1, 576, 512))  # expressions, patches and width of the trial


def weight_by_sentence(
    products: Tensor, projected: Tensor, bias: Tensor, dtype: torch.dtype, *, relu: bool
) -> tuple[Tensor, Tensor]:
    """Scale the products of sentence and patches to [0, 1], and weight the projected patches by them.

    Args:
        products: (E, G*G).
        projected: (G*G, H), or (E, G*G, H) for an image of each expression.
        bias: (H,), added to the weighted patches.
        dtype: of the products that follow; on most devices the weighted patches stay in float32.
        relu: whether to apply a ReLU to them.

    Returns:
        The similarity (E, G*G) and the weighted patches (E, G*G, H).
    """
    kernels = _kernels(products, dtype) if projected.ndim == 2 else None
    if kernels is not None:
        similarity, weighted = kernels.weight_by_sentence(products, projected, bias, dtype, relu=relu)
        return similarity, weighted
    low, high = products.amin(dim=-1, keepdim=True), products.amax(dim=-1, keepdim=True)  # (E, 1)
    similarity = (products - low) / (high - low)  # (E, G*G)
    weighted = torch.addcmul(bias, similarity.unsqueeze(-1), projected)  # (E, G*G, H)
    return similarity, F.relu(weighted) if relu else weighted


def weight_by_words(
    norm: nn.LayerNorm,
    scale: Tensor,
    sigma: Tensor,
    image: Tensor,
    context: Tensor,
    patches: Tensor,
    sentence: Tensor,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Weight the patches by how well the words verify them, and gate them by the sentence.

    Args:
        norm: of the patches.
        scale, sigma: (1,), height and width of the Gaussian-like mapping of the cosine.
        image: (E, G*G, H), output of `verify_image` for the patches.
        context: (E, G*G, H), output of `verify_words` for the words of each patch.
        patches: (E, G*G, H).
        sentence: (E, H).
        dtype: of the product that follows; on most devices the result stays in float32.

    Returns:
        The verification (E, G*G), and `tanh(verification * norm(patches)) * tanh(sentence)`, (E, G*G, H).
    """
    kernels = _kernels(patches, dtype)
    if kernels is not None:
        verification, result = kernels.weight_by_words(norm, scale, sigma, image, context, patches, sentence, dtype)
        return verification, result
    cosine = F.cosine_similarity(widened(image), widened(context), dim=-1)  # (E, G*G)
    verification = scale * torch.exp(-((1 - cosine) ** 2) / (2 * sigma**2))  # (E, G*G)
    verified = norm(widened(patches)) * verification.unsqueeze(-1)  # (E, G*G, H)
    return verification, verified.tanh() * sentence.tanh().unsqueeze(1)


def _kernels(x: Tensor, dtype: torch.dtype) -> types.ModuleType | None:
    return half_precision_kernels(patch_kernels_on, x, dtype)


@TriedKernels
def patch_kernels_on(device: torch.device, dtype: torch.dtype) -> Trial:
    """Try the kernels of `patch_kernels` in a dtype on a device."""
    return try_in_half_precision(_load_kernels, device, dtype, "weights of patches", _pairs, _TRIED_SIZES)


def _load_kernels() -> types.ModuleType:
    from sspsam.models import patch_kernels

    return patch_kernels


def _pairs(
    kernels: types.ModuleType, expressions: int, count: int, width: int, dtype: torch.dtype, device: torch.device
) -> list[tuple[Tensor, Tensor]]:
    """Return the results of each kernel, each with that of PyTorch for the same patches in half precision."""
    example = partial(wave, device=device)
    norm = nn.LayerNorm(width, dtype=torch.float32).requires_grad_(False).to(device)
    norm.weight.copy_(example(width))
    norm.bias.copy_(example(width, step=0.4))
    scale, sigma = example(1) + 1.2, example(1) + 0.5
    # the first patches are like their context, and the later ones less so
    patches, context = (example(expressions, count, width, step=step).to(dtype) for step in (0.7, 0.70001))
    products, sentence = example(expressions, count), example(expressions, width)
    bias = example(width, step=0.3).to(dtype)
    by_words = norm, scale, sigma, patches, context, patches, sentence
    expected = weight_by_words(*by_words, torch.float32)
    pairs = list(zip(kernels.weight_by_words(*by_words, dtype), expected, strict=True))
    for relu in (False, True):
        by_sentence = products, patches[0], bias
        expected = weight_by_sentence(*by_sentence, torch.float32, relu=relu)  # by PyTorch's operators
        pairs += zip(kernels.weight_by_sentence(*by_sentence, dtype, relu=relu), expected, strict=True)
    return pairs
