"""The name and shape of every tensor of a model, computed from its `Architecture` without PyTorch.

A checkpoint is checked against these shapes before any tensor is read. A test compares them with the `state_dict` of
`sspsam.models.SSPSAM`, whose modules the functions below follow in order and name.
"""

from collections.abc import Mapping
from typing import Final

from sspsam.config import Architecture, CLIPConfig, SAMConfig

Shape = tuple[int, ...]
_POINT_EMBEDDINGS: Final = 4  # foreground and background point, two corners of a box; fixed by SAM
_HYPERNETWORK_LAYERS: Final = 3  # fixed by SAM


def tensor_shapes(architecture: Architecture) -> dict[str, Shape]:
    """Return the shape of every tensor of `SSPSAM(architecture).state_dict()`, by name."""
    clip, sam = architecture.clip, architecture.sam
    return {
        **_within("clip.visual", _vision_transformer(clip)),
        **_within("clip.text", _text_transformer(clip)),
        **_within("sam.image_encoder", _image_encoder(sam)),
        **_within("sam.prompt_encoder", _prompt_encoder(sam)),
        **_within("sam.mask_decoder", _mask_decoder(sam)),
        **_within("ssp", _ssp_encoder(architecture)),
    }


def _within(prefix: str, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}


# layers


def _linear(inputs: int, outputs: int) -> dict[str, Shape]:
    return {"weight": (outputs, inputs), "bias": (outputs,)}


def _norm(width: int) -> dict[str, Shape]:
    return {"weight": (width,), "bias": (width,)}


def _conv(inputs: int, outputs: int, side: int) -> dict[str, Shape]:
    return {"weight": (outputs, inputs, side, side), "bias": (outputs,)}


def _transposed_conv(inputs: int, outputs: int, side: int) -> dict[str, Shape]:
    return {"weight": (inputs, outputs, side, side), "bias": (outputs,)}


def _mlp(inputs: int, hidden: int, outputs: int, layers: int) -> dict[str, Shape]:
    widths = [inputs, *[hidden] * (layers - 1), outputs]
    shapes: dict[str, Shape] = {}
    for index in range(layers):
        shapes |= _within(f"layers.{index}", _linear(widths[index], widths[index + 1]))
    return shapes


def _multihead_attention(width: int) -> dict[str, Shape]:
    """`torch.nn.MultiheadAttention`: the weights of queries, keys and values are one tensor."""
    return {
        "in_proj_weight": (3 * width, width),
        "in_proj_bias": (3 * width,),
        **_within("out_proj", _linear(width, width)),
    }


def _bidirectional_gru(inputs: int, hidden: int) -> dict[str, Shape]:
    """`torch.nn.GRU` of one layer: the weights of its three gates are one tensor."""
    one_direction = {
        "weight_ih_l0": (3 * hidden, inputs),
        "weight_hh_l0": (3 * hidden, hidden),
        "bias_ih_l0": (3 * hidden,),
        "bias_hh_l0": (3 * hidden,),
    }
    return {**one_direction, **{f"{name}_reverse": shape for name, shape in one_direction.items()}}


# CLIP


def _vision_transformer(config: CLIPConfig) -> dict[str, Shape]:
    width, patch = config.vision_width, config.patch_size
    shapes: dict[str, Shape] = {
        "class_embedding": (width,),
        "positional_embedding": (1 + config.grid**2, width),
        "proj": (width, config.embed_dim),
        "conv1.weight": (width, 3, patch, patch),
        **_within("ln_pre", _norm(width)),
        **_within("ln_post", _norm(width)),
    }
    for index in range(config.vision_layers):
        shapes |= _within(f"transformer.resblocks.{index}", _residual_block(width, config.vision_mlp_width))
    return shapes


def _text_transformer(config: CLIPConfig) -> dict[str, Shape]:
    width = config.text_width
    shapes: dict[str, Shape] = {
        "positional_embedding": (config.context_length, width),
        "text_projection": (width, config.embed_dim),
        "token_embedding.weight": (config.vocab_size, width),
        **_within("ln_final", _norm(width)),
    }
    for index in range(config.text_layers):
        shapes |= _within(f"transformer.resblocks.{index}", _residual_block(width, config.text_mlp_width))
    return shapes


def _residual_block(width: int, mlp_width: int) -> dict[str, Shape]:
    return {
        **_within("ln_1", _norm(width)),
        **_within("attn", _multihead_attention(width)),
        **_within("ln_2", _norm(width)),
        **_within("mlp.c_fc", _linear(width, mlp_width)),
        **_within("mlp.c_proj", _linear(mlp_width, width)),
    }


# SAM


def _image_encoder(config: SAMConfig) -> dict[str, Shape]:
    width, prompt_width, patch = config.width, config.prompt_width, config.patch_size
    shapes: dict[str, Shape] = {
        "pos_embed": (1, config.grid, config.grid, width),
        **_within("patch_embed.proj", _conv(3, width, patch)),
        "neck.0.weight": (prompt_width, width, 1, 1),
        **_within("neck.1", _norm(prompt_width)),
        "neck.2.weight": (prompt_width, prompt_width, 3, 3),
        **_within("neck.3", _norm(prompt_width)),
    }
    for index in range(config.layers):
        side = config.grid if index in config.global_blocks else config.window_size
        shapes |= _within(f"blocks.{index}", _image_encoder_block(config, side))
    return shapes


