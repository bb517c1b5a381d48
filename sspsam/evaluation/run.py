"""`run_evaluation`: a split of a data set -> records and metrics; an interrupted run is resumed, shards are merged."""

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sspsam.devices import dtype_name
from sspsam.errors import EvaluationError
from sspsam.evaluation.datasets.entries import DEFAULT_SPLIT_BY, read_dataset
from sspsam.evaluation.datasets.entry import Entry
from sspsam.evaluation.datasets.places import require_images, require_texts
from sspsam.evaluation.environment import package_versions
from sspsam.evaluation.hub_results import FOLDER as RESULTS_FOLDER
from sspsam.evaluation.hub_results import eval_results_path, write_eval_results
from sspsam.evaluation.job import EvaluationJob, path_or_none
from sspsam.evaluation.metrics import compute_metrics
from sspsam.evaluation.model_answers import IMAGES_TOGETHER, Group, model_records
from sspsam.evaluation.predictions import predicted_masks, score_predictions
from sspsam.evaluation.protocols import OFFICIAL, PHRASECUT
from sspsam.evaluation.records import Record
from sspsam.evaluation.records_file import (
    ANNOTATIONS,
    RecordsFile,
    complete_records,
    lock_records,
    read_settings,
    replace_records,
    require_equal_settings,
    require_equal_shards,
    resumed_records,
    write_settings,
)
from sspsam.evaluation.reliability import RELIABILITY_NAME, write_reliability_diagram
from sspsam.evaluation.report import TABLE_NAME, markdown_table
from sspsam.evaluation.task_subsets import TaskSubsets
from sspsam.evaluation.worst_cases import FOLDER as WORST_FOLDER
from sspsam.evaluation.worst_cases import draw_worst_cases, remove_worst_cases
from sspsam.messages import OVERWRITE, OptionMessage
from sspsam.predictor import SSPSAMPredictor
from sspsam.utils.arguments import true_or_false
from sspsam.utils.files import TEMPORARY_PATTERN, replace_file, storage_errors
from sspsam.utils.paths import shown
from sspsam.utils.progress import item_progress

_VERSION: Final = 1  # of the settings file
_SUMMARIES: Final = ("metrics.json", TABLE_NAME, RELIABILITY_NAME)
_STALE_SECONDS: Final = 3600  # after which no other shard writes a temporary file any more
# keys of the settings that `metrics.json` repeats
DESCRIPTION: Final = (
    "dataset",
    "split",
    "split_by",
    "protocol",
    "torchvision_017",
    "limit",
    "model",
    "fingerprint",
    "dtype",
    "device",
    "calibration",
)


@dataclass(frozen=True)
class Evaluation:
    """The result of a run.

    Args:
        records: of this run, in the order of the entries; of all shards where all are complete.
        metrics: the content of `metrics.json`; None while other shards are missing.
        missing_shards: names of the records files that are missing or incomplete.
    """

    records: list[Record]
    metrics: dict[str, Any] | None
    missing_shards: tuple[str, ...] = ()


def run_evaluation(
    job: EvaluationJob,
    *,
    predictor: SSPSAMPredictor | None = None,
    predictions: Path | None = None,
    output: Path | None = None,
    overwrite: bool = False,
    worst: int = 0,
    progress: bool = False,
) -> Evaluation:
    """Evaluate a predictor, or the predictions of any program, on a split.

    Args:
        job: the data set and the protocol.
        predictor: that answers; None: `predictions`.
        predictions: see `score_predictions`; None: `predictor`.
        output: folder for `records.jsonl` and `evaluation.json`, from which a run is resumed, `metrics.json`,
            `metrics.md`, `reliability.png` where there are probabilities of presence, and `.eval_results` where the
            Hub has the data set; None: no file is written.
        overwrite: whether to remove the records of an earlier run first.
        worst: largest number of the worst answers of each kind that are drawn into the folder `worst`, when all
            records are there.
        progress: whether to show a bar on standard error.

    Raises:
        EvaluationError: the predictions do not fit, an earlier run had other settings, or its records are damaged.
        DatasetError, DatasetMissingError: the data set cannot be read, or files are missing.
        SSPSAMError: an image cannot be segmented; the records before it are kept, and the run can be resumed.
    """
    if (predictor is None) == (predictions is None):
        raise TypeError("give run_evaluation a predictor or predictions")
    overwrite = true_or_false("overwrite", overwrite)
    if output is None and job.shard[1] > 1:
        raise EvaluationError("a shard needs an output folder, from which the shards are merged")
    job = job.expanded()
    predictions, output = path_or_none(predictions, "the predictions"), path_or_none(output, "the output folder")
    entries = _entries(job)
    n = len(entries) if job.limit is None else min(job.limit, len(entries))
    if not n:
        raise EvaluationError(f"{job.dataset} has no expression in the split {job.split}")
    subsets = _subsets(job)
    settings = _settings(job, entries[:n], predictor, predictions)
    groups = _shard_groups(_image_groups(entries[:n]), job.shard)
    if predictor is not None:
        chosen = [entries[index] for group in groups for index in group]
        require_images(chosen, job.dataset)
        require_texts(chosen)
    source = _Source(job, entries, predictor, predictions)
    with ExitStack() as stack:
        file = None if output is None else _opened(stack, job, settings, output, overwrite)
        done = [] if file is None else file.records
        records = done + [record for part in _answered(source, groups, done, file, progress) for record in part]
    if output is None:
        return _Report(job, settings, entries[:n], subsets).evaluation(records)
    replace_records(output / job.file_name("records", ".jsonl"), records)
    evaluation = _merged(_Report(job, settings, entries[:n], subsets), output)
    if evaluation.metrics is not None:
        write_eval_results(evaluation.metrics, output, date.today())
        if worst:
            title = f"{job.dataset} {job.split}, protocol {job.protocol}"
            draw_worst_cases(evaluation.records, entries, source, output, worst, title)
    return evaluation


