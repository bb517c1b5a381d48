"""Records -> the flat numbers of `metrics.json`, as each protocol counts them (`docs/evaluation.md`)."""

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from sspsam.errors import EvaluationError
from sspsam.evaluation.presence import presence_metrics
from sspsam.evaluation.protocols import OFFICIAL, PHRASECUT, RELA, STANDARD
from sspsam.evaluation.records import Columns, Record, columns_of

THRESHOLDS: Final = (0.5, 0.6, 0.7, 0.8, 0.9)
RELA_THRESHOLDS: Final = (0.7, 0.8, 0.9)
OFFICIAL_THRESHOLDS: Final = tuple(0.5 + 0.05 * step for step in range(9))  # the authors' sums, before rounding

_Number = TypeVar("_Number", np.int64, np.float32)
Metrics = dict[str, float | int | None]


class Counted(NamedTuple):
    """The pixels and the IoU of each expression as a protocol counts them.

    Args:
        intersection, union: (n,) int64, pixels.
        iou: (n,) float64; float32 in the protocol `official`, as the authors compute it.
    """

    intersection: NDArray[np.int64]
    union: NDArray[np.int64]
    iou: NDArray[np.floating]


def compute_metrics(records: Iterable[Record], protocol: str = STANDARD) -> Metrics:
    """Compute all numbers of a protocol from its records.

    Args:
        records: of the whole split or of a part of it, in any order; those of `official` are in the authors' frame.
        protocol: one of `protocols.PROTOCOLS`.

    Returns:
        One flat dictionary with the same keys for every protocol; shares are fractions, and None stands where a number
        does not apply or nothing was counted.

    Raises:
        EvaluationError: the protocol is not known, two records have the same index, or a prediction is missing in a
            protocol that needs all of them.
    """
    compute = _COMPUTE.get(protocol)
    if compute is None:
        raise EvaluationError(f"unknown protocol {protocol!r}; there are {', '.join(_COMPUTE)}")
    columns = columns_of(records)
    if protocol != PHRASECUT and columns.missing.any():
        raise EvaluationError(
            f"{int(columns.missing.sum())} predictions are missing; only the protocol {PHRASECUT} counts without them"
        )
    thresholds = OFFICIAL_THRESHOLDS if protocol == OFFICIAL else THRESHOLDS
    return _empty(columns, thresholds) | compute(columns) | presence_metrics(columns)


def _empty(columns: Columns, thresholds: tuple[float, ...]) -> Metrics:
    """Return every key that all protocols share, with the numbers of expressions."""
    names = ["oIoU", "mIoU", *_keys("Pr", thresholds), "gIoU", "cIoU", "N-acc", "T-acc", *_keys("Acc", thresholds)]
    n, no_target = len(columns.no_target), int(columns.no_target.sum())
    counts: Metrics = {"n": n, "n_target": n - no_target, "n_no_target": no_target}
    return counts | dict.fromkeys(names)


def counted_emptied(columns: Columns) -> Counted:
    """Count as GRES does, with the mask made empty where the answer is no target.

    Of an expression without a target, I = U = 0 and the IoU is 1 where the answer agrees; otherwise I = 0, U is the
    predicted area and the IoU is 0.
    """
    intersection = np.where(columns.predicted_no_target | columns.no_target, 0, columns.intersection)
    union = np.where(columns.predicted_no_target, columns.target_area, columns.union)
    return _counted(columns, intersection, union)


def counted_rela(columns: Columns) -> Counted:
    """Count as ReLA's evaluator does: the union of a missed target is that of the mask as it is and the truth."""
    intersection = np.where(columns.predicted_no_target | columns.no_target, 0, columns.intersection)
    return _counted(columns, intersection, columns.union)


def _counted(columns: Columns, intersection: NDArray[np.int64], union: NDArray[np.int64]) -> Counted:
    true_negative = columns.no_target & columns.predicted_no_target
    union = np.where(true_negative, 0, union)
    return Counted(intersection, union, np.where(true_negative, 1.0, _ratio(intersection, union)))


def counted_official(columns: Columns) -> Counted:
    """Count as the authors do: where the truth is not empty, a predicted no-target changes neither mask nor IoU."""
    true_negative = columns.no_target & columns.predicted_no_target
    intersection, union = columns.intersection, np.where(true_negative, 0, columns.union)
    iou = _ratio(intersection.astype(np.float32), union.astype(np.float32))
    return Counted(intersection, union, np.where(true_negative, np.float32(1), iou))


def counted_phrasecut(columns: Columns) -> Counted:
    """Count as PhraseCut's evaluator does: an IoU without a shared pixel is 0, even of two empty masks."""
    return Counted(columns.intersection, columns.union, _ratio(columns.intersection, columns.union))


