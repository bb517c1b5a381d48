"""From the network's numbers about one expression to the `Segmentation` that a user gets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sspsam.config import ModelConfig, check_mask_threshold, check_no_target_pixels
from sspsam.images.embedding import ImageEmbedding
from sspsam.images.preprocessing import Geometry
from sspsam.models import Prediction
from sspsam.models.sspsam import require_finite
from sspsam.segmentation.postprocessing import (
    box_of_mask,
    box_on_picture,
    foreground_pixels,
    logits_on_picture,
    threshold_logit,
)
from sspsam.segmentation.result import Explanation, Segmentation
from sspsam.text.encoder import EncodedExpression
from sspsam.text.tokenizer import Word

ReturnLogits = Literal["low_res", "full"]


@dataclass(frozen=True)
class PredictOptions:
    """What `predict` was asked for, checked and with the model's defaults filled in."""

    threshold: float  # a logit
    no_target_pixels: int
    return_logits: ReturnLogits | None
    explain: bool

    @classmethod
    def checked(
        cls,
        config: ModelConfig,
        mask_threshold: float | None,
        no_target_pixels: int | None,
        return_logits: ReturnLogits | None,
        explain: bool,
    ) -> "PredictOptions":
        """The options as `SSPSAMPredictor.predict` describes them; None means the configuration's value."""
        if mask_threshold is None:
            mask_threshold = config.postprocessing.mask_threshold
        if no_target_pixels is None:
            no_target_pixels = config.postprocessing.no_target_pixels
        check_mask_threshold(mask_threshold)
        check_no_target_pixels(no_target_pixels)
        if return_logits not in (None, "low_res", "full"):
            raise ValueError(f'return_logits is None, "low_res" or "full", not {return_logits!r}')
        return cls(threshold_logit(float(mask_threshold)), int(no_target_pixels), return_logits, explain)


def to_segmentation(
    expression: EncodedExpression,
    words: Sequence[Word],
    prediction: Prediction,
    row: int,
    embedding: ImageEmbedding,
    config: ModelConfig,
    options: PredictOptions,
) -> Segmentation:
    """The answer in one row of a prediction.

    Args:
        expression: that was asked.
        words: of it, for the explanation.
        prediction: about several expressions.
        row: of this expression.
        embedding: of the picture.
        config: of the model.
        options: what was asked for.

    Raises:
        NumericalError: the numbers are not finite.
    """
    clip_size, sam_size = config.architecture.clip.image_size, config.architecture.sam.image_size
    geometry = Geometry.of(embedding.height, embedding.width, clip_size, sam_size)
    low_res = prediction.low_res[row : row + 1]  # (1, M, M)
    require_finite(f"the answer to {expression.text[:60]!r}", low_res, prediction.iou[row], prediction.box[row])
    foreground = int(foreground_pixels(low_res, sam_size, config.postprocessing.no_target_frame))
    no_target = foreground < options.no_target_pixels
    logits = None
    mask = np.zeros((embedding.height, embedding.width), dtype=np.bool_)
    if not no_target or options.return_logits == "full":
        full = logits_on_picture(low_res, geometry, sam_size)[0]  # (h, w)
        if not no_target:
            mask = (full >= options.threshold).cpu().numpy()
        logits = _array(full) if options.return_logits == "full" else None
    return Segmentation(
        text=expression.text,
        mask=mask,
        no_target=no_target,
        foreground_pixels=foreground,
        score=float(prediction.iou[row]),
        box=box_on_picture(prediction.box[row].double().cpu().numpy(), geometry, clip_size),
        mask_box=box_of_mask(mask),
        low_res_logits=_array(low_res[0]) if options.return_logits == "low_res" else None,
        logits=logits,
        explanation=_explanation(words, prediction, row) if options.explain else None,
        pixels=embedding.pixels,
    )


def _explanation(words: Sequence[Word], prediction: Prediction, row: int) -> Explanation:
    attention = _array(prediction.word_attention[row])
    return Explanation(
        similarity=_array(prediction.similarity[row]),
        word_attention=attention,
        words=tuple((word.text, float(attention[word.start : word.stop].sum())) for word in words),
        verification=_array(prediction.verification[row]),
    )


def _array(tensor: Tensor) -> NDArray[np.float32]:
    """A float32 array of its own; it keeps no larger tensor alive."""
    array: NDArray[np.float32] = tensor.float().cpu().numpy().copy()
    return array
