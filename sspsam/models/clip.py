"""CLIP with surgery: image features for every patch, word features for every text position (section 2).

The modules are open_clip's own; the way through them is ours.
"""

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sspsam.config import CLIPConfig
from sspsam.models.layers import attend, linear
from sspsam.models.stock import QuickGELU, TextTransformer, VisionTransformer


class TextFeatures(NamedTuple):
    """What CLIP's text transformer says about each expression."""

    words: Tensor  # (E, L, text width), after the final norm, not projected
    sentence: Tensor  # (E, C), unit length


class CLIPWithSurgery(nn.Module):
    """CLIP whose last vision blocks carry a second path that attends value to value.

    Args:
        config: dimensions.
    """

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.surgery_layers = config.surgery_layers
        self.vision_heads = config.vision_heads
        self.visual = VisionTransformer(
            image_size=config.image_size,
            patch_size=config.patch_size,
            width=config.vision_width,
            layers=config.vision_layers,
            heads=config.vision_heads,
            # open_clip takes a ratio and truncates its product with the width; the half keeps that exact
            mlp_ratio=(config.vision_mlp_width + 0.5) / config.vision_width,
            output_dim=config.embed_dim,
            act_layer=QuickGELU,
        )
        self.text = TextTransformer(
            context_length=config.context_length,
            vocab_size=config.vocab_size,
            width=config.text_width,
            layers=config.text_layers,
            heads=config.text_heads,
            mlp_ratio=(config.text_mlp_width + 0.5) / config.text_width,
            output_dim=config.embed_dim,
            act_layer=QuickGELU,
        )
        # our way is causal without; and as no checkpoint holds it, a model that is built without storage would lose it
        self.text.attn_mask = None

    def encode_image(self, clip_input: Tensor) -> Tensor:
        """Features of every patch.

        Args:
            clip_input: (B, 3, S, S) normalised and padded pictures.

        Returns:
            (B, G*G, C), normalised **along the tokens**, the class token among them, not along the channels: a quirk
            of the authors' code that their weights were trained with.
        """
        visual = self.visual
        patches = visual.conv1(clip_input).flatten(2).transpose(1, 2)  # (B, G*G, width)
        class_token = visual.class_embedding.expand(len(patches), 1, -1)  # (B, 1, width)
        x = visual.ln_pre(torch.cat([class_token, patches], dim=1) + visual.positional_embedding)  # (B, 1+G*G, width)
        blocks = list(visual.transformer.resblocks)
        for block in blocks[: -self.surgery_layers]:
            x = _through(block, x)
        original = new = x
        for block in blocks[-self.surgery_layers :]:
            original, new = self._surgery_block(block, original, new)
        tokens = torch.cat([original[:, :1], new[:, 1:]], dim=1)  # (B, 1+G*G, width)
        features = linear(visual.ln_post(tokens), visual.proj.T).float()  # (B, 1+G*G, C)
        return cast(Tensor, (features / features.norm(dim=1, keepdim=True))[:, 1:])

    def _surgery_block(self, block: nn.Module, original: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
        """One block on both paths; queries, keys and values all come from the original path."""
        attention = cast(nn.MultiheadAttention, block.attn)
        normed = cast(nn.Module, block.ln_1)(original)
        qkv = linear(normed, attention.in_proj_weight, attention.in_proj_bias)
        batch, length, _ = normed.shape
        q, k, v = (
            part.view(batch, length, self.vision_heads, -1).transpose(1, 2) for part in qkv.chunk(3, dim=-1)
        )  # each (B, heads, 1+G*G, width/heads)
        attended, attended_by_value = (
            attention.out_proj(F.scaled_dot_product_attention(a, b, v).transpose(1, 2).flatten(2))
            for a, b in ((q, k), (v, v))
        )  # each (B, 1+G*G, width)
        original = original + attended
        original = original + cast(nn.Module, block.mlp)(cast(nn.Module, block.ln_2)(original))
        return original, new + attended_by_value

    def encode_text(self, token_ids: Tensor) -> TextFeatures:
        """Features of every text position and of the sentence.

        Args:
            token_ids: (E, L) integers, 0 = padding; the largest id of a row is its end of text.
        """
        text = self.text
        x = text.token_embedding(token_ids) + text.positional_embedding  # (E, L, text width)
        for block in text.transformer.resblocks:
            x = _through(block, x, causal=True)
        words = text.ln_final(x)
        ends = words[torch.arange(len(words), device=words.device), token_ids.argmax(dim=-1)]  # (E, text width)
        return TextFeatures(words, F.normalize(linear(ends, text.text_projection.T), dim=-1))


def _through(block: nn.Module, x: Tensor, causal: bool = False) -> Tensor:
    """One block of either transformer, (B, tokens, width) -> the same."""
    normed = cast(nn.Module, block.ln_1)(x)
    x = x + attend(cast(nn.MultiheadAttention, block.attn), normed, normed, normed, causal=causal)
    return x + cast(Tensor, cast(nn.Module, block.mlp)(cast(nn.Module, block.ln_2)(x)))
