"""Predictions on the device -> numbers and masks on the host, in one transfer for all expressions."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sspsam.devices import host_buffer
from sspsam.images.preprocessing import Geometry
from sspsam.segmentation.postprocessing import box_of_mask, box_of_occupied, logits_on_image
from sspsam.segmentation.target_rule import Decisions
from sspsam.utils.arrays import IntBox, Mask

_LOGITS_BYTES: Final = 256 * 2**20  # of logits at the size of the image that a GPU computes together
_MASK_BYTES: Final = 256 * 2**20  # of masks in one transfer


Decide = Callable[[NDArray[np.float32], NDArray[np.bool_] | None], Decisions]
"""Decide from the summary (E, any) and, where it was fetched, the low-resolution foreground (E, M, M)."""


class HostAnswer(NamedTuple):
    """The answer to one expression in host memory.

    Args:
        finite: whether all values are finite; if not, the others mean nothing.
        foreground_pixels: in the authors' frame.
        score: predicted IoU.
        box: (4,) float64, output of the box head.
        mask: (h, w) bool; all False without a target.
        mask_box: x0, y0, x1, y1 of the mask; None if it is empty.
        no_target: the decision.
        features: (F,), see `features.FEATURES`; None if they were not computed.
        presence: probability that the expression has a target; None without a calibration.
    """

    finite: bool
    foreground_pixels: int
    score: float
    box: NDArray[np.float64]
    mask: Mask
    mask_box: IntBox | None
    no_target: bool
    features: NDArray[np.float64] | None
    presence: float | None


class Binarization(NamedTuple):
    """The way from low-resolution logits to masks of an image.

    Args:
        geometry: of the image.
        sam_size: side of SAM's square, pixels.
        threshold: logit from which a pixel of the mask is foreground.
    """

    geometry: Geometry
    sam_size: int
    threshold: float

    def masks(self, low_res: Tensor) -> Tensor:
        """(E, M, M) logits -> (E, h, w) bool."""
        return logits_on_image(low_res, self.geometry, self.sam_size) >= self.threshold

    @property
    def pixels(self) -> int:
        """Number of pixels of a mask."""
        return self.geometry.height * self.geometry.width


def begin_transfer(
    low_res: Tensor, summary: Tensor, binarization: Binarization, decide: Decide, with_foreground: bool
) -> Callable[[], list[HostAnswer]]:
    """Queue the transfer of the answers of E expressions on a device; a CPU does nothing yet.

    Args:
        low_res: (E, M, M) logits.
        summary: (E, any), from `summary.summarize`.
        binarization: of the logits.
        decide: the no-target rule.
        with_foreground: whether the rule needs the low-resolution foreground.

    Returns:
        A function that waits for the device and returns the answers in their order; it is called once.
    """
    if low_res.device.type == "cpu":
        return partial(_answers_on_cpu, low_res, summary, binarization, decide, with_foreground)
    begin = partial(_begin_part, binarization, with_foreground)
    masks_at_once = _MASK_BYTES // binarization.pixels
    first, *later = zip(_parts(low_res, masks_at_once), _parts(summary, masks_at_once), strict=True)
    return partial(_answers_of_device, begin(*first), later, begin, binarization.geometry, decide)


def _answers_on_cpu(
    low_res: Tensor, summary: Tensor, binarization: Binarization, decide: Decide, with_foreground: bool
) -> list[HostAnswer]:
    table = summary.numpy()
    decisions = decide(table, (low_res >= 0).numpy() if with_foreground else None)
    masks = list(_masks_on_cpu(low_res, binarization, decisions.has_target))
    return _host_answers(table, decisions, masks, binarization.geometry)


def _answers_of_device(
    first: "_Transfer",
    later: Iterable[tuple[Tensor, Tensor]],
    begin: Callable[[Tensor, Tensor], "_Transfer"],
    geometry: Geometry,
    decide: Decide,
) -> list[HostAnswer]:
    """Finish the first transfer and make the later ones; the host waits once for each 256 MB of masks."""
    answers: list[HostAnswer] = []
    for transfer in chain([first], (begin(*part) for part in later)):
        table, foreground, masks = transfer.finish()
        answers += _host_answers(table, decide(table, foreground), masks, geometry)
    return answers


def _host_answers(
    table: NDArray[np.float32], decisions: Decisions, masks: Sequence["MaskAndBox"], geometry: Geometry
) -> list[HostAnswer]:
    return [_host_answer(numbers, decisions, row, masks[row], geometry) for row, numbers in enumerate(table)]


def _host_answer(
    numbers: NDArray[np.float32], decisions: Decisions, row: int, mask: "MaskAndBox", geometry: Geometry
) -> HostAnswer:
    """Return the answer of one row of a summary; its mask is emptied if there is no target."""
    no_target = decisions.no_target(row, mask_is_empty=mask[1] is None)
    return HostAnswer(
        bool(numbers[0]),
        int(numbers[1]),
        float(numbers[2]),
        numbers[3:7].astype(np.float64),
        *(_no_mask(geometry) if no_target else mask),
        no_target,
        None if decisions.features is None else decisions.features[row],
        None if decisions.presence is None else float(decisions.presence[row]),
    )


MaskAndBox = tuple[Mask, IntBox | None]
"""An (h, w) mask and its box; None if the mask is empty."""


def _no_mask(geometry: Geometry) -> MaskAndBox:
    return np.zeros((geometry.height, geometry.width), dtype=np.bool_), None


def _masks_on_cpu(low_res: Tensor, binarization: Binarization, has_target: NDArray[np.bool_]) -> Iterator[MaskAndBox]:
    """Yield the masks one by one, so that the logits of each stay in the cache; none is computed without a target."""
    for row, needed in zip(torch.split(low_res, 1), has_target, strict=True):
        if not needed:
            yield _no_mask(binarization.geometry)
            continue
        mask: Mask = binarization.masks(row)[0].numpy()
        yield mask, box_of_mask(mask)


class _Transfer(NamedTuple):
    """Copies of answers to host memory, which are queued on the current stream of their device.

    Args:
        table: (E, any), of the summary.
        flags: (E, h + w, or more) bool: rows and columns with foreground, then the low-resolution foreground if any.
        shared: (E, h, w) bool, the masks.
        own: (h, w) bool each, zeros.
        copied: an event of a CUDA device after the copies; None: they are complete.
        low_res_size: sides of the low-resolution foreground; None: it was not fetched.
    """

    table: Tensor
    flags: Tensor
    shared: Tensor
    own: list[Tensor]
    copied: torch.cuda.Event | None
    low_res_size: torch.Size | None

    def finish(self) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None, list["MaskAndBox"]]:
        """Wait for the copies, and return the summary, the low-resolution foreground if fetched, and the masks."""
        if self.copied is not None:
            self.copied.synchronize()
        height, width = self.shared.shape[1:]
        in_rows, in_columns, foreground = np.split(self.flags.numpy(), [height, height + width], axis=1)
        masks: list[MaskAndBox] = []
        for mask, source, *occupied in zip(self.own, self.shared, in_rows, in_columns, strict=True):
            mask.copy_(source)  # by all threads of PyTorch
            masks.append((mask.numpy(), box_of_occupied(*occupied)))
        if self.low_res_size is None:
            return self.table.numpy(), None, masks
        return self.table.numpy(), foreground.reshape(-1, *self.low_res_size), masks


def _begin_part(binarization: Binarization, with_foreground: bool, low_res: Tensor, summary: Tensor) -> _Transfer:
    """Queue the masks of E expressions and their copies; see `begin_transfer`."""
    logits_at_once = _LOGITS_BYTES // (4 * max(binarization.pixels, binarization.sam_size**2))
    parts = [binarization.masks(part) for part in _parts(low_res, logits_at_once)]
    on_device = parts[0] if len(parts) == 1 else torch.cat(parts)  # (E, h, w)
    flags = [on_device.any(2), on_device.any(1)]  # (E, h), (E, w)
    if with_foreground:
        flags.append((low_res >= 0).flatten(1))  # (E, M*M)
    table, host_flags, shared = _queue_copies(summary, torch.cat(flags, dim=1), on_device)
    copied = torch.cuda.current_stream(on_device.device).record_event() if shared.is_pinned() else None
    # page-locked memory is scarce, and one block holds the masks of all expressions, so each gets memory of its own;
    # the operating system provides it, page by page, while the device computes
    own = [torch.zeros(mask.shape, dtype=torch.bool) for mask in shared]
    return _Transfer(table, host_flags, shared, own, copied, low_res.shape[1:] if with_foreground else None)


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
