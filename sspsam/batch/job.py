"""A batch from start to end: images through the model, files and lines in order, resumable after a crash."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from sspsam.batch.combined_outputs import CombinedOutputs
from sspsam.batch.identity import AnswerIdentity, job_record
from sspsam.batch.ledger import Ledger, open_ledger
from sspsam.batch.manifest import ImagePaths, Manifest, Task, build_manifest
from sspsam.batch.naming import output_stems
from sspsam.batch.options import BatchOptions, BatchSummary
from sspsam.batch.overlap import require_no_input_in
from sspsam.batch.records import Line
from sspsam.batch.writing import ImageOutcome, ImageWriter, Recorder, write_in_threads
from sspsam.errors import BatchError, ImageError, ManifestError, StorageError
from sspsam.messages import OptionMessage, argument
from sspsam.predictor import SSPSAMPredictor
from sspsam.segmentation.answers import AnswerSettings
from sspsam.text.tokenizer import Tokenizer
from sspsam.utils.paths import kind_name, user_path
from sspsam.utils.progress import item_progress

Source = str | os.PathLike[str] | ImagePaths


def run_batch(
    source: Source,
    output: str | os.PathLike[str],
    texts: str | Sequence[str] | None = None,
    *,
    predictor: SSPSAMPredictor,
    prompts: str | os.PathLike[str] | None = None,
    labels: Sequence[str] | None = None,
    options: BatchOptions | None = None,
    progress: bool = False,
) -> BatchSummary:
    """Segment many images into a folder; after an interruption, the same call resumes the run.

    The folder mirrors the input: the first mask of `sub/a.jpg` is `sub/a.jpg-1.png`. `results.jsonl` has a line for
    each image and expression, `errors.jsonl` one for each image that failed.

    Args:
        source: a folder, an image, a list (`.txt`) or table (`.csv`, `.jsonl`) of images, or the paths of images.
        output: folder to write; created if missing.
        texts: an expression, or several, for every image.
        predictor: computes the answers.
        prompts: a file of expressions instead of `texts`: `.txt` for every image, a table for each image its own.
        labels: category of each of `texts`, for the records and data sets; None: the expressions. A table has a column
            for them.
        options: see `BatchOptions`.
        progress: whether to show a progress bar, if standard error is a terminal.

    Returns:
        Counts of images and expressions.

    Raises:
        ManifestError, TextError: the images or expressions cannot be listed; nothing was written.
        BatchError: `output` is in use, holds other files, or belongs to a batch with other options; or more than
            `max_errors` images failed.
        StorageError: a file cannot be written. Nothing is lost: the same call resumes the run.
    """
    if not isinstance(predictor, SSPSAMPredictor):
        raise TypeError(f"predictor must be an SSPSAMPredictor, not {kind_name(predictor)}")
    if not isinstance(options, BatchOptions | None):
        raise TypeError(f"options must be BatchOptions(...), not {kind_name(options)}")
    options = (options or BatchOptions()).plain()
    identity = AnswerIdentity.from_predictor(predictor)
    expressions = BatchExpressions.of(texts, prompts, labels)
    batch = Batch.plan(source, output, expressions, identity, options, cache_folder(predictor))

    def answer(chunks: Sequence[Chunk], write: ImageWriter) -> Iterator[list[Line]]:
        return write_in_threads(predict_chunks(chunks, predictor, options), write)

    return batch.run(answer, progress)


def cache_folder(predictor: SSPSAMPredictor) -> Path | None:
    """Return the folder of a predictor's embedding cache, if there is one."""
    cache = predictor.embedding_cache
    return None if cache is None else cache.directory


