"""Statistics of the answers, computed on the device: a prediction -> one row of numbers for each expression."""

import types
from functools import partial
from typing import Final

import torch
from torch import Tensor

from sspsam.config import ModelConfig
from sspsam.models import Prediction
from sspsam.models.trials import PYTORCH, Trial, TriedKernels, allowed_kernels, max_difference, try_kernels, wave
from sspsam.segmentation.features import feature_columns
from sspsam.segmentation.postprocessing import foreground_pixels

_MOST_DIFFERENCE: Final = 1e-4  # of the kernels' results, relative above 1


def summarize(prediction: Prediction, config: ModelConfig) -> Tensor:
    """Return statistics of E answers, on the device: (E, 7 + `features.COLUMNS`).

    They are whether all values are finite (0 or 1), the foreground pixels in the authors' frame, the predicted IoU, the
    four numbers of the box head, and the columns of `feature_columns`.

    Args:
        prediction: about E expressions.
        config: of the model.
    """
    low_res = prediction.low_res
    pixels_in_frame = foreground_pixels(
        low_res, config.architecture.sam.image_size, config.postprocessing.no_target_frame
    )  # (E,)
    return summarize_with_pixels(prediction, pixels_in_frame)


def summarize_with_pixels(prediction: Prediction, pixels_in_frame: Tensor) -> Tensor:
    """Return the numbers of `summarize` when the foreground pixels are known; see `summarize_with_pytorch`."""
    kernels = allowed_kernels(summary_kernel_on, prediction.low_res.device)
    if kernels is None:
        return summarize_with_pytorch(prediction, pixels_in_frame)
    summary: Tensor = kernels.summarize(prediction, pixels_in_frame)
    return summary


def summarize_with_pytorch(prediction: Prediction, pixels_in_frame: Tensor) -> Tensor:
    """Return the same by PyTorch's operators.

    Args:
        prediction: about E expressions.
        pixels_in_frame: (E,), the foreground pixels in the authors' frame.
    """
    finite = prediction.low_res.flatten(1).isfinite().all(dim=1) & prediction.box.isfinite().all(dim=1)  # (E,)
    finite = finite & prediction.iou.isfinite()
    # float32 holds the number of pixels exactly
    numbers = torch.stack([finite.float(), pixels_in_frame.float(), prediction.iou], dim=1)  # (E, 3)
    return torch.cat([numbers, prediction.box, feature_columns(prediction)], dim=1)


@TriedKernels
def summary_kernel_on(device: torch.device) -> Trial:
    """Try the kernels of `summary_kernel` on a device."""

    def difference(kernels: types.ModuleType) -> float:
        example, pixels_in_frame = _example(device)
        summary = kernels.summarize(example, pixels_in_frame)
        expected = summarize_with_pytorch(example, pixels_in_frame)
        finite = expected[:, 0] == 1  # otherwise the other numbers mean nothing
        return max_difference([(summary[:, 0], expected[:, 0]), (summary[finite], expected[finite])])

    return try_kernels(_load_kernels, device, "statistics of answers", PYTORCH, difference, _MOST_DIFFERENCE)


def _load_kernels() -> types.ModuleType:
    from sspsam.segmentation import summary_kernel

    return summary_kernel


def _example(device: torch.device) -> tuple[Prediction, Tensor]:
    """Return a prediction in which masks are ordinary, empty and full and values are not finite, and pixel counts."""
    example = partial(wave, device=device, step=0.37)
    logits, box, iou, similarity = example(7, 90, 90) * 3, example(7, 4), example(7), example(7, 20, 30)
    logits[0, :20] = logits[0, 70:] = logits[0, :, :8] = logits[0, :, 77:] = -1.0
    logits[1, :5] = logits[1, 12:] = logits[1, :, :30] = logits[1, :, 41:] = -1.0
    logits[2], logits[3] = logits[2] - 9, logits[3] + 9
    logits[4, 80, 3], box[5, 2], iou[6] = torch.nan, torch.inf, -torch.inf
    rows = torch.arange(7, device="cpu").to(device)
    verification = (similarity + rows.view(7, 1, 1)).square()
    # the prompts and the words take no part
    prediction = Prediction(logits, iou, box, iou, similarity, iou, verification)
    return prediction, rows * 40_000
