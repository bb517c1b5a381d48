"""Segment Anything: the image encoder, the prompt encoder and the mask decoder (docs/method.md, section 4)."""

from torch import Tensor, nn

from sspsam.config import SAMConfig
from sspsam.models.image_encoder import ImageEncoderViT
from sspsam.models.mask_decoder import DecoderImage, MaskDecoder
from sspsam.models.stock import PromptEncoder


class SAM(nn.Module):
    """SAM's image encoder, prompt encoder and mask decoder.

    Args:
        config: dimensions.
    """

    def __init__(self, config: SAMConfig) -> None:
        super().__init__()
        self.image_encoder = ImageEncoderViT(config)
        self.prompt_encoder = PromptEncoder(
            embed_dim=config.prompt_width,
            image_embedding_size=(config.grid, config.grid),
            input_image_size=(config.image_size, config.image_size),
            mask_in_chans=config.mask_channels,
        )
        self.mask_decoder = MaskDecoder(config)

    def encode_image(self, sam_input: Tensor) -> Tensor:
        """(B, 3, R, R) normalised and padded images -> (B, D, g, g) embeddings."""
        embeddings: Tensor = self.image_encoder(sam_input)
        return embeddings

    def prepare(self, embedding: Tensor) -> DecoderImage:
        """Compute what the decoder needs of one image, (D, g, g), whatever the prompts are."""
        no_mask = self.prompt_encoder.no_mask_embed.weight  # (1, D)
        return self.mask_decoder.prepare(embedding, self.prompt_encoder.get_dense_pe(), no_mask)

    def decode(self, image: DecoderImage, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Decode masks from prompt tokens, without points, boxes or mask prompts.

        Args:
            image: from `prepare`.
            prompts: (E, P, D) sparse prompt embeddings, one set for each expression.

        Returns:
            Low-resolution logits (E, M, M) and SAM's predicted IoU (E,), both of mask token 0.
        """
        low_res, iou = self.mask_decoder(image, prompts)
        return low_res, iou