def _standard(columns: Columns) -> Metrics:
    counted, target = counted_emptied(columns), ~columns.no_target
    boxes = columns.box_iou[target]
    return {
        "oIoU": _share(counted.intersection[target].sum(), counted.union[target].sum()),
        "mIoU": _mean(counted.iou[target]),
        **_reached("Pr", counted.iou[target], THRESHOLDS),
        **_gres(columns, counted),
        **_reached("Acc", boxes[~np.isnan(boxes)], THRESHOLDS),
    }


def _rela(columns: Columns) -> Metrics:
    counted, target = counted_rela(columns), ~columns.no_target
    metrics = _gres(columns, counted) | _reached("Pr", counted.iou[target], RELA_THRESHOLDS)
    if not columns.no_target.any():
        metrics |= {"N-acc": 0.0, "T-acc": 0.0}  # the evaluator's values where no expression is without a target
    return metrics


def _gres(columns: Columns, counted: Counted) -> Metrics:
    """Return gIoU, cIoU, and the shares of right answers without and with a target."""
    no_target, predicted_no_target = columns.no_target, columns.predicted_no_target
    return {
        "gIoU": _mean(counted.iou),
        "cIoU": _share(counted.intersection.sum(), counted.union.sum()),
        "N-acc": _mean(predicted_no_target[no_target]),
        "T-acc": _mean(~predicted_no_target[~no_target]),
    }


def _official(columns: Columns) -> Metrics:
    """Return the authors' numbers; N-acc and T-acc are quotients of counts over all expressions, as theirs are."""
    counted, no_target = counted_official(columns), columns.no_target
    n = len(no_target)
    mean = float(np.cumsum(counted.iou, dtype=np.float32)[-1]) / n if n else None  # they add float32 one by one
    overall = _share(counted.intersection.sum(), counted.union.sum())
    partly = (counted.iou > 0) & (counted.iou < 1)
    boxes = columns.box_iou[~np.isnan(columns.box_iou)].astype(np.float32)
    return {
        "oIoU": overall,
        "mIoU": mean,
        **_reached("Pr", counted.iou, OFFICIAL_THRESHOLDS),
        "gIoU": mean,
        "cIoU": overall,
        "N-acc": _share((counted.iou == 1).sum(), no_target.sum()),
        "T-acc": _share(partly.sum(), (~no_target).sum()) if no_target.any() else None,
        **_reached("Acc", boxes, OFFICIAL_THRESHOLDS),
    }


def _phrasecut(columns: Columns) -> Metrics:
    counted, given = counted_phrasecut(columns), ~columns.missing
    iou = counted.iou[given]
    mean = _mean(iou)
    return {
        "oIoU": _share(counted.intersection[given].sum(), counted.union[given].sum()),
        "mIoU": mean,
        **{threshold_key("Pr", value): _mean(iou > value) for value in THRESHOLDS},  # strictly above
        "evaluated": len(iou),
        "mIoU_missing_as_empty": None if mean is None else mean * len(iou) / len(given),
    }


_COMPUTE: Final[dict[str, Callable[[Columns], Metrics]]] = {
    STANDARD: _standard,
    OFFICIAL: _official,
    RELA: _rela,
    PHRASECUT: _phrasecut,
}


def _reached(name: str, iou: NDArray[np.floating], thresholds: Iterable[float]) -> Metrics:
    """Return the share of expressions whose IoU is at least each threshold, compared in the precision of the IoU."""
    return {threshold_key(name, value): _mean(iou >= iou.dtype.type(value)) for value in thresholds}


def _keys(name: str, thresholds: Iterable[float]) -> list[str]:
    return [threshold_key(name, value) for value in thresholds]


def threshold_key(name: str, threshold: float) -> str:
    """Return for example `Pr@0.5` or `Pr@0.55`: no trailing zeros."""
    return f"{name}@{threshold:.2f}".rstrip("0")


def _ratio(numerator: NDArray[_Number], denominator: NDArray[_Number]) -> NDArray[np.floating]:
    """Divide element by element; 0 where the denominator is 0."""
    kind = np.result_type(numerator, denominator)
    out = np.zeros(numerator.shape, dtype=kind if np.issubdtype(kind, np.floating) else np.float64)
    np.divide(numerator, denominator, out=out, where=denominator != 0)
    return out


def _share(numerator: np.integer, denominator: np.integer) -> float | None:
    return int(numerator) / int(denominator) if denominator else None


def _mean(values: NDArray[np.bool_] | NDArray[np.floating]) -> float | None:
    return float(np.mean(values, dtype=np.float64)) if len(values) else None
