"""A whole batch: pictures through the model, files and lines out, in order and so that a crash costs nothing."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from sspsam import __version__
from sspsam.answers import AnswerOptions
from sspsam.batch.coco import coco_file
from sspsam.batch.ledger import Ledger, Line, open_ledger
from sspsam.batch.manifest import Manifest, Task, manifest_of
from sspsam.batch.naming import stems_of
from sspsam.batch.options import BatchOptions, BatchSummary
from sspsam.batch.writing import Outcome, PictureWriter, Recorder, WritingThreads
from sspsam.batching import default_batch_size
from sspsam.devices import dtype_name
from sspsam.errors import ImageError
from sspsam.predictor import SSPSAMPredictor
from sspsam.progress import counting
from sspsam.storage import replacing, write_file
from sspsam.text import Tokenizer

_JOB_VERSION: Final = 1


def run_batch(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
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
    config = predictor.config
    AnswerOptions.checked(config, options.mask_threshold, options.no_target_pixels, None, explain=False)
    manifest = manifest_of(
        Path(source) if isinstance(source, str | os.PathLike) else source,
        Path(output),
        [texts] if isinstance(texts, str) else texts,
        None if prompts is None else Path(prompts),
        options.glob,
        Tokenizer(config.architecture.clip.context_length, config.preprocessing.text_template),
    )
    batch = _Batch(manifest, predictor, options)
    job = batch.asked() | {"input": str(Path(source).absolute()) if isinstance(source, str | os.PathLike) else None}
    with open_ledger(Path(output), options.shard, job, options.overwrite) as ledger:
        return batch.run(ledger, progress)


class _Batch:
    """What is to be done, and by whom.

    Args:
        manifest: the pictures, other shards' among them.
        predictor: answers.
        options: see there.
    """

    def __init__(self, manifest: Manifest, predictor: SSPSAMPredictor, options: BatchOptions) -> None:
        self.manifest, self.predictor, self.options = manifest, predictor, options
        self.unit = options.batch_size or default_batch_size(predictor.device)
        self.part = options.shard.part(len(manifest.tasks), self.unit)
        stems = stems_of([task.image for task in manifest.tasks])
        self.stems = {manifest.tasks[index].image: stems[index] for index in self.part}

    def asked(self) -> Line:
        """All that the answers depend on but the pictures, as plain values."""
        same = {task.texts for task in self.manifest.tasks}
        texts: Any = list(next(iter(same)))
        if len(same) > 1:
            every = [[task.image, *task.texts] for task in self.manifest.tasks]
            texts = {"sha256": hashlib.sha256(json.dumps(every).encode()).hexdigest()}
        postprocessing = self.predictor.config.postprocessing
        return {
            "version": _JOB_VERSION,
            "sspsam": __version__,
            "model": self.predictor.origin,
            "fingerprint": self.predictor.fingerprint,
            "precision": f"{dtype_name(self.predictor.dtype)} on {self.predictor.device.type}",
            "rounded_to": self._rounded_to(),
            "texts": texts,
            "formats": sorted(set(self.options.formats)),
            "glob": self.options.glob,
            "shard": f"{self.options.shard.number} of {self.options.shard.count}",
            "batch_size": self.unit,
            "mask_threshold": _or(self.options.mask_threshold, postprocessing.mask_threshold),
            "no_target_pixels": _or(self.options.no_target_pixels, postprocessing.no_target_pixels),
            "max_pixels": self.options.max_pixels,
        }

    def _rounded_to(self) -> str:
        """The precision in which embeddings are answered from; a cache may be narrower than the model."""
        cache = self.predictor.embedding_cache
        return dtype_name(torch.float32 if cache is None else cache.dtype)

    def run(self, ledger: Ledger, progress: bool) -> BatchSummary:
        """Do what is left to do."""
        tasks = [self.manifest.tasks[index] for index in self.part]
        earlier, failed = (sum(task.image in one.done for task in tasks) for one in (ledger.results, ledger.errors))
        made_by = {"model": self.predictor.origin, "fingerprint": self.predictor.fingerprint, "sspsam": __version__}
        write = PictureWriter(ledger.output, ledger.temporary, self.options.formats, made_by)
        with counting("pictures", len(tasks), earlier + failed, progress) as advance:
            recorder = Recorder(ledger, self.options.max_errors, advance)
            with WritingThreads(write, recorder) as threads:
                for task, outcome in self._outcomes(tasks, ledger):
                    if task.image not in ledger.done:  # else it is here for the others of its batch
                        threads.add(task, self.stems[task.image], outcome)
                threads.finish()
        self._write_whole(ledger)
        return BatchSummary(
            pictures=len(tasks),
            done=recorder.pictures,
            earlier=earlier,
            failed=len(ledger.errors.done),
            expressions=recorder.expressions,
            no_target=recorder.no_target,
            passed_over=self.manifest.passed_over,
        )

    def _write_whole(self, ledger: Ledger) -> None:
        """Files about all the results, once those are there."""
        if "coco" in self.options.formats:
            lines = (json.loads(line) for line in ledger.results.lines())
            path = ledger.output / ledger.shard.name("coco", ".json")
            with replacing(path, within=ledger.temporary) as [temporary]:
                write_file(temporary, lambda file: file.writelines(coco_file(lines)))

    def _outcomes(self, tasks: Sequence[Task], ledger: Ledger) -> Iterator[tuple[Task, Outcome]]:
        """What becomes of each picture, in order; whole batches, as a run without interruption computes them."""
        batches = [tasks[start : start + self.unit] for start in range(0, len(tasks), self.unit)]
        todo = [task for batch in batches if any(task.image not in ledger.done for task in batch) for task in batch]
        options = self.options
        outcomes = self.predictor.predict_batch(
            (task.path for task in todo),
            (task.texts for task in todo),
            batch_size=self.unit,
            workers=options.workers,
            mask_threshold=options.mask_threshold,
            no_target_pixels=options.no_target_pixels,
            max_pixels=options.max_pixels,
            return_errors=True,
        )
        for task, outcome in zip(todo, outcomes, strict=True):
            yield task, outcome if task.problem is None else ImageError(task.problem)


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
