"""The layout of the authors' checkpoints: names of the tensors, and the architecture that their shapes imply.

The layout is described in `docs/method.md`, section 6.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Final

from sspsam.config import Architecture, CLIPConfig, SAMConfig, SSPConfig
from sspsam.errors import CheckpointError, ConfigError
from sspsam.utils.paths import shown

Shape = tuple[int, ...]

_VISION_ATTENTION = r"encoder\.visual\.transformer\.resblocks\.(\d+)\.attn\."
_LINGUISTIC, _VISUAL = "ssp.linguistic_attention_adapter.", "ssp.visual_attention_adapter."
_GENERATOR = "ssp.prompt_generator."
_GENERATOR_LAYER = r"vl_transformer\.encoder\.layers\.(\d+)\."

# patterns of the authors' names with the library's names; the first pattern that matches the whole name counts
_RENAMED: Final = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (_VISION_ATTENTION + r"qkv\.(weight|bias)", r"clip.visual.transformer.resblocks.\1.attn.in_proj_\2"),
        (_VISION_ATTENTION + r"proj\.(weight|bias)", r"clip.visual.transformer.resblocks.\1.attn.out_proj.\2"),
        (r"encoder\.visual\.(.+)", r"clip.visual.\1"),
        (
            r"encoder\.((?:transformer|token_embedding|ln_final)\..+|positional_embedding|text_projection)",
            r"clip.text.\1",
        ),
        (r"(sam\..+)", r"\1"),
        (r"clip_proj\.(.+)", _LINGUISTIC + r"word_projection.\1"),
        (r"text_proj\.(.+)", _LINGUISTIC + r"gru.\1"),
        (r"phrase_attn\.fc\.(.+)", _LINGUISTIC + r"score.\1"),
        (r"clip_img_proj\.(.+)", _VISUAL + r"image_projection.\1"),
        (r"img2text_attn\.(.+)", _VISUAL + r"word_attention.\1"),
        (r"img_proj\.layers\.0\.(.+)", _VISUAL + r"verify_image.\1"),
        (r"imgtext_proj\.layers\.0\.(.+)", _VISUAL + r"verify_words.\1"),
        (r"norm_img\.(.+)", _VISUAL + r"norm.\1"),
        (r"tf_(scale|sigma)", _VISUAL + r"\1"),
        (r"mlp\.(.+)", r"ssp.fusion.\1"),
        (r"reg_token\.(.+)", _GENERATOR + r"box_token.\1"),
        (r"prompt_token\.(.+)", _GENERATOR + r"prompt_tokens.\1"),
        (r"vl_pos_embed\.(.+)", _GENERATOR + r"position.\1"),
        (_GENERATOR_LAYER + r"self_attn\.(.+)", _GENERATOR + r"layers.\1.attention.\2"),
        (_GENERATOR_LAYER + r"linear1\.(.+)", _GENERATOR + r"layers.\1.mlp.layers.0.\2"),
        (_GENERATOR_LAYER + r"linear2\.(.+)", _GENERATOR + r"layers.\1.mlp.layers.1.\2"),
        (_GENERATOR_LAYER + r"(norm[12]\..+)", _GENERATOR + r"layers.\1.\2"),
        (r"norm\.(.+)", _GENERATOR + r"norm.\1"),
        (r"bbox_embed\.(.+)", r"ssp.box_head.\1"),
    )
)

_UNUSED: Final = {
    r"encoder\.visual\.attn\.(qkv|proj)\.(weight|bias)": "a second copy of one vision block's attention",
    r"encoder\.logit_scale": "CLIP's temperature, which only its training loss uses",
    r"img2img_attn\..+": "a module that the authors' code never calls",
    r"norm_text_cond_img\..+": "a module that the authors' code never calls",
}


def unused(names: Iterable[str]) -> dict[str, str]:
    """Return the authors' tensors that are not used in the computation, each with the reason."""
    return {name: reason for name in names for pattern, reason in _UNUSED.items() if re.fullmatch(pattern, name)}


def our_name(name: str) -> str | None:
    """Return the library's name for one of the authors' tensors; None if it is not known."""
    for pattern, replacement in _RENAMED:
        match = pattern.fullmatch(name)
        if match:
            return match.expand(replacement)
    return None


def read_architecture(shapes: Mapping[str, Shape]) -> Architecture:
    """Infer every dimension of an authors' checkpoint from the shapes of its tensors.

    Numbers of attention heads and a few others have no trace in the shapes; they follow from the widths, or are the
    authors' own.

    Args:
        shapes: by the authors' names.

    Raises:
        CheckpointError: a tensor that determines a dimension is missing, or has an impossible shape.
    """
    reader = _ShapeReader(shapes)
    try:
        return Architecture(reader.clip(), reader.sam(), reader.ssp())
    except ConfigError as error:
        raise CheckpointError(f"the checkpoint's shapes make no possible model: {error}") from error


