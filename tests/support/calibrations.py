"""Calibrations and records with chosen numbers, for tests."""

from typing import Any

import numpy as np

from sspsam.evaluation.records import Record
from sspsam.segmentation.calibration import Calibration, CrossValidation, FeatureTerm
from sspsam.segmentation.features import FEATURES

QUALITY = CrossValidation(folds=5, regularization=1.0, log_loss=0.1, auroc=0.9, ece=0.01, count_auroc=0.8)


def calibration_with(fingerprint: str, intercept: float = 0.0, **coefficients: float) -> Calibration:
    """A calibration whose terms have the mean 0 and the scale 1."""
    terms = tuple(
        FeatureTerm(name, mean=0.0, scale=1.0, lowest=-1e6, highest=1e6, coefficient=coefficients.get(name, 0.0))
        for name in FEATURES
    )
    return Calibration(fingerprint, intercept, terms, 60, 50, QUALITY, "0.0")


def synthetic_records(count: int, fingerprint: str, seed: int = 0, weight: float = 2.0) -> list[Record]:
    """Records of five expressions for each image whose truth is drawn from a logistic model of `max_logit`."""
    rng = np.random.default_rng(seed)
    records = []
    for index in range(count):
        values = dict(zip(FEATURES, rng.normal(size=len(FEATURES)).tolist(), strict=True))
        pixels = int(rng.integers(0, 5000))
        values |= {"foreground_pixels": pixels, "components": int(rng.integers(0, 4)), "similarity_peak": 1.0}
        chance = 1 / (1 + np.exp(-weight * values["max_logit"] - 0.5))
        absent = bool(rng.random() > chance)
        shown: dict[str, Any] = {"image": f"{index // 5}.png", "text": f"thing {index}"}
        truth = (index, absent, pixels < 50, 0, pixels, 0 if absent else 10)
        records.append(Record(*truth, foreground_pixels=pixels, features=values, fingerprint=fingerprint, **shown))
    return records
