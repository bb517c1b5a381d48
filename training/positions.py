"""Change of the size of SAM's input: the learned positions of its image encoder are interpolated.

A vision transformer that was trained at a small input goes on at a larger one ("progressive resolution"): every weight
stays, only the absolute positions, one for each patch, and the relative positions of the blocks that attend to the
whole image, one for each distance, are resampled to the new number of patches (docs/method.md, section 4).
"""

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F


def fit_positions(weights: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Interpolate the positions of SAM's image encoder to the sizes that a model has.

    Args:
        weights: of a model at any size of SAM's input, by name.
        model: tensors of the model that will load them.

    Returns:
        All the weights; those with the right size, and everything but positions, unchanged.
    """
    return {name: _fitted(name, weight, model[name]) if name in model else weight for name, weight in weights.items()}


def _fitted(name: str, weight: Tensor, wanted: Tensor) -> Tensor:
    if weight.shape == wanted.shape:
        return weight
    if name.endswith("sam.image_encoder.pos_embed"):  # (1, g, g, width)
        grid = F.interpolate(weight.permute(0, 3, 1, 2), wanted.shape[1:3], mode="bicubic", align_corners=False)
        return grid.permute(0, 2, 3, 1).contiguous()
    if name.endswith((".rel_pos_h", ".rel_pos_w")):  # (2s-1, d)
        table = F.interpolate(weight.T.unsqueeze(0), len(wanted), mode="linear", align_corners=False)
        return table.squeeze(0).T.contiguous()
    return weight
