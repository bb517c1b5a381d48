"""Predictions on the device -> numbers and masks on the host, in one transfer for all expressions."""

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sspsam.config import ModelConfig
from sspsam.devices import host_buffer
from sspsam.images.preprocessing import Geometry
from sspsam.models import Prediction
from sspsam.segmentation.postprocessing import box_of_mask, box_of_occupied, foreground_pixels, logits_on_image

_LOGITS_BYTES: Final = 256 * 2**20  # of logits at the size of the image that a GPU computes together
_MASK_BYTES: Final = 256 * 2**20  # of masks in one transfer


class HostAnswer(NamedTuple):
    """The answer to one expression in host memory.

    Args:
        finite: whether all values are finite; if not, the others mean nothing.
        foreground_pixels: in the authors' padded frame.
        score: predicted IoU.
        box: (4,) float64, output of the box head.
        mask: (h, w) bool; all False where there are too few foreground pixels.
        mask_box: x0, y0, x1, y1 of the mask; None if it is empty.
    """

    finite: bool
    foreground_pixels: int
    score: float
    box: NDArray[np.float64]
    mask: NDArray[np.bool_]
    mask_box: tuple[int, int, int, int] | None


def summarize(prediction: Prediction, config: ModelConfig) -> Tensor:
    """Return the numbers behind the answers, on the device: (E, 7).

    They are whether all values are finite (0 or 1), the foreground pixels in the authors' frame, the predicted IoU, and
    the four numbers of the box head.
    """
    low_res = prediction.low_res
    finite = low_res.flatten(1).isfinite().all(dim=1) & prediction.box.isfinite().all(dim=1)  # (E,)
    finite = finite & prediction.iou.isfinite()
    foreground = foreground_pixels(
        low_res, config.architecture.sam.image_size, config.postprocessing.no_target_frame
    )  # (E,); float32 holds it exactly
    numbers = torch.stack([finite.float(), foreground.float(), prediction.iou], dim=1)  # (E, 3)
    return torch.cat([numbers, prediction.box], dim=1)


def host_answers(
    low_res: Tensor, summary: Tensor, geometry: Geometry, sam_size: int, threshold: float, no_target_pixels: int
) -> list[HostAnswer]:
    """Return the answers of E expressions in their order.

    Args:
        low_res: (E, M, M) logits.
        summary: (E, 7), from `summarize`.
        geometry: of the image.
        sam_size: side of SAM's square, pixels.
        threshold: logit from which a pixel of the mask is foreground.
        no_target_pixels: fewer foreground pixels give an empty mask.
    """
    if low_res.device.type == "cpu":
        table = summary.numpy()
        masks = list(_masks_on_cpu(low_res, geometry, sam_size, threshold, table[:, 1] >= no_target_pixels))
    else:
        table, masks = _fetched(low_res, summary, geometry, sam_size, threshold)
    return [
        HostAnswer(
            bool(row[0]),
            int(row[1]),
            float(row[2]),
            row[3:].astype(np.float64),
            *(mask if row[1] >= no_target_pixels else _no_mask(geometry)),
        )
        for row, mask in zip(table, masks, strict=True)
    ]


Mask = tuple[NDArray[np.bool_], tuple[int, int, int, int] | None]
"""An (h, w) mask and its box."""


def _no_mask(geometry: Geometry) -> Mask:
    return np.zeros((geometry.height, geometry.width), dtype=np.bool_), None


def _masks_on_cpu(
    low_res: Tensor, geometry: Geometry, sam_size: int, threshold: float, has_target: NDArray[np.bool_]
) -> Iterator[Mask]:
    """Yield the masks one by one, so that the logits of each stay in the cache; none is computed without a target."""
    for row, needed in zip(torch.split(low_res, 1), has_target, strict=True):
        if not needed:
            yield _no_mask(geometry)
            continue
        mask: NDArray[np.bool_] = (logits_on_image(row, geometry, sam_size)[0] >= threshold).numpy()
        yield mask, box_of_mask(mask)


def _fetched(
    low_res: Tensor, summary: Tensor, geometry: Geometry, sam_size: int, threshold: float
) -> tuple[NDArray[np.float32], list[Mask]]:
    """Return the summary and the masks of E expressions; the host waits once for each 256 MB of masks."""
    size = geometry.height * geometry.width
    logits_at_once, masks_at_once = _LOGITS_BYTES // (4 * max(size, sam_size**2)), _MASK_BYTES // size
    tables, masks = [], []
    for rows, numbers in zip(_parts(low_res, masks_at_once), _parts(summary, masks_at_once), strict=True):
        parts = [logits_on_image(part, geometry, sam_size) >= threshold for part in _parts(rows, logits_at_once)]
        on_device = parts[0] if len(parts) == 1 else torch.cat(parts)  # (rows, h, w)
        table, in_rows, in_columns, shared = _queue_copies(numbers, on_device.any(2), on_device.any(1), on_device)
        # page-locked memory is scarce, and one block holds the masks of all expressions, so each gets memory of its
        # own; the operating system provides it, page by page, while the device computes
        own = [torch.zeros(mask.shape, dtype=torch.bool) for mask in shared]
        if shared.is_pinned():  # otherwise the copies are complete
            torch.cuda.current_stream(on_device.device).synchronize()
        tables.append(table.numpy())
        for mask, source, *occupied in zip(own, shared, in_rows.numpy(), in_columns.numpy(), strict=True):
            mask.copy_(source)  # by all threads of PyTorch
            masks.append((mask.numpy(), box_of_occupied(*occupied)))
    return np.concatenate(tables), masks


def _parts(tensor: Tensor, rows: int) -> tuple[Tensor, ...]:
    """Split a tensor into parts of at most so many rows, at least one."""
    return torch.split(tensor, max(1, rows))


def _queue_copies(*tensors: Tensor) -> list[Tensor]:
    """Copy tensors to host memory; copies to page-locked memory are complete when the current stream is."""
    device = tensors[0].device
    copies = [host_buffer(tensor.shape, tensor.dtype, device) for tensor in tensors]
    pinned = copies[0].is_pinned() if device.type == "cuda" else False
    for copy, tensor in zip(copies, tensors, strict=True):
        copy.copy_(tensor, non_blocking=pinned)
    return copies
