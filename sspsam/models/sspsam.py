"""The whole network: CLIP and SAM look at a picture once, then any number of expressions ask about it."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sspsam.config import Architecture
from sspsam.errors import NumericalError
from sspsam.models.clip import CLIPWithSurgery
from sspsam.models.layers import compute_by_linear
from sspsam.models.mask_decoder import DecoderImage
from sspsam.models.sam import SAM
from sspsam.models.ssp_encoder import LinguisticFeatures, SSPEncoder


class ImageFeatures(NamedTuple):
    """All that the model keeps of one picture."""

    clip: Tensor  # (G*G, C)
    sam: Tensor  # (D, g, g)


class PreparedImage(NamedTuple):
    """What every expression about a picture begins with; made from `ImageFeatures`, needed by no file."""

    clip: Tensor  # (G*G, C)
    projected: Tensor  # (G*G, H)
    decoder: DecoderImage


class ExpressionFeatures(NamedTuple):
    """All that the model keeps of E expressions; it depends on no picture."""

    padding: Tensor  # (E, L) bool, True where there is no word
    clip_sentence: Tensor  # (E, C)
    words: Tensor  # (E, L, H)
    word_attention: Tensor  # (E, L)
    sentence: Tensor  # (E, H)

    def split(self) -> list["ExpressionFeatures"]:
        """One `ExpressionFeatures` of one row for each of the E."""
        return [
            ExpressionFeatures(*rows)
            for rows in zip(*(torch.chunk(tensor, len(tensor)) for tensor in self), strict=True)
        ]

    @staticmethod
    def join(parts: Sequence["ExpressionFeatures"]) -> "ExpressionFeatures":
        """Several as one, in order."""
        return ExpressionFeatures(*(torch.cat(rows) for rows in zip(*parts, strict=True)))


class Prediction(NamedTuple):
    """What the network answers to E expressions on one picture."""

    low_res: Tensor  # (E, M, M) logits in SAM's padded frame
    iou: Tensor  # (E,) SAM's own estimate of the mask's IoU
    box: Tensor  # (E, 4) centre x, centre y, width, height, as fractions of CLIP's padded canvas
    prompts: Tensor  # (E, P, D)
    similarity: Tensor  # (E, G, G)
    word_attention: Tensor  # (E, L)
    verification: Tensor  # (E, G, G)


class SSPSAM(nn.Module):
    """SSP-SAM, randomly initialised; `sspsam.checkpoint` fills it with weights.

    Args:
        config: every dimension.
    """

    def __init__(self, config: Architecture) -> None:
        super().__init__()
        self.config = config
        self.clip = CLIPWithSurgery(config.clip)
        self.sam = SAM(config.sam)
        self.ssp = SSPEncoder(config)
        compute_by_linear(self)

    def encode_image(self, clip_input: Tensor, sam_input: Tensor) -> list[ImageFeatures]:
        """Look at B pictures.

        Args:
            clip_input: (B, 3, S, S), normalised and padded for CLIP.
            sam_input: (B, 3, image size, image size), normalised and padded for SAM.

        Returns:
            One `ImageFeatures` a picture.
        """
        clip, sam = self.clip.encode_image(clip_input), self.sam.encode_image(sam_input)
        return [ImageFeatures(*pair) for pair in zip(clip, sam, strict=True)]

    def encode_text(self, token_ids: Tensor) -> ExpressionFeatures:
        """Read E expressions, given as (E, L) token ids with 0 for padding."""
        padding = token_ids == 0
        text = self.clip.encode_text(token_ids)
        language = self.ssp.linguistic_attention_adapter(text.words, padding)
        return ExpressionFeatures(padding, text.sentence, *language)

    def prepare(self, image: ImageFeatures) -> PreparedImage:
        """Do once what is the same for every expression about a picture."""
        projected = self.ssp.visual_attention_adapter.project(image.clip)
        return PreparedImage(image.clip, projected, self.sam.prepare(image.sam))

    def segment(self, image: PreparedImage, expressions: ExpressionFeatures) -> Prediction:
        """Answer E expressions, from `encode_text`, about one picture, from `prepare`."""
        language = LinguisticFeatures(expressions.words, expressions.word_attention, expressions.sentence)
        ssp = self.ssp(image.clip, image.projected, expressions.clip_sentence, language, expressions.padding)
        low_res, iou = self.sam.decode(image.decoder, ssp.prompts)
        grid = (self.config.clip.grid, self.config.clip.grid)
        return Prediction(
            low_res=low_res,
            iou=iou,
            box=ssp.box,
            prompts=ssp.prompts,
            similarity=ssp.similarity.unflatten(-1, grid),
            word_attention=expressions.word_attention,
            verification=ssp.verification.unflatten(-1, grid),
        )


def require_finite(what: str, *tensors: Tensor) -> None:
    """Refuse numbers that are not finite: they would pass for an empty mask."""
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise NumericalError(
            f"{what} came out with values that are not finite. The weights are damaged, or the precision is too low: "
            "load the model with verify=True and dtype='float32'."
        )
