"""The whole network: CLIP and SAM encode an image once, then the network segments it for any number of expressions."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sspsam.config import Architecture
from sspsam.models.attention_adapters import LinguisticFeatures
from sspsam.models.clip import CLIPWithSurgery
from sspsam.models.mask_decoder import DecoderImage
from sspsam.models.sam import SAM
from sspsam.models.ssp_encoder import SSPEncoder


class ImageFeatures(NamedTuple):
    """The features of one image; an `ImageEmbedding` stores them."""

    clip: Tensor  # (G*G, C)
    sam: Tensor  # (D, g, g)


class PreparedImage(NamedTuple):
    """The features of one image, and all else that does not depend on the expression; computed from `ImageFeatures`."""

    clip: Tensor  # (G*G, C)
    projected: Tensor  # (G*G, H), from `VisualAttentionAdapter.project`
    decoder: DecoderImage


class ExpressionFeatures(NamedTuple):
    """The features of E expressions; they depend on no image."""

    padding: Tensor  # (E, L) bool, True at padding
    clip_sentence: Tensor  # (E, C)
    words: Tensor  # (E, L, H)
    word_attention: Tensor  # (E, L)
    sentence: Tensor  # (E, H)

    def split(self) -> list["ExpressionFeatures"]:
        """Return the E rows, each as `ExpressionFeatures` of one row."""
        return [
            ExpressionFeatures(*rows)
            for rows in zip(*(torch.chunk(tensor, len(tensor)) for tensor in self), strict=True)
        ]

    @staticmethod
    def join(parts: Sequence["ExpressionFeatures"]) -> "ExpressionFeatures":
        """Concatenate the rows of several `ExpressionFeatures`, in order."""
        if len(parts) == 1:
            return parts[0]
        return ExpressionFeatures(*(torch.cat(rows) for rows in zip(*parts, strict=True)))


class Prediction(NamedTuple):
    """The output of the network for E expressions and one image."""

    low_res: Tensor  # (E, M, M) logits in SAM's square
    iou: Tensor  # (E,) SAM's own estimate of the mask's IoU
    box: Tensor  # (E, 4) centre x, centre y, width, height, as fractions of CLIP's square
    prompts: Tensor  # (E, P, D)
    similarity: Tensor  # (E, G, G)
    word_attention: Tensor  # (E, L)
    verification: Tensor  # (E, G, G)


class SSPSAM(nn.Module):
    """SSP-SAM, randomly initialised; `sspsam.checkpoints.format.load_checkpoint` loads its weights.

    Args:
        config: every dimension.
    """

    def __init__(self, config: Architecture) -> None:
        super().__init__()
        self.config = config
        self._grid = (config.clip.grid, config.clip.grid)
        self.clip = CLIPWithSurgery(config.clip)
        self.sam = SAM(config.sam)
        self.ssp = SSPEncoder(config)

    def encode_image(self, clip_input: Tensor, sam_input: Tensor) -> list[ImageFeatures]:
        """Encode B images.

        Args:
            clip_input: (B, 3, S, S), normalised and padded for CLIP.
            sam_input: (B, 3, R, R), normalised and padded for SAM.

        Returns:
            One `ImageFeatures` for each image.
        """
        clip = self.clip.encode_image(clip_input)  # (B, G*G, C)
        sam = self.sam.encode_image(sam_input)  # (B, D, g, g)
        return [ImageFeatures(*pair) for pair in zip(clip, sam, strict=True)]

    def encode_text(self, token_ids: Tensor) -> ExpressionFeatures:
        """Encode E expressions.

        Args:
            token_ids: (E, L) integers, 0 = padding.
        """
        padding = token_ids == 0  # (E, L)
        text = self.clip.encode_text(token_ids)
        language = self.ssp.linguistic_attention_adapter(text.words, padding)
        return ExpressionFeatures(padding, text.sentence, *language)

    def prepare(self, image: ImageFeatures) -> PreparedImage:
        """Compute once what is the same for every expression."""
        projected = self.ssp.visual_attention_adapter.project(image.clip)
        return PreparedImage(image.clip, projected, self.sam.prepare(image.sam))

    def segment(self, image: PreparedImage, expressions: ExpressionFeatures) -> Prediction:
        """Segment one image for E expressions.

        Args:
            image: from `prepare`.
            expressions: from `encode_text`.
        """
        language = LinguisticFeatures(expressions.words, expressions.word_attention, expressions.sentence)
        ssp = self.ssp(image.clip, image.projected, expressions.clip_sentence, language, expressions.padding)
        low_res, iou = self.sam.decode(image.decoder, ssp.prompts)
        return Prediction(
            low_res=low_res,
            iou=iou,
            box=ssp.box,
            prompts=ssp.prompts,
            similarity=ssp.similarity.unflatten(-1, self._grid),
            word_attention=expressions.word_attention,
            verification=ssp.verification.unflatten(-1, self._grid),
        )
