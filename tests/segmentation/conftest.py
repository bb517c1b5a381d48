"""Predictors of the bundled weights with and without a calibration."""

from collections.abc import Callable
from pathlib import Path

import pytest

import sspsam
from sspsam import SSPSAMPredictor
from sspsam.checkpoints.format import load_checkpoint
from sspsam.config import ModelConfig
from sspsam.models import SSPSAM
from tests.support.calibrations import calibration_with


@pytest.fixture(scope="module")
def loaded() -> tuple[SSPSAM, ModelConfig]:
    return load_checkpoint(Path(sspsam.__file__).parent / "bundled" / "shapes")


@pytest.fixture(scope="module")
def plain(loaded: tuple[SSPSAM, ModelConfig]) -> SSPSAMPredictor:
    return SSPSAMPredictor(*loaded, device="cpu")


@pytest.fixture(scope="module")
def with_calibration(loaded: tuple[SSPSAM, ModelConfig]) -> Callable[..., SSPSAMPredictor]:
    """Return a predictor of the same weights with a calibration of some coefficients."""

    def make(intercept: float = 0.0, **terms: float) -> SSPSAMPredictor:
        calibration = calibration_with(loaded[1].fingerprint, intercept, **terms)
        return SSPSAMPredictor(*loaded, device="cpu", calibration=calibration)

    return make
