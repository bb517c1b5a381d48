"""Options of `predict` -> checked settings; prediction and answer in host memory -> `Segmentation`."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Self, TypedDict

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sspsam.config import ModelConfig, check_mask_threshold, check_no_target_pixels
from sspsam.devices import not_finite
from sspsam.errors import ConfigError
from sspsam.images.loading import DEFAULT_MAX_PIXELS, Pixels
from sspsam.images.preprocessing import Geometry
from sspsam.messages import OptionMessage, Wording, message_of, option
from sspsam.models import Prediction
from sspsam.segmentation.features import FEATURES
from sspsam.segmentation.postprocessing import box_on_image, logits_on_image, threshold_logit
from sspsam.segmentation.result import Explanation, Segmentation
from sspsam.segmentation.transfer import HostAnswer
from sspsam.text.encoder import TokenizedExpression
from sspsam.text.tokenizer import Word
from sspsam.utils.arguments import real_number, true_or_false, whole_number
from sspsam.utils.paths import shown_repr

ReturnLogits = Literal["low_res", "full"]
_GIVE_CALIBRATION: Final = Wording(
    "pass calibration=FILE to from_pretrained (command line: --calibration FILE)", "give --calibration FILE"
)


class PredictOptions(TypedDict, total=False):
    """Keyword arguments that `predict` and `predict_batch` share.

    Args:
        mask_threshold: probability from which a pixel is foreground; None: the model's (0.5).
        no_target_pixels: fewer foreground pixels mean no target; None: the model's (50). They are counted at
            probability 0.5 in the authors' frame of 512 x 512, whatever `mask_threshold` is.
        return_logits: `"low_res"` or `"full"` to return logits as well.
        explain: whether to return the model's maps and word weights as well.
        presence_threshold: probability of presence from which an expression has a target, instead of the rule about
            pixels; it needs a model with a calibration. None: the rule about pixels.
        return_features: whether to return the numbers that a calibration uses as well.
        max_pixels: largest width times height of an image, checked before decoding.
    """

    mask_threshold: float | None
    no_target_pixels: int | None
    presence_threshold: float | None
    return_features: bool
    return_logits: ReturnLogits | None
    explain: bool
    max_pixels: int


@dataclass(frozen=True)
class AnswerSettings:
    """Checked `PredictOptions`, with the model's defaults filled in."""

    threshold: float  # a logit
    no_target_pixels: int
    return_logits: ReturnLogits | None
    explain: bool
    max_pixels: int
    presence_threshold: float | None
    return_features: bool

    @classmethod
    def of(
        cls,
        config: ModelConfig,
        options: PredictOptions,
        unnamed: tuple[object, ...] = (),
        *,
        calibrated: bool = False,
    ) -> Self:
        """Check options; None stands for the configuration's value.

        Args:
            config: of the model.
            options: of `predict`.
            unnamed: surplus arguments of `predict` without a name, such as an image; any is an error.
            calibrated: whether the model has a calibration, which `presence_threshold` needs.

        Raises:
            TypeError: an option without a name, of an unknown name or of a wrong type.
            ConfigError, ValueError: a value out of range.
        """
        if unnamed:
            raise TypeError("predict() takes only the texts without a name: write predict(texts, image=image)")
        unknown = [name for name in options if name not in PredictOptions.__annotations__]
        if unknown:
            near = difflib.get_close_matches(unknown[0], PredictOptions.__annotations__, n=1)
            hint = (
                f"; did you mean {near[0]!r}?" if near else f"; options are {', '.join(PredictOptions.__annotations__)}"
            )
            raise TypeError(f"there is no option {shown_repr(unknown[0])}{hint}")
        presence_threshold = _presence_threshold(options, calibrated)
        mask_threshold, no_target_pixels = options.get("mask_threshold"), options.get("no_target_pixels")
        if mask_threshold is None:
            mask_threshold = config.postprocessing.mask_threshold
        else:
            check_mask_threshold(mask_threshold)
        if no_target_pixels is None:
            no_target_pixels = config.postprocessing.no_target_pixels
        else:
            check_no_target_pixels(no_target_pixels)
        return_logits = options.get("return_logits")
        if return_logits is not None and not (isinstance(return_logits, str) and return_logits in ("low_res", "full")):
            raise ValueError(f'return_logits must be None, "low_res" or "full", not {shown_repr(return_logits)}')
        return cls(
            threshold_logit(float(mask_threshold)),
            int(no_target_pixels),
            return_logits,
            true_or_false("explain", options.get("explain", False)),
            whole_number("max_pixels", options["max_pixels"], 1) if "max_pixels" in options else DEFAULT_MAX_PIXELS,
            presence_threshold,
            true_or_false("return_features", options.get("return_features", False)),
        )


