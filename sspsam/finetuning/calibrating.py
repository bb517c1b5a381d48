"""Calibration of the new checkpoint on data that never trained, so that its answers have a presence."""

from collections.abc import Sequence
from pathlib import Path

from sspsam.errors import EvaluationError
from sspsam.evaluation.calibration import fit_calibration, labelled_features
from sspsam.evaluation.datasets.entry import Entry
from sspsam.evaluation.model_answers import model_records
from sspsam.evaluation.protocols import STANDARD
from sspsam.images.cache import EmbeddingCache
from sspsam.predictor import SSPSAMPredictor
from sspsam.segmentation.calibration import write_calibration


def calibrate_if_possible(
    checkpoint: Path, entries: Sequence[Entry], device: str, dtype: str | None, embeddings: EmbeddingCache
) -> str:
    """Calibrate a checkpoint, and return a message about it.

    Args:
        checkpoint: directory of the checkpoint.
        entries: that did not train: held-out lines, and foreign phrases about their images.
        device: to answer on.
        dtype: precision of the image encoders in which `embeddings` were made; None: the predictor's default.
        embeddings: of the images, which the checkpoint shares with its starting point.

    Returns:
        The message: that the checkpoint is calibrated, or why it is not.
    """
    predictor = SSPSAMPredictor.from_pretrained(checkpoint, device=device, dtype=dtype, embedding_cache=embeddings)
    groups: dict[Path, list[int]] = {}
    for index, entry in enumerate(entries):
        groups.setdefault(entry.image, []).append(index)
    parts = model_records(predictor, entries, list(groups.values()), STANDARD)
    records = [record for part in parts for record in part]
    try:
        features = labelled_features(records, predictor.fingerprint)
        write_calibration(fit_calibration(features, predictor.fingerprint), checkpoint)
    except EvaluationError as error:
        return f"not calibrated: {error}"
    return "calibrated on the held-out lines: answers have a presence"
