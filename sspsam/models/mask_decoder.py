"""SAM's mask decoder fed with our prompts: the stock modules, our way through them (section 4).

The stock code repeats the picture for every prompt set, decodes four masks and keeps one. Here what depends on the
picture alone is computed once (`prepare`), and only what the one mask and its predicted IoU need is computed at all.
"""

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sspsam.models.layers import Activation, linear
from sspsam.models.stock import MaskDecoder


class DecoderImage(NamedTuple):
    """What the decoder makes of a picture before it has seen a prompt; N = g*g image tokens, d the inner width."""

    tokens: Tensor  # (1, N, D) the embedding plus the "no mask" embedding
    position: Tensor  # (N, D)
    keys: Tensor  # (1, N, d) of the first layer's attention from prompts to picture
    values: Tensor  # (1, N, d) likewise
    queries: Tensor  # (1, N, d) of the first layer's attention from picture to prompts


def prepare(decoder: MaskDecoder, embedding: Tensor, position: Tensor, no_mask: Tensor) -> DecoderImage:
    """Everything that does not depend on prompts.

    Args:
        decoder: stock.
        embedding: (D, g, g) of one picture.
        position: (1, D, g, g) dense position encoding.
        no_mask: (1, D) the embedding that stands for no mask prompt.
    """
    tokens = (embedding.flatten(1).T.contiguous() + no_mask).unsqueeze(0)  # (1, N, D)
    place = position.flatten(2).squeeze(0).T.contiguous()  # (N, D)
    first = decoder.transformer.layers[0]
    to_image, to_prompts = first.cross_attn_token_to_image, first.cross_attn_image_to_token
    placed = tokens + place
    return DecoderImage(tokens, place, to_image.k_proj(placed), to_image.v_proj(tokens), to_prompts.q_proj(placed))


def decode(decoder: MaskDecoder, image: DecoderImage, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """Masks from prompt tokens.

    Args:
        decoder: stock.
        image: from `prepare`.
        prompts: (E, P, D), one set of sparse prompt embeddings for each expression.

    Returns:
        Low-resolution logits (E, M, M) and the predicted IoU (E,), both of mask token 0.
    """
    transformer = decoder.transformer
    output = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])  # (5, D): IoU, then the masks
    tokens = torch.cat([output.expand(len(prompts), -1, -1), prompts], dim=1)  # (E, T, D)
    queries, keys = tokens, image.tokens
    for index, layer in enumerate(transformer.layers):
        queries = _attend_to_themselves(layer, queries, tokens)
        to_image, to_prompts = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
        if index == 0:
            k, v, q = image.keys, image.values, image.queries
        else:
            placed = keys + image.position
            k, v, q = to_image.k_proj(placed), to_image.v_proj(keys), to_prompts.q_proj(placed)
        queries = layer.norm2(queries + _attention(to_image, to_image.q_proj(queries + tokens), k, v))
        queries = layer.norm3(queries + layer.mlp(queries))
        attended = _attention(to_prompts, q, to_prompts.k_proj(queries + tokens), to_prompts.v_proj(queries))
        keys = layer.norm4(keys + attended)  # (E, N, D)
    asked = queries[:, :2]  # the IoU token and mask token 0; nobody reads the others
    attended = _attention_of_few(transformer.final_attn_token_to_image, asked + tokens[:, :2], keys, image.position)
    asked = transformer.norm_final_attn(asked + attended)  # (E, 2, D)
    iou = decoder.iou_prediction_head(asked[:, 0])[:, 0]  # (E,)
    return _mask(decoder, keys, decoder.output_hypernetworks_mlps[0](asked[:, 1])), iou


def _attend_to_themselves(layer: nn.Module, queries: Tensor, tokens: Tensor) -> Tensor:
    attention = cast(nn.Module, layer.self_attn)
    first = bool(layer.skip_first_layer_pe)
    placed = queries if first else queries + tokens
    q, k, v = (
        cast(nn.Module, projection)(x)
        for projection, x in ((attention.q_proj, placed), (attention.k_proj, placed), (attention.v_proj, queries))
    )
    attended = _attention(attention, q, k, v)
    return cast(Tensor, cast(nn.Module, layer.norm1)(attended if first else queries + attended))


def _attention(attention: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Projected (E or 1, tokens, d) queries, keys and values -> (E, queries, D)."""
    count = max(len(q), len(k))
    heads = cast(int, attention.num_heads)
    q, k, v = (x.view(*x.shape[:2], heads, -1).transpose(1, 2).expand(count, -1, -1, -1) for x in (q, k, v))
    attended = F.scaled_dot_product_attention(q, k, v)  # (E, heads, queries, d/heads)
    return cast(Tensor, cast(nn.Module, attention.out_proj)(attended.transpose(1, 2).flatten(2)))


def _attention_of_few(attention: nn.Module, queries: Tensor, image: Tensor, position: Tensor) -> Tensor:
    """(E, Q, D) queries, (E, N, D) image tokens, (N, D) their position -> (E, Q, D).

    The queries are so few that they take the weight of the keys upon themselves, and what they find that of the values:
    then no weight is multiplied with all the image tokens. The bias of the keys adds the same to all, which is nothing.
    """
    q_proj, k_proj, v_proj = (cast(nn.Linear, getattr(attention, f"{name}_proj")) for name in "qkv")
    count, few, width = queries.shape
    heads = cast(int, attention.num_heads)
    of_keys, of_values = (projection.weight.view(heads, -1, width) for projection in (k_proj, v_proj))
    q = q_proj(queries).view(count, few, heads, -1).transpose(1, 2)  # (E, heads, Q, d/heads)
    asked = (q / math.sqrt(q.shape[-1]) @ of_keys).flatten(1, 2)  # (E, heads * Q, D)
    shares = torch.baddbmm(asked @ position.T, asked, image.transpose(1, 2)).softmax(dim=-1)  # (E, heads * Q, N)
    found = (shares @ image).view(count, heads, few, width) @ of_values.transpose(1, 2)  # (E, heads, Q, d/heads)
    return cast(Tensor, cast(nn.Module, attention.out_proj)(found.transpose(1, 2).flatten(2) + v_proj.bias))


def _mask(decoder: MaskDecoder, keys: Tensor, weights: Tensor) -> Tensor:
    """(E, N, D) image tokens, (E, D/8) weights of the mask -> (E, M, M) logits.

    A transposed convolution of 2 x 2 with stride 2 is one product for each token, whose result is then shuffled into
    place. Everything up to the mask works on each place alone, so only the mask itself is shuffled.
    """
    first, norm, act, second, _ = decoder.output_upscaling
    count, side = len(keys), math.isqrt(keys.shape[1])
    x = _quadrupled(keys, first)  # (E, N, 4, D/4)
    x = act(F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps))
    x = _quadrupled(x, second, "gelu")  # (E, N, 4, 4, D/8)
    mask = x.flatten(1, 3) @ weights.unsqueeze(-1)  # (E, N * 4 * 4, 1)
    mask = mask.view(count, side, side, 2, 2, 2, 2)  # y, x, then y, x of the first 2 x 2, then of the second
    return mask.permute(0, 1, 3, 5, 2, 4, 6).reshape(count, 4 * side, 4 * side)


def _quadrupled(x: Tensor, convolution: nn.ConvTranspose2d, activation: Activation = "none") -> Tensor:
    """(..., c) features of places -> (..., 4, c') of the 2 x 2 places that each becomes."""
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (4 * c', c)
    bias = cast(Tensor, convolution.bias).repeat(4)
    return linear(x, weight, bias, activation).view(*x.shape[:-1], 4, -1)
