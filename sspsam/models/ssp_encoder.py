"""The Semantic-Spatial Prompt encoder: CLIP's features to prompts for SAM and a box (docs/method.md, section 3)."""

from typing import NamedTuple

from torch import Tensor, nn

from sspsam.config import Architecture
from sspsam.models.attention_adapters import LinguisticAttentionAdapter, LinguisticFeatures, VisualAttentionAdapter
from sspsam.models.layers import MLP, Linear
from sspsam.models.prompt_generator import PromptGenerator


class SSPOutput(NamedTuple):
    """Prompts for SAM, a box, and the maps that explain them."""

    prompts: Tensor  # (E, P, D)
    box: Tensor  # (E, 4), centre x, centre y, width, height, as fractions of CLIP's padded canvas
    similarity: Tensor  # (E, G*G)
    verification: Tensor  # (E, G*G)


class SSPEncoder(nn.Module):
    """Both adapters, their fusion, the prompt generator and the box head.

    Args:
        config: dimensions of the whole model.
    """

    def __init__(self, config: Architecture) -> None:
        super().__init__()
        hidden, width, ssp = config.ssp.hidden_width, config.sam.prompt_width, config.ssp
        self.linguistic_attention_adapter = LinguisticAttentionAdapter(config.clip.text_width, hidden)
        self.visual_attention_adapter = VisualAttentionAdapter(
            config.clip.embed_dim, hidden, ssp.attention_heads, ssp.image_projection_layers
        )
        self.fusion = Linear(hidden, width, packed=True)
        self.prompt_generator = PromptGenerator(
            width,
            prompts=ssp.prompts,
            patches=config.clip.grid**2,
            layers=ssp.generator_layers,
            heads=ssp.generator_heads,
            mlp_width=ssp.generator_mlp_width,
        )
        self.box_head = MLP(width, width, 4, ssp.box_head_layers)

    def forward(
        self, features: Tensor, projected: Tensor, sentence: Tensor, language: LinguisticFeatures, padding: Tensor
    ) -> SSPOutput:
        """Compute prompts and boxes of E expressions for one image.

        Args:
            features: (G*G, C) image features from CLIP.
            projected: (G*G, H), the same features from `VisualAttentionAdapter.project`.
            sentence: (E, C) sentence features from CLIP.
            language: from the linguistic attention adapter.
            padding: (E, L) bool, True at padding.
        """
        visual = self.visual_attention_adapter(features, projected, sentence, language.words, padding)
        fused = self.fusion(visual.patches.tanh() * language.sentence.tanh().unsqueeze(1))  # (E, G*G, D)
        box_token, prompts = self.prompt_generator(fused)  # (E, D), (E, P, D)
        return SSPOutput(prompts, self.box_head(box_token).sigmoid(), visual.similarity, visual.verification)
