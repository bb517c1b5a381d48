"""A whole batch: pictures through the model, files and lines out, in order and so that a crash costs nothing."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self, cast

import torch

from sspsam._version import __version__
from sspsam.batch.coco import coco_file
from sspsam.batch.ledger import Ledger, open_ledger
from sspsam.batch.manifest import Manifest, Task, manifest_of
from sspsam.batch.naming import stems_of
from sspsam.batch.options import BatchOptions, BatchSummary
from sspsam.batch.parquet import require_pyarrow, write_parquet
from sspsam.batch.records import Line
from sspsam.batch.writing import Outcome, PictureWriter, Recorder, written
from sspsam.config import ModelConfig
from sspsam.devices import dtype_name
from sspsam.errors import BatchError, ImageError, ManifestError
from sspsam.predictor import SSPSAMPredictor
from sspsam.segmentation.answers import AnswerSettings
from sspsam.text.tokenizer import Tokenizer
from sspsam.utils.batching import default_batch_size
from sspsam.utils.files import atomic_replace, write_file
from sspsam.utils.progress import item_progress

_JOB_VERSION: Final = 1
Source = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def run_batch(
    source: Source,
    output: str | os.PathLike[str],
    texts: str | Sequence[str] | None = None,
    *,
    predictor: SSPSAMPredictor,
    prompts: str | os.PathLike[str] | None = None,
    options: BatchOptions | None = None,
    progress: bool = False,
) -> BatchSummary:
    """Segment many pictures into a folder; the same call goes on where an earlier one was stopped.

    The folder mirrors the input: `sub/a.jpg` gives `sub/a.jpg-1.png` for the first expression. `results.jsonl` has a
    line for each picture and expression, `errors.jsonl` one for each picture that could not be done.

    Args:
        source: a folder, a picture, a list (`.txt`) or table (`.csv`, `.jsonl`) of pictures, or their paths.
        output: folder to write; made if need be.
        texts: an expression, or several, about every picture.
        predictor: answers.
        prompts: a file of expressions instead: `.txt` for every picture, a table for each its own.
        options: see `BatchOptions`.
        progress: whether to show a bar, if standard error is a terminal.

    Raises:
        ManifestError, TextError: what is to be done cannot be understood; nothing was done.
        BatchError: `output` is in use, not ours, or was begun with other options; or too many pictures failed.
        StorageError: a file cannot be written. Nothing is lost: the same call goes on.
    """
    options = options or BatchOptions()
    batch = Batch.of(source, output, texts, prompts, Answering.by(predictor), options)

    def answered(units: Sequence[Unit], write: PictureWriter) -> Iterator[list[Line]]:
        return written(outcomes_of(units, predictor, options), write)

    return batch.run(answered, progress)


@dataclass(frozen=True)
class Answering:
    """Who answers, as far as the answers depend on it.

    Args:
        config: of the model.
        origin: where its weights are from.
        fingerprint: of the model.
        precision: that it computes in, and where.
        rounded_to: the precision of the embeddings that are asked; a cache may be narrower than the model.
        batch_size: pictures that it encodes together, unless the options say otherwise.
    """

    config: ModelConfig
    origin: str
    fingerprint: str
    precision: str
    rounded_to: str
    batch_size: int

    @classmethod
    def by(cls, predictor: SSPSAMPredictor) -> Self:
        """A predictor as it is."""
        return cls.like(predictor, predictor.device, predictor.dtype)

    @classmethod
    def like(cls, predictor: SSPSAMPredictor, device: torch.device, dtype: torch.dtype) -> Self:
        """A predictor of the same weights, elsewhere."""
        cache = predictor.embedding_cache
        precision = f"{dtype_name(dtype)} on {device.type}"
        rounded_to = dtype_name(torch.float32 if cache is None else cache.dtype)
        size = default_batch_size(device)
        return cls(predictor.config, predictor.origin, predictor.fingerprint, precision, rounded_to, size)


@dataclass(frozen=True)
class Wanted:
    """A picture in a unit of work.

    Args:
        task: what is asked about it.
        stem: what the names of its files begin with.
        done: whether it is recorded already, and here only for the others that are encoded with it.
    """

    task: Task
    stem: str
    done: bool


Unit = list[Wanted]  # pictures that are encoded together


def outcomes_of(
    units: Sequence[Unit], predictor: SSPSAMPredictor, options: BatchOptions
) -> Iterator[tuple[Task, str, Outcome]]:
    """What becomes of each picture that is not done, in order."""
    pictures = [each for unit in units for each in unit]
    outcomes = predictor.predict_batch(
        (each.task.path for each in pictures),
        (each.task.texts for each in pictures),
        batch_size=max(len(unit) for unit in units) if units else 1,
        workers=options.workers,
        mask_threshold=options.mask_threshold,
        no_target_pixels=options.no_target_pixels,
        max_pixels=options.max_pixels,
        return_errors=True,
    )
    for each, outcome in zip(pictures, outcomes, strict=True):
        if not each.done:
            problem = each.task.problem
            yield each.task, each.stem, outcome if problem is None else ImageError(problem)


class Batch:
    """A batch in its folder.

    Args:
        manifest: the pictures, other shards' among them.
        source: where they came from, for the record.
        output: folder to write.
        answering: who answers.
        options: how.
    """

    def __init__(
        self, manifest: Manifest, source: str | None, output: Path, answering: Answering, options: BatchOptions
    ) -> None:
        self.manifest, self.source, self.output = manifest, source, output
        self.answering, self.options = answering, options
        self.unit = options.batch_size or answering.batch_size
        self.part = options.shard.part(len(manifest.tasks), self.unit)
        self.stems = stems_of([task.image for task in manifest.tasks])

    @classmethod
    def of(
        cls,
        source: Source,
        output: str | os.PathLike[str],
        texts: str | Sequence[str] | None,
        prompts: str | os.PathLike[str] | None,
        answering: Answering,
        options: BatchOptions,
    ) -> Self:
        """Settle what is to be done; see `run_batch`."""
        config, where = answering.config, Path(output)
        AnswerSettings.of(
            config, {"mask_threshold": options.mask_threshold, "no_target_pixels": options.no_target_pixels}
        )
        place = Path(source) if isinstance(source, str | os.PathLike) else None
        manifest = manifest_of(
            place if place is not None else cast(Sequence[str | os.PathLike[str]], source),
            where,
            [texts] if isinstance(texts, str) else texts,
            None if prompts is None else Path(prompts),
            options.glob,
            Tokenizer(config.architecture.clip.context_length, config.preprocessing.text_template),
        )
        if place is not None and place.is_dir() and where.exists() and place.samefile(where):
            raise ManifestError(f"{where} is the input: choose another folder for the masks")
        # errors name files alike from wherever, and on whichever machine, they are read
        tasks = tuple(replace(task, path=task.path.absolute()) for task in manifest.tasks)
        manifest = replace(manifest, tasks=tasks)
        return cls(manifest, None if place is None else str(place.resolve()), where, answering, options)

    def asked(self) -> Line:
        """All that the answers depend on but the pictures, as plain values."""
        same = {task.texts for task in self.manifest.tasks}
        texts: Any = list(next(iter(same)))
        if len(same) > 1:
            every = [[task.image, *task.texts] for task in self.manifest.tasks]
            texts = {"sha256": hashlib.sha256(json.dumps(every).encode()).hexdigest()}
        postprocessing, shard = self.answering.config.postprocessing, self.options.shard
        return {
            "version": _JOB_VERSION,
            "sspsam": __version__,
            "input": self.source,
            "model": self.answering.origin,
            "fingerprint": self.answering.fingerprint,
            "precision": self.answering.precision,
            "rounded_to": self.answering.rounded_to,
            "texts": texts,
            "formats": sorted({"mask", "overlay"} & set(self.options.formats)),  # the others are made of results.jsonl
            "glob": self.options.glob,
            "shard": shard.number,
            "shards": shard.count,
            "pictures": None if shard.count == 1 else self._pictures(),  # a folder may grow, but not between shards
            "batch_size": self.unit,
            "mask_threshold": _or(self.options.mask_threshold, postprocessing.mask_threshold),
            "no_target_pixels": _or(self.options.no_target_pixels, postprocessing.no_target_pixels),
            "max_pixels": self.options.max_pixels,
        }

    def _pictures(self) -> Line:
        digest = hashlib.sha256(json.dumps([task.image for task in self.manifest.tasks]).encode()).hexdigest()
        return {"count": len(self.manifest.tasks), "sha256": digest}

    def run(
        self, answered: Callable[[Sequence[Unit], PictureWriter], Iterator[list[Line]]], progress: bool
    ) -> BatchSummary:
        """Do what is left to do.

        Args:
            answered: has pictures answered and their files written; gives the lines of each that is not done, in order.
            progress: whether to show a bar.
        """
        made_by = {"model": self.answering.origin, "fingerprint": self.answering.fingerprint, "sspsam": __version__}
        if "parquet" in self.options.formats:
            require_pyarrow()
        options, images = self.options, [self.manifest.tasks[index].image for index in self.part]
        stems = [self.stems[index] for index in self.part]
        with open_ledger(self.output, options.shard, self.asked(), options.overwrite, stems) as ledger:
            if options.retry_errors:
                ledger.errors.clear()
            earlier, failed = (sum(image in one.done for image in images) for one in (ledger.results, ledger.errors))
            if options.max_errors is not None and failed > options.max_errors:
                raise BatchError(
                    f"{failed} pictures failed in earlier runs, more than {options.max_errors}; they are listed in "
                    f"{ledger.errors.path}. Once they are mended, try them again with retry_errors"
                )
            write = PictureWriter(self.output, ledger.temporary, options.formats, made_by)
            with item_progress("pictures", len(images), earlier + failed, progress) as advance:
                recorder = Recorder(ledger, options.max_errors, failed, advance)
                for lines in answered(self._units(ledger.done), write):
                    recorder.record(lines)
            self._write_whole(ledger)
        return BatchSummary(
            pictures=len(images),
            done=recorder.pictures,
            earlier=earlier,
            failed=recorder.failures,
            expressions=recorder.expressions,
            no_target=recorder.no_target,
            passed_over=self.manifest.passed_over,
        )

    def _units(self, done: Set[str]) -> list[Unit]:
        """What is left to do; whole units, as a run without interruption computes them."""
        units = [self.part[start : start + self.unit] for start in range(0, len(self.part), self.unit)]
        tasks, stems = self.manifest.tasks, self.stems
        left = [[Wanted(tasks[i], stems[i], tasks[i].image in done) for i in unit] for unit in units]
        return [unit for unit in left if not all(each.done for each in unit)]

    def _write_whole(self, ledger: Ledger) -> None:
        """Files about all the results, once those are there."""
        if "coco" in self.options.formats:
            path = ledger.output / ledger.shard.name("coco", ".json")
            with atomic_replace(path, within=ledger.temporary) as [temporary]:
                answers = map(json.loads, ledger.results.lines())
                write_file(temporary, lambda file: file.writelines(coco_file(answers, self.manifest.tasks)))
        if "parquet" in self.options.formats:
            path = ledger.output / ledger.shard.name("results", ".parquet")
            with atomic_replace(path, within=ledger.temporary) as [temporary]:
                write_file(temporary, lambda file: write_parquet(file, map(json.loads, ledger.results.lines())))


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