def _image_encoder_block(config: SAMConfig, side: int) -> dict[str, Shape]:
    """A block that attends within squares of `side` x `side` patches."""
    width, relative_positions = config.width, (2 * side - 1, config.width // config.heads)
    return {
        **_within("norm1", _norm(width)),
        "attn.rel_pos_h": relative_positions,
        "attn.rel_pos_w": relative_positions,
        **_within("attn.qkv", _linear(width, 3 * width)),
        **_within("attn.proj", _linear(width, width)),
        **_within("norm2", _norm(width)),
        **_within("mlp.lin1", _linear(width, config.mlp_width)),
        **_within("mlp.lin2", _linear(config.mlp_width, width)),
    }


def _prompt_encoder(config: SAMConfig) -> dict[str, Shape]:
    width, channels = config.prompt_width, config.mask_channels
    return {
        "pe_layer.positional_encoding_gaussian_matrix": (2, width // 2),
        **{f"point_embeddings.{index}.weight": (1, width) for index in range(_POINT_EMBEDDINGS)},
        "not_a_point_embed.weight": (1, width),
        **_within("mask_downscaling.0", _conv(1, channels // 4, 2)),
        **_within("mask_downscaling.1", _norm(channels // 4)),
        **_within("mask_downscaling.3", _conv(channels // 4, channels, 2)),
        **_within("mask_downscaling.4", _norm(channels)),
        **_within("mask_downscaling.6", _conv(channels, width, 1)),
        "no_mask_embed.weight": (1, width),
    }


def _mask_decoder(config: SAMConfig) -> dict[str, Shape]:
    width, tokens, downsample = config.prompt_width, config.mask_tokens, config.decoder_attention_downsample
    shapes: dict[str, Shape] = {
        **_within("transformer.final_attn_token_to_image", _decoder_attention(width, downsample)),
        **_within("transformer.norm_final_attn", _norm(width)),
        "iou_token.weight": (1, width),
        "mask_tokens.weight": (tokens, width),
        **_within("output_upscaling.0", _transposed_conv(width, width // 4, 2)),
        **_within("output_upscaling.1", _norm(width // 4)),
        **_within("output_upscaling.3", _transposed_conv(width // 4, width // 8, 2)),
        **_within("iou_prediction_head", _mlp(width, config.iou_head_width, tokens, config.iou_head_layers)),
    }
    for index in range(config.decoder_layers):
        shapes |= _within(f"transformer.layers.{index}", _decoder_layer(config))
    for index in range(tokens):
        shapes |= _within(f"output_hypernetworks_mlps.{index}", _mlp(width, width, width // 8, _HYPERNETWORK_LAYERS))
    return shapes


def _decoder_layer(config: SAMConfig) -> dict[str, Shape]:
    width, downsample = config.prompt_width, config.decoder_attention_downsample
    shapes = {
        **_within("self_attn", _decoder_attention(width, 1)),
        **_within("cross_attn_token_to_image", _decoder_attention(width, downsample)),
        **_within("cross_attn_image_to_token", _decoder_attention(width, downsample)),
        **_within("mlp.lin1", _linear(width, config.decoder_mlp_width)),
        **_within("mlp.lin2", _linear(config.decoder_mlp_width, width)),
    }
    for index in range(1, 5):
        shapes |= _within(f"norm{index}", _norm(width))
    return shapes


def _decoder_attention(width: int, downsample: int) -> dict[str, Shape]:
    inner = width // downsample
    return {
        **_within("q_proj", _linear(width, inner)),
        **_within("k_proj", _linear(width, inner)),
        **_within("v_proj", _linear(width, inner)),
        **_within("out_proj", _linear(inner, width)),
    }


# the SSP encoder and the box head


def _ssp_encoder(architecture: Architecture) -> dict[str, Shape]:
    ssp, width = architecture.ssp, architecture.sam.prompt_width
    return {
        **_within("linguistic_attention_adapter", _linguistic_adapter(architecture)),
        **_within("visual_attention_adapter", _visual_adapter(architecture)),
        **_within("fusion", _linear(ssp.hidden_width, width)),
        **_within("prompt_generator", _prompt_generator(architecture)),
        **_within("box_head", _mlp(width, width, 4, ssp.box_head_layers)),
    }


def _linguistic_adapter(architecture: Architecture) -> dict[str, Shape]:
    hidden = architecture.ssp.hidden_width
    return {
        **_within("word_projection", _linear(architecture.clip.text_width, hidden)),
        **_within("gru", _bidirectional_gru(hidden, hidden)),
        **_within("score", _linear(2 * hidden, 1)),
    }


def _visual_adapter(architecture: Architecture) -> dict[str, Shape]:
    hidden, layers = architecture.ssp.hidden_width, architecture.ssp.image_projection_layers
    return {
        "scale": (1,),
        "sigma": (1,),
        **_within("image_projection", _mlp(architecture.clip.embed_dim, hidden, hidden, layers)),
        **_within("word_attention", _multihead_attention(hidden)),
        **_within("verify_image", _linear(hidden, hidden)),
        **_within("verify_words", _linear(hidden, hidden)),
        **_within("norm", _norm(hidden)),
    }


def _prompt_generator(architecture: Architecture) -> dict[str, Shape]:
    ssp, width = architecture.ssp, architecture.sam.prompt_width
    shapes: dict[str, Shape] = {
        "box_token.weight": (1, width),
        "prompt_tokens.weight": (ssp.prompts, width),
        "position.weight": (1 + ssp.prompts + architecture.clip.grid**2, width),
        **_within("norm", _norm(width)),
    }
    for index in range(ssp.generator_layers):
        shapes |= _within(f"layers.{index}", _prompt_generator_layer(width, ssp.generator_mlp_width))
    return shapes


def _prompt_generator_layer(width: int, mlp_width: int) -> dict[str, Shape]:
    return {
        **_within("attention", _multihead_attention(width)),
        **_within("norm1", _norm(width)),
        **_within("mlp", _mlp(width, mlp_width, width, 2)),
        **_within("norm2", _norm(width)),
    }
