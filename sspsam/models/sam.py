"""Segment Anything from its stock modules: the image encoder, and the mask decoder fed with our prompts (section 4)."""

from functools import partial

import torch
from torch import Tensor, nn

from sspsam._stock import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from sspsam.config import SAMConfig


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
        embedding: Tensor = self.image_encoder(sam_input)
        return embedding

    def decode(self, embedding: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Masks from prompt tokens, without points, boxes or mask prompts.

        Args:
            embedding: (D, g, g) of one picture.
            prompts: (E, P, D), one set of sparse prompt embeddings for each expression.

        Returns:
            Low-resolution logits (E, M, M) and SAM's predicted IoU (E,), both of mask token 0.
        """
        low_res, iou = self.mask_decoder(
            image_embeddings=embedding.unsqueeze(0),
            image_pe=self.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=prompts,
            dense_prompt_embeddings=self.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(
                len(prompts), -1, *embedding.shape[-2:]
            ),
            multimask_output=False,
        )
        return torch.squeeze(low_res, 1), torch.squeeze(iou, 1)