@dataclass(frozen=True)
class BatchExpressions:
    """Expressions of a batch as the caller gave them.

    Args:
        texts: for every image; None: there is a file of them, or the input is a table.
        prompts: file of expressions.
        labels: category of each of `texts`.
    """

    texts: tuple[str, ...] | None
    prompts: Path | None
    labels: tuple[str, ...] | None

    @classmethod
    def of(
        cls,
        texts: str | Sequence[str] | None,
        prompts: str | os.PathLike[str] | None,
        labels: str | Sequence[str] | None,
    ) -> Self:
        """Return the expressions for the arguments of `run_batch`.

        Raises:
            ManifestError: the path of the prompts is empty or no path.
        """
        for name, value in (("texts", texts), ("labels", labels)):
            if not isinstance(value, Sequence | None):
                raise TypeError(f"{name} must be a string or a list of strings, not {kind_name(value)}")
        return cls(
            (texts,) if isinstance(texts, str) else None if texts is None else tuple(texts),
            None if prompts is None else user_path(prompts, "the file of prompts", ManifestError),
            (labels,) if isinstance(labels, str) else None if labels is None else tuple(labels),
        )


@dataclass(frozen=True)
class PlannedImage:
    """An image in a chunk.

    Args:
        task: the image and its expressions.
        stem: output stem of the image.
        is_recorded: whether the record already has the image's lines. The image is then encoded again only because its
            chunk has to have the same images as in a run without interruption, for the same floating-point results.
    """

    task: Task
    stem: str
    is_recorded: bool


Chunk = list[PlannedImage]  # images that are encoded together

# writes the files of the images in chunks; yields the lines of each image that is not recorded, in order
AnswerChunks = Callable[[Sequence[Chunk], ImageWriter], Iterator[list[Line]]]


def predict_chunks(
    chunks: Sequence[Chunk], predictor: SSPSAMPredictor, options: BatchOptions
) -> Iterator[ImageOutcome]:
    """Yield the outcome of each image that is not recorded, in order."""
    images = [image for chunk in chunks for image in chunk]
    outcomes = predictor.predict_batch(
        (image.task.path for image in images),
        (image.task.texts for image in images),
        batch_size=max((len(chunk) for chunk in chunks), default=1),
        workers=options.workers,
        mask_threshold=options.mask_threshold,
        no_target_pixels=options.no_target_pixels,
        presence_threshold=options.presence_threshold,
        max_pixels=options.max_pixels,
        return_errors=True,
    )
    for image, outcome in zip(images, outcomes, strict=True):
        if not image.is_recorded:
            problem = image.task.problem
            yield ImageOutcome(image.task, image.stem, outcome if problem is None else ImageError(problem))


