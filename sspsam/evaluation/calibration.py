"""Fit a calibration: records with features and ground truth -> the probability that an expression has a target.

The model is a logistic regression on standardised features with an L2 penalty, whose strength is chosen by
cross-validation. See `docs/evaluation.md`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sspsam._version import __version__
from sspsam.errors import EvaluationError
from sspsam.evaluation.presence import auroc, expected_calibration_error
from sspsam.evaluation.records import Record
from sspsam.segmentation.calibration import LOGARITHMIC, Calibration, CrossValidation, FeatureTerm, sigmoid, transformed
from sspsam.segmentation.features import FEATURES
from sspsam.utils.paths import shown

LEAST_OF_EACH_KIND: Final = 50
_STRENGTHS: Final = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)  # of the penalty
_FOLDS: Final = 5
_SEED: Final = 0
_NEWTON_STEPS: Final = 100
_DIGITS: Final = 9  # significant, of the numbers in a calibration: the last ones depend on the machine


@dataclass(frozen=True, eq=False)
class LabelledFeatures:
    """The features of n answers and the truth.

    Args:
        features: (n, F) in the order of `FEATURES`.
        present: (n,) bool, whether the expression has a target.
        groups: (n,) number of the image; the answers about one image are never in two folds.
    """

    features: NDArray[np.float64]
    present: NDArray[np.bool_]
    groups: NDArray[np.int64]


def labelled_features(records: Iterable[Record], fingerprint: str) -> LabelledFeatures:
    """Return the features and the truth of records, in an order that does not depend on the order of the records.

    Args:
        records: of one or more evaluations of one model.
        fingerprint: of the model.

    Raises:
        EvaluationError: a record has no features, is of another model, or occurs twice.
    """
    keyed = {}
    for record in records:
        _check_record(record, fingerprint)
        key = (str(record.image), record.index, str(record.text))
        if key in keyed:
            raise EvaluationError(
                f"the record {record.index} of {shown(record.image)} occurs twice: give each file of records once"
            )
        keyed[key] = record
    ordered = [keyed[key] for key in sorted(keyed)]
    images = [record.image if record.image is not None else str(record.index) for record in ordered]
    rows = [[(record.features or {})[name] for name in FEATURES] for record in ordered]
    return LabelledFeatures(
        np.array(rows, dtype=np.float64).reshape(-1, len(FEATURES)),
        np.array([not record.no_target for record in ordered], dtype=np.bool_),
        np.unique(np.array(images, dtype=np.str_), return_inverse=True)[1].astype(np.int64),
    )


def _check_record(record: Record, fingerprint: str) -> None:
    name = f"the record {record.index} of {shown(record.image)}"
    if record.features is None:
        raise EvaluationError(
            f"{name} has no features: a calibration needs the records that sspsam eval writes with --model, not those "
            "of predictions in a file or of an older version"
        )
    missing = [feature for feature in FEATURES if feature not in record.features]
    if missing:
        raise EvaluationError(f"{name} lacks the features {', '.join(missing)}: run sspsam eval again")
    negative = [feature for feature in sorted(LOGARITHMIC) if record.features[feature] < 0]
    if negative:
        raise EvaluationError(f"{name} has a negative count {negative[0]}: run sspsam eval again")
    if record.fingerprint != fingerprint:
        raise EvaluationError(
            f"{name} is of another model (fingerprint {shown(str(record.fingerprint)[:20])}..., the given model has "
            f"{fingerprint[:20]}...): evaluate this model with sspsam eval, and use those records"
        )


def fit_calibration(data: LabelledFeatures, fingerprint: str) -> Calibration:
    """Fit a calibration; the same data give the same calibration.

    Args:
        data: at least 50 answers of each kind, about two images or more.
        fingerprint: of the model.

    Raises:
        EvaluationError: too few answers of a kind, answers about one image alone, or features that cannot be used.
    """
    present, absent = int(data.present.sum()), int((~data.present).sum())
    if min(present, absent) < LEAST_OF_EACH_KIND:
        raise EvaluationError(
            f"the records have {present} expressions with a target and {absent} without one; a calibration needs at "
            f"least {LEAST_OF_EACH_KIND} of each kind: evaluate more, on data with absent targets such as gRefCOCO"
        )
    if len(np.unique(data.groups)) < 2:
        raise EvaluationError("all records are about one image, so that no part can be held out: evaluate more images")
    if not np.isfinite(data.features).all():
        raise EvaluationError("a feature is not finite: compute the records again")
    terms = _terms(data.features)
    if not terms:
        raise EvaluationError("every feature is the same in all records, so that they say nothing about presence")
    folds = _folds(data.groups)
    columns = _standardized(data.features, terms)
    strength, probability = _chosen_strength(columns, data.present, folds)
    weights = _fitted(columns, data.present, strength)
    return Calibration(
        fingerprint=fingerprint,
        intercept=_rounded(weights[0]),
        terms=tuple(
            FeatureTerm(term.name, term.mean, term.scale, term.lowest, term.highest, _rounded(weight))
            for term, weight in zip(terms, weights[1:], strict=True)
        ),
        present=present,
        absent=absent,
        cross_validation=_quality(data, folds, strength, probability),
        sspsam=__version__,
    )


def _terms(features: NDArray[np.float64]) -> list[FeatureTerm]:
    """Return a term with the coefficient 0 for each feature that is not constant."""
    terms = []
    for name, values in zip(FEATURES, features.T, strict=True):
        x = transformed(name, values)
        scale = float(x.std())
        if scale > 1e-9 * max(1.0, float(np.abs(x).max())):
            mean, scale, lowest, highest = (_rounded(float(value)) for value in (x.mean(), scale, x.min(), x.max()))
            terms.append(FeatureTerm(name, mean, scale, lowest, highest, coefficient=0.0))
    return terms


def _standardized(features: NDArray[np.float64], terms: Sequence[FeatureTerm]) -> NDArray[np.float64]:
    """Return a column of ones and the standardised features: (n, 1 + terms)."""
    columns = [
        (transformed(term.name, features[:, FEATURES.index(term.name)]) - term.mean) / term.scale for term in terms
    ]
    return np.stack([np.ones(len(features)), *columns], axis=1)


def _folds(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the fold of each answer, (n,): the images are dealt out at random, with a fixed seed."""
    images = int(groups.max()) + 1
    order = np.random.default_rng(_SEED).permutation(images)
    return np.asarray((order % min(_FOLDS, images))[groups])


