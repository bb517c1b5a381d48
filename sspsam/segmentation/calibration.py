"""Probability that an expression has a target, from the features of its answer: the model, its file, its binding."""

import dataclasses
import hashlib
import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sspsam.config import CALIBRATION_NAME
from sspsam.errors import CalibrationError, ConfigError, StorageError
from sspsam.messages import OptionMessage, argument
from sspsam.segmentation.features import FEATURES
from sspsam.utils.files import replace_file
from sspsam.utils.paths import open_regular_file, printable, shown, user_path
from sspsam.utils.strict_json import dataclass_from_json, parse_json_object, require

CALIBRATION_TYPE: Final = "sspsam presence calibration"
FORMAT_VERSION: Final = 1
LOGARITHMIC: Final = frozenset({"foreground_pixels", "components"})  # counts, used as log(1 + count)
_MAX_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class FeatureTerm:
    """Contribution of one feature to the logit of the probability: coefficient * (x - mean) / scale.

    Args:
        name: of `features.FEATURES`; x is the feature, or the logarithm of 1 + the feature for a count.
        mean, scale: of x in the data of the fit.
        lowest, highest: range of x in the data of the fit; other values are clipped to it.
        coefficient: of the standardised feature.
    """

    name: str
    mean: float
    scale: float
    lowest: float
    highest: float
    coefficient: float

    def __post_init__(self) -> None:
        name = repr(self.name[:60])
        require(self.name in FEATURES, f"terms: feature {name} is not known; this sspsam has {', '.join(FEATURES)}")
        for key in ("mean", "scale", "lowest", "highest", "coefficient"):
            require(math.isfinite(getattr(self, key)), f"terms: {key} of {name} is not finite")
        require(self.scale > 0, f"terms: scale of {name} must be positive, not {self.scale}")
        require(self.lowest <= self.highest, f"terms: lowest of {name} is above its highest")

    def contribution(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the contribution for (n,) values of the feature."""
        clipped = np.clip(transformed(self.name, values), self.lowest, self.highest)
        return self.coefficient * (clipped - self.mean) / self.scale


def transformed(name: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the logarithm of 1 + a count, and any other feature as it is."""
    return np.log1p(values) if name in LOGARITHMIC else values


@dataclass(frozen=True)
class CrossValidation:
    """Quality of a calibration on records that its fit did not use.

    Args:
        folds: number of parts; the records of one image are in one part.
        regularization: strength of the L2 penalty, the largest whose loss is within one standard error of the smallest.
        log_loss: mean negative logarithm of the probability of the truth.
        auroc: area under the ROC curve.
        ece: expected calibration error with 15 bins of equal width.
        count_auroc: area under the ROC curve of the number of foreground pixels, on the same records.
    """

    folds: int
    regularization: float
    log_loss: float
    auroc: float
    ece: float
    count_auroc: float

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            require(math.isfinite(value) and value >= 0, f"cross_validation.{field.name} is {value}, which cannot be")


@dataclass(frozen=True)
class Calibration:
    """A logistic model of presence, bound to the weights whose answers it was fitted on.

    Args:
        fingerprint: of the model.
        intercept: of the logit.
        terms: contribution of each feature to the logit.
        present, absent: numbers of expressions with and without a target in the data of the fit.
        cross_validation: quality on held-out parts of that data.
        sspsam: version that fitted it.
    """

    fingerprint: str
    intercept: float
    terms: tuple[FeatureTerm, ...]
    present: int
    absent: int
    cross_validation: CrossValidation
    sspsam: str

    def __post_init__(self) -> None:
        require(math.isfinite(self.intercept), "intercept is not finite")
        require(re.fullmatch("[0-9a-f]{64}", self.fingerprint) is not None, "fingerprint is no SHA-256")
        require(min(self.present, self.absent) > 0, "present and absent must be positive")
        names = [term.name for term in self.terms]
        require(len(names) > 0, "terms is empty")
        require(len(set(names)) == len(names), "terms has a feature twice")

    def probabilities(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability of presence for (n, F) features in the order of `features.FEATURES`: (n,)."""
        logit = np.full(len(features), self.intercept)
        for term in self.terms:
            logit += term.contribution(features[:, FEATURES.index(term.name)])
        return sigmoid(logit)

    @property
    def digest(self) -> str:
        """SHA-256 of the text of its file."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def of_fingerprint(self, fingerprint: str) -> Self:
        """Return the same calibration for the same model with its weights stored in another precision."""
        return dataclasses.replace(self, fingerprint=fingerprint)

    def to_json(self) -> str:
        """Return the text of a calibration file."""
        content = {"type": CALIBRATION_TYPE, "version": FORMAT_VERSION, **dataclasses.asdict(self)}
        return json.dumps(content, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> Self:
        """Parse and check the text of a calibration file; `where` names it in errors.

        Raises:
            CalibrationError: malformed; the message names the file and the key.
        """
        try:
            content = parse_json_object(text, where)
            kind, version = content.pop("type", None), content.pop("version", None)
            require(kind == CALIBRATION_TYPE, f"{where} is no calibration: type is not {CALIBRATION_TYPE!r}")
            require(
                type(version) is int and version == FORMAT_VERSION,
                f"{where}: version is {str(version)[:60]}, and this sspsam reads {FORMAT_VERSION}; upgrade sspsam or "
                "fit it again",
            )
        except ConfigError as error:
            raise CalibrationError(printable(str(error))) from None
        try:
            return dataclass_from_json(cls, content, "calibration")
        except ConfigError as error:
            raise CalibrationError(f"{where}: {printable(str(error))}") from None


CalibrationChoice: TypeAlias = Calibration | str | os.PathLike[str] | Literal[False] | None
"""A calibration, its file, None for the one beside the checkpoint, or False for none."""


def sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probabilities of logits."""
    return 1 / (1 + np.exp(-np.clip(logits, -500, 500)))


def read_calibration(path: str | os.PathLike[str]) -> Calibration:
    """Read a calibration file.

    Raises:
        CalibrationError: missing, not readable or malformed; the message names the file, and the key if one is wrong.
    """
    path = user_path(path, "the calibration", CalibrationError)
    try:
        with open_regular_file(path, CalibrationError) as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise CalibrationError(f"there is no calibration {shown(path)}; make one with: sspsam calibrate") from None
    except OSError as error:
        raise CalibrationError(f"cannot read {shown(path)}: {error.strerror or error}") from error
    if len(data) > _MAX_BYTES:
        raise CalibrationError(f"{shown(path)} is larger than {_MAX_BYTES} bytes; it is no calibration")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise CalibrationError(f"{shown(path)} is not UTF-8 text: {error}") from None
    return Calibration.from_json(text, shown(path))


def write_calibration(calibration: Calibration, path: str | os.PathLike[str]) -> Path:
    """Write a calibration atomically, into a folder under the name `calibration.json` or to a file; return the file.

    Raises:
        StorageError: it cannot be written.
    """
    target = user_path(path, "the calibration", StorageError)
    if os.path.isdir(target):
        target /= CALIBRATION_NAME
    replace_file(target, calibration.to_json().encode())
    return target


def calibration_of(choice: CalibrationChoice, checkpoint: Path, fingerprint: str) -> Calibration | None:
    """Return the calibration of a model, after a comparison of its fingerprint.

    Args:
        choice: a calibration, its file, None for the one beside the checkpoint, or False for none.
        checkpoint: directory, or `.safetensors` file, of the model.
        fingerprint: of the model.

    Raises:
        CalibrationError: the calibration is missing, malformed or of another model.
    """
    if choice is False:
        return None
    if isinstance(choice, Calibration):
        return _bound(choice, fingerprint, "the calibration")
    beside = (checkpoint if os.path.isdir(checkpoint) else checkpoint.parent) / CALIBRATION_NAME
    if choice is None and not os.path.lexists(beside):
        return None
    path = beside if choice is None else user_path(choice, "the calibration", CalibrationError)
    return _bound(read_calibration(path), fingerprint, shown(path))


def _bound(calibration: Calibration, fingerprint: str, where: str) -> Calibration:
    if calibration.fingerprint != fingerprint:
        raise CalibrationError(
            OptionMessage(
                f"{where} was fitted on another model (fingerprint {shown(calibration.fingerprint[:20])}..., this "
                f"model has {fingerprint[:20]}...): fit it again with sspsam calibrate, or load the model without one "
                "by ",
                argument("calibration=False", "--no-calibration"),
            )
        )
    return calibration