def _remove_temporary_files(output: Path, age: float) -> None:
    """Remove files that a killed run left before they were complete, if they are older than `age` seconds."""
    for folder in (output, output / WORST_FOLDER, output / RESULTS_FOLDER):
        for path in folder.glob(TEMPORARY_PATTERN):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime >= age:
                    path.unlink()


def _entries(job: EvaluationJob) -> list[Entry]:
    """Read the whole split: predictions have a line for each entry, also with a limit."""
    return read_dataset(
        job.dataset, job.split, data_root=job.data_root, split_by=job.split_by, image_root=job.image_root
    )


def _settings(
    job: EvaluationJob, entries: Sequence[Entry], predictor: SSPSAMPredictor | None, predictions: Path | None
) -> dict[str, Any]:
    """Return everything that the records depend on, as JSON values, and the protocol."""
    lines = "".join(f"{entry.key}\t{entry.image.name}\t{entry.text}\t{entry.size}\n" for entry in entries)
    return {
        "version": _VERSION,
        "dataset": job.dataset,
        "split": job.split,
        "split_by": job.split_by or DEFAULT_SPLIT_BY.get(job.dataset),
        "protocol": job.protocol,
        "grid": "frame" if job.protocol == OFFICIAL else "tasks" if job.protocol == PHRASECUT else "image",
        "torchvision_017": job.torchvision_017 if job.protocol == OFFICIAL else False,
        "limit": job.limit,
        "entries": hashlib.sha256(lines.encode("utf-8", "surrogatepass")).hexdigest(),
        ANNOTATIONS: hashlib.sha256(
            "".join(f"{entry.no_target} {entry.box}\n" for entry in entries).encode()
        ).hexdigest(),
        "model": None if predictor is None else predictor.origin,
        "fingerprint": None if predictor is None else predictor.fingerprint,
        "dtype": None if predictor is None else dtype_name(predictor.dtype),
        "device": None if predictor is None else predictor.device.type,
        "calibration": None if predictor is None or predictor.calibration is None else predictor.calibration.digest,
        "predictions": None if predictions is None else _digest(predictions),
    }


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file of predictions, or of the names and contents of a folder of masks."""
    digest = hashlib.sha256()
    try:
        for file in sorted(path.glob("*.png")) if os.path.isdir(path) else [path]:
            digest.update(file.name.encode("utf-8", "surrogatepass") if os.path.isdir(path) else b"")
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    except OSError as error:
        raise EvaluationError(f"{shown(path)} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _image_groups(entries: Sequence[Entry]) -> list[Group]:
    """Return the indices of the expressions about each image, in the order in which the images first occur."""
    groups: dict[Path, list[int]] = {}
    for index, entry in enumerate(entries):
        groups.setdefault(entry.image, []).append(index)
    return list(groups.values())


def _shard_groups(groups: Sequence[Group], shard: tuple[int, int]) -> Sequence[Group]:
    """Return the groups of one shard: contiguous, and whole batches of images."""
    number, count = shard
    batches = -(-len(groups) // IMAGES_TOGETHER)
    first, last = (batches * edge // count * IMAGES_TOGETHER for edge in (number - 1, number))
    return groups[first:last]


def _opened(
    stack: ExitStack, job: EvaluationJob, settings: dict[str, Any], output: Path, overwrite: bool
) -> RecordsFile:
    """Lock the records of this run, remove or check the earlier run, and return the records to be continued."""
    path, settings_path = (output / job.file_name(*name) for name in (("records", ".jsonl"), ("evaluation", ".json")))
    file = stack.enter_context(lock_records(path))
    _remove_temporary_files(output, 0 if job.shard[1] == 1 else _STALE_SECONDS)
    with storage_errors(path):
        if overwrite:
            file.truncate(0)
        has_records = os.fstat(file.fileno()).st_size > 0
    if overwrite:
        remove_worst_cases(output)
        results = eval_results_path(output, job.dataset)
        for stale in (settings_path, *(output / name for name in _SUMMARIES), results):
            with storage_errors(stale):
                stale.unlink(missing_ok=True)
    earlier = read_settings(settings_path)
    if earlier is not None:
        require_equal_settings(settings, earlier, f"the earlier run in {shown(output)}")
    elif has_records:
        raise EvaluationError(f"{shown(path)} belongs to no run that can be resumed: choose another folder")
    else:
        if not overwrite:  # records that could not be merged with those of the other shards are not begun
            names = [job.file_name("evaluation", ".json", number) for number in range(1, job.shard[1] + 1)]
            require_equal_shards(settings, output, names)
        write_settings(settings_path, settings)
    return resumed_records(path, file)


@dataclass(frozen=True)
class _Source:
    """The answers to be compared: of a predictor, or in a file.

    Args:
        job: the protocol.
        entries: of the whole split.
        predictor, predictions: one of them is given.
    """

    job: EvaluationJob
    entries: Sequence[Entry]
    predictor: SSPSAMPredictor | None
    predictions: Path | None

    def records(self, groups: Sequence[Group]) -> Iterator[list[Record]]:
        """Yield the records of each group."""
        job = self.job
        if self.predictor is not None:
            yield from model_records(
                self.predictor, self.entries, groups, job.protocol, torchvision_017=job.torchvision_017
            )
            return
        assert self.predictions is not None
        records = score_predictions(
            self.predictions,
            self.entries,
            job.protocol,
            torchvision_017=job.torchvision_017,
            indices=[index for group in groups for index in group],
        )
        for group in groups:
            yield [next(records) for _ in group]

    def masks(self, indices: Sequence[int]) -> Iterator[tuple[int, NDArray[np.bool_]]]:
        """Yield index and (h, w) mask, before the no-target rule, of some expressions, image by image."""
        if self.predictor is None:
            assert self.predictions is not None
            yield from predicted_masks(self.predictions, self.entries, self.job.protocol, indices)
            return
        for group in _image_groups([self.entries[index] for index in indices]):
            chosen = [indices[position] for position in group]
            embedding = self.predictor.encode(self.entries[chosen[0]].image_input)
            for index in chosen:
                answer = self.predictor.predict(self.entries[index].text, embedding=embedding, no_target_pixels=0)
                yield index, answer.mask


def _answered(
    source: _Source, groups: Sequence[Group], done: Sequence[Record], file: RecordsFile | None, progress: bool
) -> Iterator[list[Record]]:
    """Yield the records that are new, after they are written; the first batch of images may be computed again."""
    order = [index for group in groups for index in group]
    indices = [record.index for record in done]
    if sorted(indices) == sorted(order):
        return
    if indices != order[: len(indices)]:
        raise EvaluationError(
            OptionMessage(
                "the records of the earlier run are not those of this split: choose another folder, or start again "
                "with ",
                OVERWRITE,
            )
        )
    known, first, position = set(indices), 0, 0
    while position + len(groups[first]) <= len(indices):
        position += len(groups[first])
        first += 1
    first -= first % IMAGES_TOGETHER
    with item_progress("expressions", len(order), len(indices), progress) as advance:
        for records in source.records(groups[first:]):
            new = [record for record in records if record.index not in known]
            if new and file is not None:
                file.append(new)
            for _ in new:
                advance()
            yield new


def _subsets(job: EvaluationJob) -> TaskSubsets | None:
    """Return the subsets of PhraseCut's tasks, for its own protocol."""
    if (job.dataset, job.protocol) != ("phrasecut", PHRASECUT):
        return None
    return TaskSubsets.read(job.data_root, job.split, job.phrasecut_words)


