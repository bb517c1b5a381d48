"""Segment Anything from its stock modules: the image encoder, and the mask decoder fed with our prompts (section 4)."""

from functools import partial

from torch import Tensor, nn

from sspsam.config import SAMConfig
from sspsam.models.image_encoder import encode_image
from sspsam.models.mask_decoder import DecoderImage, decode, prepare
from sspsam.models.stock import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer


class SAM(nn.Module):
    """SAM's image encoder, prompt encoder and mask decoder.

    Args:
        config: dimensions.
    """

    def __init__(self, config: SAMConfig) -> None:
        super().__init__()
        self.image_encoder = ImageEncoderViT(
            img_size=config.image_size,
            patch_size=config.patch_size,
            embed_dim=config.width,
            depth=config.layers,
            num_heads=config.heads,
            mlp_ratio=(config.mlp_width + 0.5) / config.width,  # truncated by the stock code; the half keeps it exact
            out_chans=config.prompt_width,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=config.window_size,
            global_attn_indexes=config.global_blocks,
        )
        self.prompt_encoder = PromptEncoder(
            embed_dim=config.prompt_width,
            image_embedding_size=(config.grid, config.grid),
            input_image_size=(config.image_size, config.image_size),
            mask_in_chans=config.mask_channels,
        )
        self.mask_decoder = MaskDecoder(
            num_multimask_outputs=config.mask_tokens - 1,
            transformer=TwoWayTransformer(
                depth=config.decoder_layers,
                embedding_dim=config.prompt_width,
                mlp_dim=config.decoder_mlp_width,
                num_heads=config.decoder_heads,
                attention_downsample_rate=config.decoder_attention_downsample,
            ),
            transformer_dim=config.prompt_width,
            iou_head_depth=config.iou_head_layers,
            iou_head_hidden_dim=config.iou_head_width,
        )

    def encode_image(self, sam_input: Tensor) -> Tensor:
        """(B, 3, image size, image size) normalised and padded pictures -> (B, D, g, g) embeddings."""
        return encode_image(self.image_encoder, sam_input)

    def prepare(self, embedding: Tensor) -> DecoderImage:
        """What the decoder makes of the (D, g, g) embedding of one picture, whatever the prompts."""
        no_mask = self.prompt_encoder.no_mask_embed.weight
        return prepare(self.mask_decoder, embedding, self.prompt_encoder.get_dense_pe(), no_mask)

    def decode(self, image: DecoderImage, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Masks from prompt tokens, without points, boxes or mask prompts.

        Args:
            image: from `prepare`.
            prompts: (E, P, D), one set of sparse prompt embeddings for each expression.

        Returns:
            Low-resolution logits (E, M, M) and SAM's predicted IoU (E,), both of mask token 0.
        """
        return decode(self.mask_decoder, image, prompts)
