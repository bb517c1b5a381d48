"""Quality of the decision that an expression refers to something: ranking, agreement and calibration."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from sspsam.evaluation.records import Columns

CALIBRATION_BINS: Final = 15  # of equal width


def presence_metrics(columns: Columns) -> dict[str, float | int | None]:
    """Compute `presence/AUROC`, `presence/MCC` and `presence/ECE`.

    The score is the calibrated probability where every record has one, otherwise the number of foreground pixels. The
    calibration error needs probabilities. A number is None where the split lacks expressions of one of the two kinds,
    or where the records lack the score.
    """
    probability = not np.isnan(columns.presence).any()
    score = columns.presence if probability else columns.foreground_pixels
    present = ~columns.no_target
    known = len(present) > 0 and not np.isnan(score).any()
    return {
        "presence/AUROC": auroc(present, score) if known else None,
        "presence/MCC": matthews_correlation(present, ~columns.predicted_no_target),
        "presence/ECE": expected_calibration_error(present, columns.presence) if known and probability else None,
    }


def auroc(present: NDArray[np.bool_], score: NDArray[np.float64]) -> float | None:
    """Return the area under the ROC curve: the chance that a present one scores above an absent one, ties as half.

    Args:
        present: (n,), the truth.
        score: (n,), larger for present.

    Returns:
        A fraction; None if one of the two kinds does not occur.
    """
    positive, negative = int(present.sum()), int((~present).sum())
    if not positive or not negative:
        return None
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # (n,) from 1, the mean rank of equal scores
    return float((ranks[present].sum() - positive * (positive + 1) / 2) / (positive * negative))


def matthews_correlation(present: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> float | None:
    """Return the correlation of truth and decision, -1 to 1; None if one of the two kinds does not occur in the truth.

    It is 0 where every decision is the same.
    """
    if not present.any() or present.all():
        return None
    if not predicted.any() or predicted.all():
        return 0.0
    return float(np.corrcoef(present, predicted)[0, 1])


def expected_calibration_error(
    present: NDArray[np.bool_], probability: NDArray[np.float64], bins: int = CALIBRATION_BINS
) -> float:
    """Return the mean distance of probability and frequency over bins of equal width, weighted by their counts.

    Args:
        present: (n,), the truth; n is at least 1.
        probability: (n,), 0 to 1, that the expression refers to something.
        bins: number of bins; a probability on an edge belongs to the bin below, as in the usual definition.
    """
    place = np.clip(np.ceil(probability * bins).astype(np.int64) - 1, 0, bins - 1)  # (n,)
    difference = np.bincount(place, weights=probability - present, minlength=bins)  # (bins,)
    return float(np.abs(difference).sum() / len(present))
