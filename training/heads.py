"""Auxiliary heads: linear predictions from inner features, supervised during training and dropped from the model."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sspsam.config import Architecture
from sspsam.models import ExpressionFeatures
from sspsam.shapes import COLORS, OUTLINES
from training.batches import SceneBatch
from training.datasets import ATTRIBUTES, PARSE_SIZES, SUBPATCH_SIDE
from training.losses import Losses
from training.targets import FREQUENCIES, MARKS, patch_places, patch_visibility, position_encoding

PATCH_HEADS = ("attributes", "inside", "position", "box", "center")  # heads that read CLIP's patch features
COUNTS = 9  # 0 to 8 candidates


class AuxiliaryHeads(nn.Module):
    """Linear heads on CLIP's patches, on the layers of the prompt generator, and on the text features.

    Args:
        config: of the model in training.
    """

    def __init__(self, config: Architecture) -> None:
        super().__init__()
        self.grid = config.clip.grid
        width = config.clip.embed_dim
        self.attributes = nn.Linear(width, len(ATTRIBUTES))
        self.inside = nn.Linear(width, SUBPATCH_SIDE**2)
        self.position = nn.Linear(width, 4 * FREQUENCIES)
        self.box = nn.Linear(width, 4)
        self.center = nn.Linear(width, 4 * FREQUENCIES)
        prompt_width, layers = config.sam.prompt_width, config.ssp.generator_layers
        self.patches = nn.ModuleList(nn.Linear(prompt_width, len(MARKS)) for _ in range(layers - 1))
        self.summary = nn.ModuleList(nn.Linear(prompt_width, 1 + COUNTS + 4 * FREQUENCIES) for _ in range(layers))
        # one head for each text feature, so that both features carry the information
        self.parse = nn.ModuleList(
            nn.Linear(width, sum(PARSE_SIZES)) for width in (config.clip.embed_dim, config.ssp.hidden_width)
        )

    def patch_losses(self, features: Tensor, batch: SceneBatch) -> Losses:
        """Losses of the shape, its place and its box at each patch.

        Args:
            features: (B, G*G, C) CLIP's patch features.
            batch: the B scenes.
        """
        tokens = features * math.sqrt(features.shape[1])  # undoes the normalisation along the patches: unit scale
        scene, shape, weight = _dominant_shapes(batch)  # (B, 1), (B, G*G), (B, G*G)
        box = batch.boxes[scene, shape]  # (B, G*G, 4)
        center = position_encoding((box[..., :2] + box[..., 2:]) / 2)  # (B, G*G, 16)
        places = position_encoding(patch_places(batch.image_extent, self.grid))  # (B, G*G, 16)
        attribute_losses = self._attribute_losses(tokens.flatten(0, 1), batch.attributes[scene, shape].flatten(0, 1))
        return {
            "attributes": (weight * attribute_losses.view_as(weight)).sum() / len(tokens),
            "inside": 2 * F.binary_cross_entropy_with_logits(self.inside(tokens), batch.subpatch_coverage),
            "position": F.mse_loss(self.position(tokens), places),
            "boxes": (weight * (self.box(tokens) - box).abs().sum(dim=2)).sum() / len(tokens),
            "centers": (weight * (self.center(tokens) - center).square().mean(dim=2)).sum() / len(tokens),
        }

    def _attribute_losses(self, tokens: Tensor, attributes: Tensor) -> Tensor:
        """(X, C) tokens, (X, 20) attributes -> (X,) losses."""
        sizes = [len(COLORS), len(OUTLINES), 2]
        color, kind, size = torch.split(self.attributes(tokens), sizes, dim=1)
        true_color, true_kind, true_size = torch.split(attributes, sizes, dim=1)
        color_loss = F.cross_entropy(color, true_color, reduction="none")
        kind_loss = F.cross_entropy(kind, true_kind, reduction="none")
        size_loss = F.binary_cross_entropy_with_logits(size, true_size, reduction="none").sum(dim=1)
        return color_loss + 2 * kind_loss + size_loss

    def generator_outputs(self, layers: list[Tensor], prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Predict from the layers of the prompt generator.

        Args:
            layers: (E, 1 + P + G*G, D) tokens after each layer but the last.
            prompts: (E, P, D) prompts, the output of the last layer.

        Returns:
            (layers - 1, E, marks, G*G) logits of each mark at each patch, and (layers, E, 1 + counts + 16): logits of
            a target and of each number of candidates, and the position encoding of the landmark.
        """
        first_patch = 1 + prompts.shape[1]
        layers = [tokens.float() for tokens in layers]
        marks = [
            head(x[:, first_patch:]).transpose(1, 2) for head, x in zip(self.patches, layers, strict=True)
        ]  # (E, marks, G*G)
        learned = [*(tokens[:, :first_patch] for tokens in layers), prompts.float()]
        summary = [head(x.mean(dim=1)) for head, x in zip(self.summary, learned, strict=True)]  # (E, 1 + counts + 16)
        return torch.stack(marks), torch.stack(summary)

    def parse_losses(self, expressions: ExpressionFeatures, parse: Tensor) -> Losses:
        """Losses of the structure of E expressions, from both of their sentence features.

        Args:
            expressions: text features of E expressions.
            parse: (E, 8) class indices, see `PARSE_SIZES`.
        """
        losses = []
        gate = expressions.sentence.float().tanh()  # the factor that the SSP encoder multiplies the patches by
        for head, features in zip(self.parse, (expressions.clip_sentence, gate), strict=True):
            groups = torch.split(head(features.float()), list(PARSE_SIZES), dim=1)
            losses += [F.cross_entropy(logits, parse[:, index]) for index, logits in enumerate(groups)]
        return {"parse": torch.stack(losses).mean()}


def _dominant_shapes(batch: SceneBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Find the most visible shape at each patch.

    Returns:
        (B, 1) index of the scene, (B, G*G) index of the shape in its scene, and (B, G*G) weight of the patch, with
        equal sums for all shapes of a scene, and a sum of 1 for a scene.
    """
    visibility = patch_visibility(batch.patch_coverage)  # (B, N, G*G)
    weight, shape = visibility.max(dim=1)  # (B, G*G)
    total = torch.zeros_like(visibility[..., 0]).scatter_add(1, shape, weight)  # (B, N)
    scene = torch.arange(len(visibility), device=visibility.device).unsqueeze(1)  # (B, 1)
    return scene, shape, weight / total[scene, shape].clamp(min=1e-6) / batch.shapes.unsqueeze(1)
