"""Answer and truth at the size of the image -> the record of the protocols `standard`, `rela` and `phrasecut`."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from sspsam.errors import EvaluationError
from sspsam.evaluation.records import Record
from sspsam.utils.arrays import FloatBox

STANDARD: Final = "standard"
OFFICIAL: Final = "official"
RELA: Final = "rela"
PHRASECUT: Final = "phrasecut"
PROTOCOLS: Final = (STANDARD, OFFICIAL, RELA, PHRASECUT)


def image_record(
    index: int,
    truth: NDArray[np.bool_],
    predicted: NDArray[np.bool_],
    *,
    no_target: bool | None = None,
    predicted_no_target: bool | None = None,
    truth_box: FloatBox | None = None,
    predicted_box: FloatBox | None = None,
) -> Record:
    """Compare a predicted mask with the truth on the image's own pixels.

    Args:
        index: position in the split.
        truth: (h, w); all False where the expression refers to nothing.
        predicted: (h, w), the mask before a no-target answer empties it; where only the emptied mask is known, that
            mask: only the union of a missed target in the protocol `rela` then differs.
        no_target: whether the expression refers to nothing; None: whether `truth` is empty.
        predicted_no_target: whether the answer says so; None: whether `predicted` is empty.
        truth_box, predicted_box: x0, y0, x1, y1 in pixels of the image.

    Raises:
        EvaluationError: the masks differ in size.
    """
    if truth.shape != predicted.shape or truth.ndim != 2:
        raise EvaluationError(
            f"entry {index}: the predicted mask has shape {predicted.shape}, the truth {truth.shape}; predict at the "
            "size of the image, height first"
        )
    predicted_area, target_area = int(np.count_nonzero(predicted)), int(np.count_nonzero(truth))
    return Record(
        index=index,
        no_target=target_area == 0 if no_target is None else no_target,
        predicted_no_target=predicted_area == 0 if predicted_no_target is None else predicted_no_target,
        intersection=int(np.count_nonzero(truth & predicted)),
        predicted_area=predicted_area,
        target_area=target_area,
        box_iou=None if truth_box is None or predicted_box is None else box_iou(truth_box, predicted_box),
    )


def missing_record(index: int, truth: NDArray[np.bool_]) -> Record:
    """Return the record of an expression without a prediction, which only the protocol `phrasecut` allows.

    Args:
        index: position in the split.
        truth: (h, w).
    """
    area = int(np.count_nonzero(truth))
    return Record(index, area == 0, True, 0, 0, area, missing=True)


def box_iou(truth: FloatBox, predicted: FloatBox) -> float:
    """Return the IoU of two boxes x0, y0, x1, y1 in pixels; 0 where neither has an area."""
    width = max(0.0, min(truth[2], predicted[2]) - max(truth[0], predicted[0]))
    height = max(0.0, min(truth[3], predicted[3]) - max(truth[1], predicted[1]))
    union = _area(truth) + _area(predicted) - width * height
    return width * height / union if union > 0 else 0.0


def _area(box: FloatBox) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
