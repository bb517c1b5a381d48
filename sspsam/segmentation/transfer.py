"""Predictions on the device -> numbers and masks on the host, in one transfer for all expressions."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sspsam.config import ModelConfig
from sspsam.images.preprocessing import Geometry
from sspsam.models import Prediction
from sspsam.segmentation.postprocessing import box_of_mask, foreground_pixels, logits_on_image

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


def host_answers(
    prediction: Prediction, geometry: Geometry, config: ModelConfig, threshold: float, no_target_pixels: int
) -> list[HostAnswer]:
    """Return the answers of E expressions in their order.

    Args:
        prediction: of E expressions about one image.
        geometry: of the image.
        config: of the model.
        threshold: logit from which a pixel of the mask is foreground.
        no_target_pixels: fewer foreground pixels give an empty mask.
    """
    sam_size, frame = config.architecture.sam.image_size, config.postprocessing.no_target_frame
    low_res = prediction.low_res
    finite = low_res.flatten(1).isfinite().all(dim=1) & prediction.box.isfinite().all(dim=1)  # (E,)
    columns = [
        (finite & prediction.iou.isfinite()).float(),
        foreground_pixels(low_res, sam_size, frame).float(),  # exact: at most frame * frame
        prediction.iou,
        *prediction.box.unbind(dim=1),
    ]
    numbers = torch.stack(columns, dim=1)  # (E, 7)
    if low_res.device.type == "cpu":
        table = numbers.numpy()
        masks = list(_masks_on_cpu(low_res, geometry, sam_size, threshold, table[:, 1] >= no_target_pixels))
    else:
        table, masks = _fetched(numbers, low_res, geometry, sam_size, threshold)
    return [
        HostAnswer(bool(row[0]), int(row[1]), float(row[2]), row[3:7].astype(np.float64), *mask)
        if row[1] >= no_target_pixels
        else HostAnswer(bool(row[0]), int(row[1]), float(row[2]), row[3:7].astype(np.float64), *_no_mask(geometry))
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
    numbers: Tensor, low_res: Tensor, geometry: Geometry, sam_size: int, threshold: float
) -> tuple[NDArray[np.float32], list[Mask]]:
    """Return the numbers and the masks of E expressions; the host waits once for each 256 MB of masks."""
    size = geometry.height * geometry.width
    tables, masks = [], []
    for part, part_numbers in _parts((low_res, numbers), _MASK_BYTES // size):
        part_masks = torch.cat(
            [
                logits_on_image(rows, geometry, sam_size) >= threshold  # (rows, h, w)
                for [rows] in _parts((part,), _LOGITS_BYTES // (4 * max(size, sam_size**2)))
            ]
        )
        host_masks, table = _to_host(part_masks, torch.cat([part_numbers, _mask_boxes(part_masks).float()], dim=1))
        tables.append(table)
        # copied: pinned memory is scarce, and a result must not keep the masks of all expressions alive
        masks += [(mask.copy(), _box(row[-4:])) for mask, row in zip(host_masks, table, strict=True)]
    return np.concatenate(tables), masks


def _parts(tensors: Sequence[Tensor], rows: int) -> Iterator[tuple[Tensor, ...]]:
    """Split tensors of E rows into parts of at most so many rows, at least one."""
    return zip(*(torch.split(tensor, max(1, rows)) for tensor in tensors), strict=True)


def _to_host(*tensors: Tensor) -> list[NDArray[np.generic]]:
    """Copy tensors to page-locked memory where the device is a CUDA device, and wait for all of them together."""
    pinned = tensors[0].device.type == "cuda"
    copies = [torch.empty(x.shape, dtype=x.dtype, device="cpu", pin_memory=pinned) for x in tensors]
    for copy, tensor in zip(copies, tensors, strict=True):
        copy.copy_(tensor, non_blocking=pinned)
    if pinned:
        torch.cuda.current_stream(tensors[0].device).synchronize()
    return [copy.numpy() for copy in copies]


def _mask_boxes(masks: Tensor) -> Tensor:
    """(E, h, w) -> (E, 4) x0, y0, x1, y1 of each mask; of an empty mask x1 is not larger than x0."""
    edges = []
    for axis in (1, 2):  # columns of the image, then its rows
        occupied = masks.any(dim=axis).byte()  # (E, w), then (E, h)
        empty = occupied.amax(dim=1) == 0
        first, from_end = occupied.argmax(dim=1), occupied.flip(1).argmax(dim=1)
        edges.append((first, (occupied.shape[1] - from_end).masked_fill(empty, 0)))
    (left, right), (top, bottom) = edges
    return torch.stack([left, top, right, bottom], dim=1)


def _box(row: NDArray[np.float32]) -> tuple[int, int, int, int] | None:
    """Return a row of `_mask_boxes` as integers; None for an empty mask."""
    x0, y0, x1, y1 = (int(value) for value in row)
    return (x0, y0, x1, y1) if x1 > x0 else None