class _ShapeReader:
    """Reads the dimensions of each part of the model from the shapes of an authors' checkpoint."""

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self.shapes = shapes

    def size(self, name: str, dimension: int, rank: int) -> int:
        """One dimension of a tensor that must have `rank` dimensions."""
        shape = self.shapes.get(name)
        if shape is None:
            raise CheckpointError(f"the checkpoint has no tensor {name!r}; it is not a complete SSP-SAM checkpoint")
        if len(shape) != rank:
            raise CheckpointError(f"tensor {name!r} has shape {shown(list(shape))}; {rank} dimensions were expected")
        if shape[dimension] < 1:
            raise CheckpointError(f"tensor {name!r} is empty: its shape is {shown(list(shape))}")
        return shape[dimension]

    def count(self, prefix: str) -> int:
        """The number of numbered parts `prefix`0, `prefix`1, ..."""
        pattern = re.compile(re.escape(prefix) + r"(\d{1,6})\.")
        numbers = {int(match[1]) for match in map(pattern.match, self.shapes) if match}
        if numbers != set(range(len(numbers))):
            raise CheckpointError(f"the parts {prefix}* are not numbered without a gap: {sorted(numbers)[:20]}")
        return len(numbers)

    def grid_side(self, name: str, patches: int) -> int:
        """The side of the square grid of that many patches; `name` is the tensor that tells their number."""
        side = math.isqrt(max(0, patches))
        if side * side != patches:
            raise CheckpointError(f"tensor {name!r} has {patches} positions for patches, which is no square grid")
        return side

    def clip(self) -> CLIPConfig:
        visual, position = "encoder.visual.", "encoder.visual.positional_embedding"
        blocks = visual + "transformer.resblocks."
        width, patch = self.size(visual + "conv1.weight", 0, 4), self.size(visual + "conv1.weight", 2, 4)
        layers, text_width = self.count(blocks), self.size("encoder.ln_final.weight", 0, 1)
        rewritten = [index for index in range(layers) if f"{blocks}{index}.attn.qkv.weight" in self.shapes]
        if rewritten and rewritten != list(range(rewritten[0], layers)):
            raise CheckpointError(f"vision blocks {rewritten} are rewritten by surgery; only the last blocks can be")
        return CLIPConfig(
            image_size=patch * self.grid_side(position, self.size(position, 0, 2) - 1),
            patch_size=patch,
            vision_width=width,
            vision_layers=layers,
            vision_heads=max(1, width // 64),
            vision_mlp_width=self.size(blocks + "0.mlp.c_fc.weight", 0, 2),
            surgery_layers=len(rewritten) or 6,  # none if saved before the first forward pass: then the authors' number
            embed_dim=self.size("encoder.text_projection", 1, 2),
            text_width=text_width,
            text_layers=self.count("encoder.transformer.resblocks."),
            text_heads=max(1, text_width // 64),
            text_mlp_width=self.size("encoder.transformer.resblocks.0.mlp.c_fc.weight", 0, 2),
            context_length=self.size("encoder.positional_embedding", 0, 2),
            vocab_size=self.size("encoder.token_embedding.weight", 0, 2),
        )

    def sam(self) -> SAMConfig:
        encoder, decoder = "sam.image_encoder.", "sam.mask_decoder."
        grid, patch = self.size(encoder + "pos_embed", 1, 4), self.size(encoder + "patch_embed.proj.weight", 2, 4)
        layers, width = self.count(encoder + "blocks."), self.size(encoder + "pos_embed", 3, 4)
        # a block has 2 * side - 1 relative positions, where side is that of the grid or of its windows
        positions = [self.size(f"{encoder}blocks.{index}.attn.rel_pos_h", 0, 2) for index in range(layers)]
        windows = sorted({(rows + 1) // 2 for rows in positions if rows != 2 * grid - 1})
        if len(windows) > 1:
            raise CheckpointError(f"SAM's blocks have windows of several sizes: {windows}")
        prompt_width = self.size("sam.prompt_encoder.no_mask_embed.weight", 1, 2)
        cross = decoder + "transformer.layers.0.cross_attn_token_to_image.q_proj.weight"
        return SAMConfig(
            image_size=grid * patch,
            patch_size=patch,
            width=width,
            layers=layers,
            heads=max(1, width // max(1, self.size(encoder + "blocks.0.attn.rel_pos_h", 1, 2))),
            mlp_width=self.size(encoder + "blocks.0.mlp.lin1.weight", 0, 2),
            window_size=windows[0] if windows else 14,
            global_blocks=tuple(index for index, rows in enumerate(positions) if rows == 2 * grid - 1),
            prompt_width=prompt_width,
            mask_channels=self.size("sam.prompt_encoder.mask_downscaling.3.weight", 0, 4),
            decoder_layers=self.count(decoder + "transformer.layers."),
            decoder_mlp_width=self.size(decoder + "transformer.layers.0.mlp.lin1.weight", 0, 2),
            decoder_attention_downsample=max(1, prompt_width // max(1, self.size(cross, 0, 2))),
            mask_tokens=self.size(decoder + "mask_tokens.weight", 0, 2),
            iou_head_layers=self.count(decoder + "iou_prediction_head.layers."),
            iou_head_width=self.size(decoder + "iou_prediction_head.layers.0.weight", 0, 2),
        )

    def ssp(self) -> SSPConfig:
        return SSPConfig(
            hidden_width=self.size("clip_proj.weight", 0, 2),
            image_projection_layers=self.count("clip_img_proj.layers."),
            prompts=self.size("prompt_token.weight", 0, 2),
            generator_layers=self.count("vl_transformer.encoder.layers."),
            generator_mlp_width=self.size("vl_transformer.encoder.layers.0.linear1.weight", 0, 2),
            box_head_layers=self.count("bbox_embed.layers."),
        )