@dataclass(frozen=True)
class _Report:
    """Everything besides the records that `metrics.json` needs."""

    job: EvaluationJob
    settings: dict[str, Any]
    entries: Sequence[Entry]
    subsets: TaskSubsets | None

    def evaluation(self, records: Sequence[Record]) -> Evaluation:
        """Return the records in order, and the content of `metrics.json`."""
        ordered = sorted(records, key=lambda record: record.index)
        if self.subsets is None:
            numbers = compute_metrics(ordered, self.job.protocol)
        else:
            numbers = self.subsets.metrics(ordered, self.entries)
        described = {name: self.settings[name] for name in DESCRIPTION}
        return Evaluation(ordered, {**described, **numbers, "versions": package_versions()})


def _merged(report: _Report, output: Path) -> Evaluation:
    """Read the records of all shards; write `records.jsonl` and `metrics.json` where all are complete."""
    job, records, missing = report.job, [], []
    for number in range(1, job.shard[1] + 1):
        name = job.file_name("records", ".jsonl", number)
        other = read_settings(output / job.file_name("evaluation", ".json", number))
        if other is None or not os.path.isfile(output / name):
            missing.append(name)
            continue
        require_equal_settings(report.settings, other, f"the run of {name}")
        records += complete_records(output / name)
    if not missing and len(records) < len(report.entries):
        missing.append("some records of a shard that still runs")
    if missing:
        return Evaluation(records, None, tuple(missing))
    evaluation = report.evaluation(records)
    if job.shard[1] > 1:
        replace_records(output / "records.jsonl", records)
    write_settings(output / "metrics.json", evaluation.metrics or {})
    replace_file(output / TABLE_NAME, f"{markdown_table(evaluation.metrics or {})}\n".encode(errors="backslashreplace"))
    write_reliability_diagram(evaluation.records, output / RELIABILITY_NAME)
    return evaluation
