"""The forward pass of a step: stored embeddings of several images, and expressions about each of them."""

from typing import NamedTuple

from torch import Tensor

from sspsam.models import SSPSAM, ExpressionFeatures, SSPOutput
from sspsam.models.attention_adapters import LinguisticFeatures
from sspsam.models.mask_decoder import DecoderImage
from sspsam.models.transformer import ImageProjections


class Features(NamedTuple):
    """Stored embeddings of B images."""

    clip: Tensor  # (B, G*G, C)
    sam: Tensor  # (B, D, g, g)


class Output(NamedTuple):
    """Output of the network for E expressions."""

    low_res: Tensor  # (E, M, M) mask logits
    box: Tensor  # (E, 4) centre x, centre y, width, height, as fractions of CLIP's square


def segment_pairs(model: SSPSAM, features: Features, image: Tensor, expressions: ExpressionFeatures) -> Output:
    """Segment E pairs of an image and an expression, as `SSPSAM.segment` does for one image.

    Args:
        model: the network.
        features: of B images.
        image: (E,) index of the image of each expression.
        expressions: of E expressions.
    """
    ssp = ssp_output(model, features.clip, expressions, image)
    low_res, _ = model.sam.decode(decoder_images(model, features.sam, image), ssp.prompts)
    return Output(low_res, ssp.box)


def ssp_output(model: SSPSAM, clip: Tensor, expressions: ExpressionFeatures, image: Tensor) -> SSPOutput:
    """Run the SSP encoder as `SSPSAM.segment` does, on the image of each expression.

    Args:
        model: the network.
        clip: (B, G*G, C) CLIP's patch features.
        expressions: features of E expressions.
        image: (E,) index of the image of each expression.
    """
    projected = model.ssp.visual_attention_adapter.project(clip)  # (B, G*G, H)
    language = LinguisticFeatures(expressions.words, expressions.word_attention, expressions.sentence)
    images = clip.index_select(0, image), projected.index_select(0, image)  # (E, G*G, C), (E, G*G, H)
    output: SSPOutput = model.ssp(*images, expressions.clip_sentence, language, expressions.padding)
    return output


def decoder_images(model: SSPSAM, embeddings: Tensor, image: Tensor) -> DecoderImage:
    """Compute what `MaskDecoder.prepare` does, for the image of each expression.

    Args:
        model: the network.
        embeddings: (B, D, g, g) of all images.
        image: (E,) index of the image of each expression.

    Returns:
        The decoder's input with E instead of one set of image tokens.
    """
    encoder, transformer = model.sam.prompt_encoder, model.sam.mask_decoder.transformer
    tokens = embeddings.flatten(2).transpose(1, 2) + encoder.no_mask_embed.weight  # (B, N, D)
    position = encoder.get_dense_pe().flatten(2).squeeze(0).T.contiguous()  # (N, D)
    projections = transformer.project_image(tokens, position)  # (B, N, d) each
    by_expression = ImageProjections(*(x.index_select(0, image) for x in projections))
    return DecoderImage(tokens.index_select(0, image), position, by_expression)
