"""The two-way transformer of SAM's mask decoder (docs/method.md, section 4).

The modules are subclasses of segment_anything's, with the same parameter names. The stock modules repeat the image
tokens for every expression before the first layer. Here one set of image tokens serves all expressions up to the first
layer, which projects it once for an image (`project_image`).
"""

import math
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from sspsam.config import SAMConfig
from sspsam.models import stock
from sspsam.models.kernels import attention
from sspsam.models.layers import Linear, MLPBlock
from sspsam.models.norms import Tokens, normalize_sum, with_position


class ImageProjections(NamedTuple):
    """The image tokens as one layer projects them; d is the inner width of its attention."""

    keys: Tensor  # (1 or E, N, d), of the attention from the prompts to the image
    values: Tensor  # (1 or E, N, d), of the same
    queries: Tensor  # (1 or E, N, d), of the attention from the image to the prompts


class Attention(stock.TwoWayAttention):
    """Multi-head attention at a reduced inner width.

    Args:
        width: D.
        heads: number of heads.
        downsample: D divided by the inner width d.
    """

    num_heads: int
    __call__: Callable[..., Tensor]

    def __init__(self, width: int, heads: int, downsample: int = 1) -> None:
        super().__init__(width, heads, downsample)
        inner_width = width // downsample
        self.q_proj, self.k_proj, self.v_proj = (Linear(width, inner_width, packed=True) for _ in range(3))
        self.out_proj = Linear(inner_width, width, packed=True)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """(E, Q, D), (E, K, D), (E, K, D) -> (E, Q, D)."""
        return self.attend_projected(self.q_proj(queries), self.k_proj(keys), self.v_proj(values))

    def attend_projected(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend with projected queries (1 or E, Q, d), keys and values (1 or E, K, d); (E, Q, D)."""
        count = max(len(q), len(k))
        q, k, v = (self._by_head(x).expand(count, -1, -1, -1) for x in (q, k, v))
        attended = attention(q, k, v)  # (E, heads, Q, d/heads)
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def attend_to_image(self, queries: Tensor, image: Tensor, position: Tensor) -> Tensor:
        """Attend from few queries to many image tokens.

        Fold W_k into the Q queries and apply W_v after the attention, so that neither multiplies all N image tokens.
        The bias of the keys adds the same to all scores of a query, which the softmax ignores.

        Args:
            queries: (E, Q, D).
            image: (E, N, D), the values; the keys are the image plus its position.
            position: (N, D).

        Returns:
            (E, Q, D).
        """
        count, length, width = queries.shape
        key_weight = self.k_proj.weight.view(self.num_heads, -1, width)  # (heads, d/heads, D)
        value_weight = self.v_proj.weight.view(self.num_heads, -1, width)  # (heads, d/heads, D)
        q = self._by_head(self.q_proj(queries))  # (E, heads, Q, d/heads)
        image, position = image.to(q.dtype), position.to(q.dtype)
        q = (q / math.sqrt(q.shape[-1]) @ key_weight).flatten(1, 2)  # (E, heads*Q, D)
        scores = torch.baddbmm(q @ position.T, q, image.transpose(1, 2))  # (E, heads*Q, N)
        weights = scores.softmax(dim=-1)  # (E, heads*Q, N); PyTorch computes it in float32
        context = (weights @ image).view(count, self.num_heads, length, width)  # (E, heads, Q, D)
        context = context @ value_weight.transpose(1, 2)  # (E, heads, Q, d/heads)
        return self.out_proj(context.transpose(1, 2).flatten(2) + self.v_proj.bias)

    def _by_head(self, x: Tensor) -> Tensor:
        """(E, tokens, d) -> (E, heads, tokens, d/heads)."""
        return x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)


class TwoWayAttentionBlock(stock.TwoWayAttentionBlock):
    """Prompts attend to themselves, prompts attend to the image, an MLP, the image attends to the prompts.

    Args:
        config: dimensions.
        first: whether this is the first layer; its self-attention has neither position encoding nor residual.
    """

    skip_first_layer_pe: bool
    norm1: nn.LayerNorm
    norm2: nn.LayerNorm
    norm3: nn.LayerNorm
    norm4: nn.LayerNorm
    self_attn: Attention

    def __init__(self, config: SAMConfig, *, first: bool) -> None:
        width, heads, downsample = config.prompt_width, config.decoder_heads, config.decoder_attention_downsample
        super().__init__(
            width,
            heads,
            mlp_dim=config.decoder_mlp_width,
            attention_downsample_rate=downsample,
            skip_first_layer_pe=first,
        )
        self.self_attn = Attention(width, heads)
        self.cross_attn_token_to_image = Attention(width, heads, downsample)
        self.mlp = MLPBlock(width, config.decoder_mlp_width, "relu", packed=True)
        self.cross_attn_image_to_token = Attention(width, heads, downsample)

    def project_image(self, image: Tokens, position: Tensor) -> ImageProjections:
        """Project (1 or E, N, D) image tokens with their (N, D) position for `forward`."""
        positioned = with_position(image, position, self._dtype)
        return ImageProjections(
            keys=self.cross_attn_token_to_image.k_proj(positioned),
            values=self.cross_attn_token_to_image.v_proj(image.narrow),
            queries=self.cross_attn_image_to_token.q_proj(positioned),
        )

    def forward(
        self,
        queries: Tokens,
        tokens: Tensor,
        image: Tokens,
        position: Tensor,
        projections: ImageProjections | None = None,
        *,
        last: bool = True,
    ) -> tuple[Tokens, Tokens]:
        """Update the queries and the image tokens.

        Args:
            queries: (E, T, D).
            tokens: (E, T, D), the input of the first layer; it is also the position encoding of the queries.
            image: (1 or E, N, D) image tokens.
            position: (N, D) of the image tokens.
            projections: of the image tokens, from `project_image`; None: they are computed here.
            last: True for the last layer, after which nothing needs the image tokens with their position.

        Returns:
            The next queries (E, T, D) and image tokens (E, N, D).
        """
        to_image, to_prompts = self.cross_attn_token_to_image, self.cross_attn_image_to_token
        if projections is None:
            projections = self.project_image(image, position)
        queries, dtype = self._self_attention(queries, tokens), self._dtype
        projected = to_image.q_proj(with_position(queries, tokens, dtype))
        attended = to_image.attend_projected(projected, projections.keys, projections.values)
        queries = normalize_sum(self.norm2, queries.wide, attended, dtype)
        queries = normalize_sum(self.norm3, queries.wide, self.mlp(queries.narrow), dtype, tokens)
        keys = to_prompts.k_proj(with_position(queries, tokens, dtype))
        attended = to_prompts.attend_projected(projections.queries, keys, to_prompts.v_proj(queries.narrow))
        return queries, normalize_sum(self.norm4, image.wide, attended, dtype, None if last else position)

    def _self_attention(self, queries: Tokens, tokens: Tensor) -> Tokens:
        """(E, T, D), (E, T, D) -> (E, T, D), with residual and norm."""
        if self.skip_first_layer_pe:
            attended = self.self_attn(queries.narrow, queries.narrow, queries.narrow)
            return normalize_sum(self.norm1, None, attended, self._dtype, tokens)
        positioned = with_position(queries, tokens, self._dtype)
        attended = self.self_attn(positioned, positioned, queries.narrow)
        return normalize_sum(self.norm1, queries.wide, attended, self._dtype, tokens)

    @property
    def _dtype(self) -> torch.dtype:
        """Of the products."""
        return self.self_attn.q_proj.weight.dtype


class TwoWayTransformer(stock.TwoWayTransformer):
    """Layers in which prompts and image attend to each other, and a last attention to the image.

    Args:
        config: dimensions.
    """

    layers: nn.ModuleList
    norm_final_attn: nn.LayerNorm

    def __init__(self, config: SAMConfig) -> None:
        width, heads, downsample = config.prompt_width, config.decoder_heads, config.decoder_attention_downsample
        super().__init__(
            depth=0,
            embedding_dim=width,
            num_heads=heads,
            mlp_dim=config.decoder_mlp_width,
            attention_downsample_rate=downsample,
        )
        self.layers.extend(TwoWayAttentionBlock(config, first=index == 0) for index in range(config.decoder_layers))
        self.final_attn_token_to_image = Attention(width, heads, downsample)

    def project_image(self, image: Tensor, position: Tensor) -> ImageProjections:
        """Project (1, N, D) image tokens with their (N, D) position for the first layer."""
        return cast(TwoWayAttentionBlock, self.layers[0]).project_image(Tokens(image, image), position)

    def forward(
        self, tokens: Tensor, image: Tensor, position: Tensor, projections: ImageProjections, outputs: int
    ) -> tuple[Tensor, Tensor]:
        """Let tokens and image attend to each other.

        Args:
            tokens: (E, T, D), output tokens and prompts.
            image: (1, N, D) image tokens.
            position: (N, D).
            projections: of the image tokens, from `project_image`.
            outputs: number of the first tokens that the caller needs.

        Returns:
            The first tokens (E, outputs, D) and the image tokens (E, N, D), both for products.
        """
        first_layer, *later_layers = self.layers
        dtype = self.final_attn_token_to_image.q_proj.weight.dtype
        queries, updated = first_layer(
            Tokens(tokens, tokens.to(dtype)), tokens, Tokens(image, image), position, projections, last=not later_layers
        )
        for layer in later_layers:
            queries, updated = layer(queries, tokens, updated, position, last=layer is later_layers[-1])
        positioned = with_position(queries, tokens, dtype)[:, :outputs]
        attended = self.final_attn_token_to_image.attend_to_image(positioned, updated.narrow, position)
        return normalize_sum(self.norm_final_attn, queries.wide[:, :outputs], attended, dtype).narrow, updated.narrow
