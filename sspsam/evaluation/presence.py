"""Quality of the decision that an expression refers to something: ranking, agreement and calibration."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from sspsam.evaluation.records import Columns

CALIBRATION_BINS: Final = 15  # of equal width
DECISION: Final = 0.5  # probability from which an expression counts as present in `presence/MCC`


def presence_metrics(columns: Columns) -> dict[str, float | int | None]:
    """Compute `presence/AUROC`, `presence/MCC` and `presence/ECE`, and the same keys after `presence/count/`.

    The keys after `presence/count/` are about the rule of the records, which counts pixels: the score is the number of
    foreground pixels, which is no probability, so that its calibration error is None. The others are about the
    calibrated probability where every record has one, with a decision at `DECISION`; otherwise they are those of the
    count. A number is None where the split lacks expressions of one of the two kinds, or the records lack the score.
    """
    present = ~columns.no_target
    count = {
        "AUROC": _auroc_of_known(present, columns.foreground_pixels),
        "MCC": matthews_correlation(present, ~columns.predicted_no_target),
        "ECE": None,
    }
    probability = columns.presence
    main = count
    if len(present) and not np.isnan(probability).any():
        main = {
            "AUROC": auroc(present, probability),
            "MCC": matthews_correlation(present, probability >= DECISION),
            "ECE": expected_calibration_error(present, probability),
        }
    return {f"presence/{name}": value for name, value in main.items()} | {
        f"presence/count/{name}": value for name, value in count.items()
    }


def _auroc_of_known(present: NDArray[np.bool_], score: NDArray[np.float64]) -> float | None:
    return None if np.isnan(score).any() else auroc(present, score)


def auroc(present: NDArray[np.bool_], score: NDArray[np.float64]) -> float | None:
    """Return the area under the ROC curve: the chance that a score with a target is above one without, ties as half.

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
    counts, predicted, observed = calibration_bins(present, probability, bins)
    return float((counts * np.abs(predicted - observed)).sum() / len(present))


def calibration_bins(
    present: NDArray[np.bool_], probability: NDArray[np.float64], bins: int = CALIBRATION_BINS
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the count, the mean probability and the share of present ones in each bin: three arrays (bins,).

    Both means are 0 in an empty bin. The arguments are those of `expected_calibration_error`.
    """
    place = np.clip(np.ceil(probability * bins).astype(np.int64) - 1, 0, bins - 1)  # (n,)
    counts = np.bincount(place, minlength=bins)
    sums = (np.bincount(place, weights=values, minlength=bins) for values in (probability, present))
    predicted, observed = (values / np.maximum(counts, 1) for values in sums)
    return counts, predicted, observed
