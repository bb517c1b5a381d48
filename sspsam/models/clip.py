"""CLIP with surgery: features of every patch of an image and of every position of a text (docs/method.md, section 2).

The modules are subclasses of open_clip's, with the same parameter names.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sspsam.config import CLIPConfig
from sspsam.models import stock
from sspsam.models.kernels import linear, widened
from sspsam.models.layers import Linear, MultiheadAttention
from sspsam.models.norms import add_and_normalize, normalize, quick_gelu


class TextFeatures(NamedTuple):
    """CLIP's features of E expressions."""

    words: Tensor  # (E, L, text width), after the final norm, not projected
    sentence: Tensor  # (E, C), unit length


class FeedForward(nn.Module):
    """The feed-forward part of CLIP's blocks.

    Args:
        width: width of the input and the output.
        hidden_width: width between the two layers.
        packed: whether to keep the weights packed; see `PackingLayer`.
    """

    __call__: Callable[..., Tensor]

    def __init__(self, width: int, hidden_width: int, *, packed: bool) -> None:
        super().__init__()
        self.c_fc = Linear(width, hidden_width, packed=packed)
        self.c_proj = Linear(hidden_width, width, packed=packed)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return self.c_proj(quick_gelu(self.c_fc(x)))


class _Block(stock.ResidualAttentionBlock):
    """The layers of one pre-norm block.

    Args:
        width: width of the tokens.
        heads: number of attention heads.
        mlp_width: hidden width of the feed-forward part.
        packed: whether to keep the weights packed; see `PackingLayer`.
    """

    ln_1: nn.LayerNorm
    attn: MultiheadAttention
    ln_2: nn.LayerNorm
    mlp: FeedForward

    def __init__(self, width: int, heads: int, mlp_width: int, *, packed: bool = False) -> None:
        super().__init__(width, heads, mlp_ratio=1.0)
        self.attn = MultiheadAttention(width, heads, packed=packed)
        self.mlp = FeedForward(width, mlp_width, packed=packed)


class ResidualAttentionBlock(_Block):
    """One block of either transformer.

    The last sum of a block is left to the first norm of the next one, which adds and normalises at once.
    """

    def forward(self, x: Tensor, update: Tensor | None = None, *, causal: bool = False) -> tuple[Tensor, Tensor]:
        """Return the next tokens as two terms of a sum.

        Args:
            x: (B or E, tokens, width).
            update: of the same shape, from the block before; None: none.
            causal: no token attends to a later one.
        """
        dtype = self.attn.in_proj_weight.dtype
        x, normalized = add_and_normalize(self.ln_1, x, update, dtype)
        attended = self.attn.self_attend(normalized, causal=causal)
        x, normalized = add_and_normalize(self.ln_2, x, attended, dtype)
        return x, self.mlp(normalized)


class SurgeryBlock(_Block):
    """One of the last vision blocks: the original path, and a new path that attends value to value."""

    def forward(self, original: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1+G*G, width) of both paths -> the same. Queries, keys and values all come from the original path."""
        dtype = self.attn.in_proj_weight.dtype
        q, k, v = self.attn.project(normalize(self.ln_1, original, dtype))  # (B, heads, 1+G*G, width/heads) each
        new = new + self.attn.attend_projected(v, v, v)
        original, normalized = add_and_normalize(self.ln_2, original, self.attn.attend_projected(q, k, v), dtype)
        return original + self.mlp(normalized), new


class Transformer(stock.Transformer):
    """A stack of blocks.

    Args:
        width: width of the tokens.
        heads: number of attention heads.
        blocks: from first to last.
    """

    resblocks: nn.ModuleList

    def __init__(self, width: int, heads: int, blocks: Iterable[_Block]) -> None:
        super().__init__(width, layers=0, heads=heads)
        self.resblocks.extend(blocks)
        self.layers = len(self.resblocks)


class VisionTransformer(stock.VisionTransformer):
    """CLIP's vision transformer; its last blocks are `SurgeryBlock`s.

    Args:
        config: dimensions.
    """

    conv1: nn.Conv2d
    class_embedding: nn.Parameter  # (width,)
    positional_embedding: nn.Parameter  # (1+G*G, width)
    ln_pre: nn.LayerNorm
    transformer: Transformer
    ln_post: nn.LayerNorm
    proj: nn.Parameter  # (width, C)

    def __init__(self, config: CLIPConfig) -> None:
        width, heads = config.vision_width, config.vision_heads
        super().__init__(
            image_size=config.image_size,
            patch_size=config.patch_size,
            width=width,
            layers=0,
            heads=heads,
            mlp_ratio=1.0,
            output_dim=config.embed_dim,
        )
        self.layers_before_surgery = config.vision_layers - config.surgery_layers
        kinds = [ResidualAttentionBlock] * self.layers_before_surgery + [SurgeryBlock] * config.surgery_layers
        self.transformer = Transformer(width, heads, (kind(width, heads, config.vision_mlp_width) for kind in kinds))

    def forward(self, clip_input: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, 1+G*G, C), projected features of the class token and of every patch."""
        patches = self.conv1(clip_input.to(self.conv1.weight.dtype)).flatten(2).transpose(1, 2)  # (B, G*G, width)
        class_token = self.class_embedding.expand(len(patches), 1, -1)  # (B, 1, width)
        x = torch.cat([class_token, patches], dim=1) + self.positional_embedding  # (B, 1+G*G, width)
        x = self.ln_pre(x)
        blocks = list(self.transformer.resblocks)
        update = None
        for block in blocks[: self.layers_before_surgery]:
            x, update = block(x, update)
        original = new = x if update is None else x + update
        for block in blocks[self.layers_before_surgery :]:
            original, new = block(original, new)
        tokens = torch.cat([original[:, :1], new[:, 1:]], dim=1)  # (B, 1+G*G, width)
        return linear(self.ln_post(tokens), self.proj.T)