def _presence_threshold(options: PredictOptions, calibrated: bool) -> float | None:
    """Return the checked option; it excludes `no_target_pixels`, since both are the no-target rule."""
    value = options.get("presence_threshold")
    if value is None:
        return None
    if options.get("no_target_pixels") is not None:
        raise ConfigError(
            OptionMessage(
                option("no_target_pixels"),
                " and ",
                option("presence_threshold"),
                " are two rules for no target: give one of them",
            )
        )
    try:
        threshold = real_number("presence_threshold", value, 0, 1)
    except ValueError as error:
        raise ConfigError(message_of(error)) from None
    if not calibrated:
        raise ConfigError(
            OptionMessage(
                option("presence_threshold"),
                " needs a calibration, and this model has none: make one from labelled data with sspsam calibrate and ",
                _GIVE_CALIBRATION,
                ", or leave out ",
                option("presence_threshold"),
            )
        )
    return threshold


def to_segmentation(
    expression: TokenizedExpression,
    answer: HostAnswer,
    prediction: Prediction,
    row: int,
    words: Sequence[Word],
    geometry: Geometry,
    pixels: Pixels | None,
    config: ModelConfig,
    settings: AnswerSettings,
) -> Segmentation:
    """Return the answer to one expression.

    Args:
        expression: of the answer.
        answer: its numbers and its mask.
        prediction: of all expressions, for logits and maps.
        row: of the expression in the prediction.
        words: of the expression, for its explanation.
        geometry: of the image.
        pixels: of the image, if they are known.
        config: of the model.
        settings: see `PredictOptions`.

    Raises:
        NumericalError: the answer is not finite.
    """
    if not answer.finite:
        raise not_finite(f"the answer to {expression.text[:60]!r}")
    sam_size, clip_size = config.architecture.sam.image_size, config.architecture.clip.image_size
    low_res = prediction.low_res[row : row + 1]  # (1, M, M)
    full_size = settings.return_logits == "full"
    return Segmentation(
        text=expression.text,
        mask=answer.mask,
        no_target=answer.no_target,
        foreground_pixels=answer.foreground_pixels,
        score=answer.score,
        box=box_on_image(answer.box, geometry, clip_size),
        mask_box=answer.mask_box,
        low_res_logits=_array(low_res[0]) if settings.return_logits == "low_res" else None,
        logits=_array(logits_on_image(low_res, geometry, sam_size)[0]) if full_size else None,
        explanation=_explanation(words, prediction, row, geometry, pixels) if settings.explain else None,
        pixels=pixels,
        text_truncated=expression.cut_off,
        box_fractions=answer.box if settings.return_logits == "low_res" else None,
        presence=answer.presence,
        features=_features(answer) if settings.return_features else None,
    )


def _features(answer: HostAnswer) -> dict[str, float] | None:
    return None if answer.features is None else dict(zip(FEATURES, answer.features.tolist(), strict=True))


def _explanation(
    words: Sequence[Word], prediction: Prediction, row: int, geometry: Geometry, pixels: Pixels | None
) -> Explanation:
    """Return the maps and word weights of one row of a prediction."""
    attention = _array(prediction.word_attention[row])  # (L,)
    return Explanation(
        similarity=_array(prediction.similarity[row]),  # (G, G)
        word_attention=attention,
        words=tuple((word.text, float(attention[word.start : word.stop].sum())) for word in words),
        verification=_array(prediction.verification[row]),  # (G, G)
        area=geometry.clip_area,
        pixels=pixels,
    )


def _array(tensor: Tensor) -> NDArray[np.float32]:
    """Return a float32 array that keeps no larger tensor alive."""
    array: NDArray[np.float32] = tensor.float().cpu().numpy().copy()
    return array