def _chosen_strength(
    columns: NDArray[np.float64], present: NDArray[np.bool_], folds: NDArray[np.int64]
) -> tuple[float, NDArray[np.float64]]:
    """Return the strength and the held-out probabilities, by the rule of one standard error.

    The strength is the largest whose loss on held-out folds is at most one standard error above the smallest loss: data
    of another kind than those of the fit suffer from coefficients that are too large, and not from smaller ones.
    """
    results = [(strength, _held_out(columns, present, folds, strength)) for strength in _STRENGTHS]
    losses = [log_losses(present, probability) for _, probability in results]  # (n,) each
    best = min(losses, key=np.mean)
    limit = best.mean() + best.std() / np.sqrt(len(best))
    return [result for result, loss in zip(results, losses, strict=True) if loss.mean() <= limit][-1]


def _held_out(
    columns: NDArray[np.float64], present: NDArray[np.bool_], folds: NDArray[np.int64], strength: float
) -> NDArray[np.float64]:
    """Return the probability of each answer by a fit to the other folds."""
    probability = np.empty(len(present))
    for fold in np.unique(folds):
        held_out = folds == fold
        probability[held_out] = sigmoid(columns[held_out] @ _fitted(columns[~held_out], present[~held_out], strength))
    return probability


def _fitted(columns: NDArray[np.float64], present: NDArray[np.bool_], strength: float) -> NDArray[np.float64]:
    """Minimise the penalised loss by Newton's method with step halving: (1 + terms,); the intercept has no penalty."""
    penalty = np.full(columns.shape[1], strength)
    penalty[0] = 1e-9  # keeps the system solvable where all answers are of one kind
    weights = np.zeros(columns.shape[1])
    loss = _penalized_loss(columns, present, weights, penalty)
    for _ in range(_NEWTON_STEPS):
        probability = sigmoid(columns @ weights)
        gradient = columns.T @ (probability - present) + penalty * weights
        curvature = columns.T @ (columns * (probability * (1 - probability))[:, None]) + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        candidate, size = weights - step, 1.0
        while (new := _penalized_loss(columns, present, candidate, penalty)) > loss and size > 1e-6:
            size /= 2
            candidate = weights - size * step
        if loss - new <= 1e-12 * max(1.0, loss):
            break
        weights, loss = candidate, new
    return weights


def _penalized_loss(
    columns: NDArray[np.float64],
    present: NDArray[np.bool_],
    weights: NDArray[np.float64],
    penalty: NDArray[np.float64],
) -> float:
    logits = columns @ weights
    return float((np.logaddexp(0, logits) - present * logits).sum() + (penalty * weights**2).sum() / 2)


def log_losses(present: NDArray[np.bool_], probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the negative logarithm of the probability of the truth, (n,)."""
    return np.asarray(-np.log(np.maximum(np.where(present, probability, 1 - probability), 1e-15)))


def _quality(
    data: LabelledFeatures, folds: NDArray[np.int64], strength: float, probability: NDArray[np.float64]
) -> CrossValidation:
    count = data.features[:, FEATURES.index("foreground_pixels")]
    return CrossValidation(
        folds=len(np.unique(folds)),
        regularization=strength,
        log_loss=_rounded(float(log_losses(data.present, probability).mean())),
        auroc=_rounded(auroc(data.present, probability) or 0.0),
        ece=_rounded(expected_calibration_error(data.present, probability)),
        count_auroc=_rounded(auroc(data.present, count) or 0.0),
    )


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
