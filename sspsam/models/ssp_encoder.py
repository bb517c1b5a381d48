"""The Semantic-Spatial Prompt encoder: CLIP's features to prompts for SAM and a box (docs/method.md, section 3)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from sspsam.config import Architecture
from sspsam.models.attention_adapters import LinguisticAttentionAdapter, LinguisticFeatures, VisualAttentionAdapter
from sspsam.models.kernels import widened
from sspsam.models.layers import MLP, FoldingModule, Linear, MultiheadAttention
from sspsam.models.norms import Tokens, normalize_sum, with_position


class SSPOutput(NamedTuple):
    """Prompts for SAM, a box, and the maps that explain them."""

    prompts: Tensor  # (E, P, D)
    box: Tensor  # (E, 4), centre x, centre y, width, height, as fractions of CLIP's square
    similarity: Tensor  # (E, G*G)
    verification: Tensor  # (E, G*G)


class PromptGeneratorLayer(nn.Module):
    """A post-norm transformer encoder layer that adds the position embedding to queries and keys, never to values."""

    def __init__(self, width: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.attention = MultiheadAttention(width, heads, packed=True)
        self.norm1 = nn.LayerNorm(width)
        self.mlp = MLP(width, mlp_width, width, 2)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tokens, position: Tensor, count: int | None = None) -> Tokens:
        """Update the tokens.

        Args:
            x: (E, tokens, D).
            position: (tokens, D).
            count: number of the first tokens that the caller needs; None: all.

        Returns:
            (E, count, D).
        """
        dtype = self.attention.in_proj_weight.dtype
        positioned = with_position(x, position, dtype)  # (E, tokens, D)
        queries = positioned if count is None else positioned[:, :count]
        attended = self.attention.attend(queries, positioned, x.narrow)  # (E, count, D)
        x = normalize_sum(self.norm1, x.wide[:, :count], attended, dtype)
        next_position = position if count is None else None  # without all tokens there is no next layer
        return normalize_sum(self.norm2, x.wide, self.mlp(x.narrow), dtype, next_position)


class PromptGenerator(FoldingModule):
    """Turns fused patches into prompt tokens for SAM and one token for the box.

    Args:
        width: D.
        prompts: P.
        patches: G*G.
        layers: depth.
        heads: of each layer.
        mlp_width: hidden width of each layer's feed-forward part.
    """

    _learned_tokens: Tensor | None = None

    def __init__(self, width: int, prompts: int, patches: int, layers: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.prompts = prompts
        self.box_token = nn.Embedding(1, width)
        self.prompt_tokens = nn.Embedding(prompts, width)
        self.position = nn.Embedding(1 + prompts + patches, width)
        self.layers = nn.ModuleList(PromptGeneratorLayer(width, heads, mlp_width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def fold(self) -> None:
        """Compute what depends on weights alone; see `FoldingModule`."""
        self._learned_tokens = self._compute_learned_tokens()

    def _compute_learned_tokens(self) -> Tensor:
        return torch.cat([self.box_token.weight, self.prompt_tokens.weight])  # (1+P, D)

    def forward(self, fused: Tensor) -> tuple[Tensor, Tensor]:
        """(E, G*G, D) fused patches -> the box token (E, D) and the prompts (E, P, D)."""
        learned = self._compute_learned_tokens() if self._learned_tokens is None else self._learned_tokens
        tokens = torch.cat([learned.expand(len(fused), -1, -1), fused], dim=1)  # (E, 1+P+G*G, D)
        x = Tokens(tokens, tokens)
        *earlier_layers, last_layer = self.layers
        for layer in earlier_layers:
            x = layer(x, self.position.weight)
        # the patches of the last layer's output are not needed
        x = last_layer(x, self.position.weight, 1 + self.prompts)  # (E, 1+P, D)
        x = normalize_sum(self.norm, None, x.wide, fused.dtype)
        return x.narrow[:, 0], x.wide[:, 1:]


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
        dtype = self.fusion.weight.dtype
        visual = self.visual_attention_adapter(features, projected, sentence, language, padding, dtype)
        fused = self.fusion(visual.patches)  # (E, G*G, D)
        box_token, prompts = self.prompt_generator(fused)  # (E, D), (E, P, D)
        box = widened(self.box_head(box_token)).sigmoid()  # (E, 4)
        return SSPOutput(prompts, box, visual.similarity, visual.verification)
