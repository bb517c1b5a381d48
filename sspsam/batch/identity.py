"""Everything that determines the answers of a batch, as `job.json` records it and a resumed run compares it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import torch

from sspsam._version import __version__
from sspsam.batch.manifest import Task
from sspsam.batch.options import BatchOptions
from sspsam.batch.records import Line
from sspsam.config import ModelConfig
from sspsam.devices import dtype_name
from sspsam.predictor import SSPSAMPredictor
from sspsam.segmentation.exports.answer_files import ANSWER_SUFFIXES
from sspsam.utils.batching import default_batch_size

_JOB_VERSION: Final = 1


@dataclass(frozen=True)
class AnswerIdentity:
    """Everything about a predictor that determines the answers; compared when a run resumes.

    Args:
        config: configuration of the model.
        origin: source of the weights.
        fingerprint: of the model.
        precision: dtype and kind of device of the image encoders, such as `"float16 on cuda"`. This spelling is stored
            in `job.json`, and that of `PredictorIdentity.precision` in cache entries: a change of either would end the
            use of stored files.
        embedding_dtype: dtype of the embeddings; that of the embedding cache, if there is one.
        batch_size: images that are encoded together, unless the options say otherwise.
        calibration: SHA-256 of the calibration of presence; None without one.
    """

    config: ModelConfig
    origin: str
    fingerprint: str
    precision: str
    embedding_dtype: str
    batch_size: int
    calibration: str | None = None

    @classmethod
    def from_predictor(
        cls, predictor: SSPSAMPredictor, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """Return the identity of a predictor, or of a predictor with the same weights elsewhere.

        Args:
            predictor: has the weights and the embedding cache.
            device: None: the predictor's.
            dtype: None: the predictor's.
        """
        device, dtype = device or predictor.device, dtype or predictor.dtype
        cache = predictor.embedding_cache
        return cls(
            config=predictor.config,
            origin=predictor.origin,
            fingerprint=predictor.fingerprint,
            precision=f"{dtype_name(dtype)} on {device.type}",
            embedding_dtype=dtype_name(torch.float32 if cache is None else cache.dtype),
            batch_size=default_batch_size(device),
            calibration=None if predictor.calibration is None else predictor.calibration.digest,
        )

    @property
    def provenance(self) -> dict[str, str]:
        """Entries about the model in every line of `results.jsonl`."""
        return {"model": self.origin, "fingerprint": self.fingerprint, "sspsam": __version__}


def job_record(
    identity: AnswerIdentity, source: str | None, tasks: Sequence[Task], chunk_size: int, options: BatchOptions
) -> Line:
    """Return the content of `job.json`: everything that determines the answers, except the pixels of the images.

    Args:
        identity: of the predictor.
        source: resolved path of the input; None: a list of paths.
        tasks: of all shards.
        chunk_size: images that are encoded together.
        options: of the batch.
    """
    postprocessing, shard = identity.config.postprocessing, options.shard
    record: Line = {
        "version": _JOB_VERSION,
        "sspsam": __version__,
        "input": source,
        "model": identity.origin,
        "fingerprint": identity.fingerprint,
        "precision": identity.precision,
        "rounded_to": identity.embedding_dtype,
        "texts": _texts_record(tasks),
        # the other formats are made from results.jsonl, also after the run
        "formats": sorted(set(ANSWER_SUFFIXES) & set(options.formats)),
        "glob": options.glob,
        "shard": shard.number,
        "shards": shard.count,
        # images may be added between two runs, but not between two shards, which would then split different lists
        "pictures": None if shard.count == 1 else _images_record(tasks),
        "batch_size": chunk_size,
        "mask_threshold": _value_or(options.mask_threshold, postprocessing.mask_threshold),
        "no_target_pixels": _value_or(options.no_target_pixels, postprocessing.no_target_pixels),
        "max_pixels": options.max_pixels,
    }
    if any(task.labels for task in tasks):  # a job without labels is equal to one of a version without labels
        record["labels"] = _labels_record(tasks)
    # a job without these is equal to one of a version without calibrations
    if identity.calibration is not None:
        record["calibration"] = identity.calibration
    if options.presence_threshold is not None:
        record["presence_threshold"] = options.presence_threshold
    return record


def _texts_record(tasks: Sequence[Task]) -> list[str] | dict[str, Any]:
    """Return the expressions that all images have in common, or a digest of all images and their expressions."""
    distinct = {task.texts for task in tasks}
    if len(distinct) == 1:
        return list(tasks[0].texts)
    return {"sha256": _json_digest([[task.image, *task.texts] for task in tasks])}


def _labels_record(tasks: Sequence[Task]) -> list[str | None] | dict[str, Any]:
    """Return the labels that all images have in common, or a digest of all images and their labels."""
    distinct = {task.labels for task in tasks}
    if len(distinct) == 1:
        return list(tasks[0].labels)
    return {"sha256": _json_digest([[task.image, *task.labels] for task in tasks])}


def _images_record(tasks: Sequence[Task]) -> dict[str, Any]:
    return {"count": len(tasks), "sha256": _json_digest([task.image for task in tasks])}


def _json_digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _value_or(value: float | None, default: float) -> float:
    return default if value is None else value