class Batch:
    """A batch and its output folder.

    Args:
        manifest: the tasks of all shards.
        source: resolved path of the input, for the job file; None: a list of paths.
        output: folder to write.
        identity: of the predictor.
        options: of the batch.
    """

    def __init__(
        self, manifest: Manifest, source: str | None, output: Path, identity: AnswerIdentity, options: BatchOptions
    ) -> None:
        self.manifest, self.source, self.output = manifest, source, output
        self.identity, self.options = identity, options
        self.chunk_size = options.batch_size or identity.batch_size
        self.shard_indices = options.shard.part(len(manifest.tasks), self.chunk_size)
        self.stems = output_stems([task.image for task in manifest.tasks])  # of all shards, so that none collide

    @classmethod
    def plan(
        cls,
        source: Source,
        output: str | os.PathLike[str],
        expressions: BatchExpressions,
        identity: AnswerIdentity,
        options: BatchOptions,
        cache: Path | None,
    ) -> Self:
        """Check the arguments of a batch and list its tasks.

        Args:
            source, output: see `run_batch`.
            expressions: for the images.
            identity: of the predictor.
            options: of the batch.
            cache: folder of the predictor's embedding cache, which is not part of the input; None without a cache.

        Raises:
            ManifestError: the input or the expressions cannot be used; the message names the line or the path.
            StorageError: `output` is no path.
            BatchError: the output folder is part of the input.
            ConfigError, ValueError: an option is out of range.
        """
        config = identity.config
        AnswerSettings.of(
            config,
            {
                "mask_threshold": options.mask_threshold,
                "no_target_pixels": options.no_target_pixels,
                "presence_threshold": options.presence_threshold,
            },
            calibrated=identity.calibration is not None,
        )
        output = user_path(output, "the output folder", StorageError)
        input_path = None
        if not isinstance(source, str | os.PathLike | Iterable):
            raise TypeError(f"the input must be a path, or an iterable of paths, not {kind_name(source)}")
        if isinstance(source, str | os.PathLike):
            input_path = source = user_path(source, "the input", ManifestError)
        manifest = build_manifest(
            source,
            [output] if cache is None else [output, cache],
            expressions.texts,
            expressions.prompts,
            options.glob,
            Tokenizer(config.architecture.clip.context_length, config.preprocessing.text_template),
            expressions.labels,
        )
        require_no_input_in(output, input_path, manifest.tasks)
        # with absolute paths, the errors of an image are the same from every working directory and machine
        tasks = tuple(replace(task, path=task.path.absolute()) for task in manifest.tasks)
        resolved = None if input_path is None else os.path.realpath(input_path)
        return cls(replace(manifest, tasks=tasks), resolved, output, identity, options)

    def run(self, answer: AnswerChunks, progress: bool) -> BatchSummary:
        """Process all images of this shard that are not recorded yet.

        Args:
            answer: computes the answers and writes the files.
            progress: whether to show a progress bar.
        """
        options, all_images = self.options, [task.image for task in self.manifest.tasks]
        stem_of = dict(zip(all_images, self.stems, strict=True))
        combined = CombinedOutputs(self.output, self.manifest.tasks, stem_of, options)
        combined.require_possible()
        job = job_record(self.identity, self.source, self.manifest.tasks, self.chunk_size, options)
        images = [self.manifest.tasks[index].image for index in self.shard_indices]
        stems = [self.stems[index] for index in self.shard_indices]
        with open_ledger(self.output, options.shard, job, options.overwrite, stems) as ledger:
            if options.retry_errors:
                ledger.errors.clear()
            earlier, failed = (
                sum(image in record.images for image in images) for record in (ledger.results, ledger.errors)
            )
            self._check_earlier_failures(ledger, failed)
            provenance = {**self.identity.provenance, "model": ledger.model}
            write = ImageWriter(self.output, ledger.temporary, options.formats, provenance)
            with item_progress("images", len(images), earlier + failed, progress) as advance:
                recorder = Recorder(ledger, options.max_errors, failed, advance)
                for lines in answer(self._remaining_chunks(ledger.recorded_images), write):
                    recorder.record(lines)
            combined.write(ledger)
        return BatchSummary(
            pictures=len(images),
            done=recorder.images,
            earlier=earlier,
            failed=recorder.failed,
            expressions=recorder.expressions,
            no_target=recorder.no_target,
            passed_over=self.manifest.passed_over,
            skipped_outputs=self.manifest.skipped_outputs,
        )

    def _check_earlier_failures(self, ledger: Ledger, failed: int) -> None:
        if self.options.max_errors is not None and failed > self.options.max_errors:
            raise BatchError(
                OptionMessage(
                    f"{failed} images failed in earlier runs, more than {self.options.max_errors}; they are listed in "
                    f"{ledger.errors.path}. After repairing them, retry them with ",
                    argument("retry_errors=True", "--retry-errors"),
                )
            )

    def _remaining_chunks(self, recorded_images: Set[str]) -> list[Chunk]:
        """Return the chunks with images that are not recorded, with the chunk boundaries of an uninterrupted run."""
        indices, size = self.shard_indices, self.chunk_size
        chunks = [
            [self._planned_image(index, recorded_images) for index in indices[start : start + size]]
            for start in range(0, len(indices), size)
        ]
        return [chunk for chunk in chunks if not all(image.is_recorded for image in chunk)]

    def _planned_image(self, index: int, recorded_images: Set[str]) -> PlannedImage:
        task = self.manifest.tasks[index]
        return PlannedImage(task, self.stems[index], task.image in recorded_images)