class TextTransformer(stock.TextTransformer):
    """CLIP's text transformer.

    Args:
        config: dimensions.
    """

    token_embedding: nn.Embedding
    positional_embedding: nn.Parameter  # (L, width)
    transformer: Transformer
    ln_final: nn.LayerNorm
    text_projection: nn.Parameter  # (width, C)

    def __init__(self, config: CLIPConfig) -> None:
        width, heads, layers = config.text_width, config.text_heads, config.text_layers
        super().__init__(
            context_length=config.context_length,
            vocab_size=config.vocab_size,
            width=width,
            layers=1,  # replaced below; the stock initialisation divides by the number of layers
            heads=heads,
            mlp_ratio=1.0,
            output_dim=config.embed_dim,
            # `forward` passes `causal=True` to the blocks instead. No checkpoint holds the buffer of the stock mask, so
            # in a model that was built on the meta device it would have no values.
            no_causal_mask=True,
        )
        blocks = (ResidualAttentionBlock(width, heads, config.text_mlp_width, packed=True) for _ in range(layers))
        self.transformer = Transformer(width, heads, blocks)
        self.init_parameters()

    def forward(self, token_ids: Tensor) -> TextFeatures:
        """(E, L) integers, 0 = padding -> features. The largest id of a row is its end of text."""
        x = self.token_embedding(token_ids) + self.positional_embedding  # (E, L, width)
        update = None
        for block in self.transformer.resblocks:
            x, update = block(x, update, causal=True)
        _, words = add_and_normalize(self.ln_final, x, update, self.text_projection.dtype)  # (E, L, width)
        ends = token_ids.argmax(dim=-1).view(-1, 1, 1).expand(-1, 1, words.shape[-1])  # (E, 1, width)
        sentence = linear(words.gather(1, ends).squeeze(1), self.text_projection.T)  # (E, C)
        return TextFeatures(words, F.normalize(widened(sentence), dim=-1))


class CLIPWithSurgery(nn.Module):
    """CLIP whose last vision blocks have a second path that attends value to value.

    Args:
        config: dimensions.
    """

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.visual = VisionTransformer(config)
        self.text = TextTransformer(config)

    def encode_image(self, clip_input: Tensor) -> Tensor:
        """Encode every patch of B images.

        Args:
            clip_input: (B, 3, S, S) normalised and padded images.

        Returns:
            (B, G*G, C), normalised **along the tokens**, the class token included, not along the channels: a quirk of
            the authors' code that their weights were trained with.
        """
        features: Tensor = self.visual(clip_input).float()  # (B, 1+G*G, C)
        features = features / features.norm(dim=1, keepdim=True)
        return features[:, 1:]  # (B, G*G, C)

    def encode_text(self, token_ids: Tensor) -> TextFeatures:
        """Encode every text position and the sentence of E expressions.

        Args:
            token_ids: (E, L) integers, 0 = padding; the largest id of a row is its end of text.
        """
        features: TextFeatures = self.text(token_ids)
        return features
