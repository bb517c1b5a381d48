"""Output of a batch: the files of an image, each written atomically, then the lines of the image, in task order."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sspsam.batch.job_files import require_inside
from sspsam.batch.ledger import Ledger
from sspsam.batch.manifest import Task
from sspsam.batch.options import Format
from sspsam.batch.records import Line
from sspsam.devices import named_out_of_memory
from sspsam.errors import BatchError, OutOfMemoryError, SSPSAMError
from sspsam.segmentation.exports.answer_files import ANSWER_SUFFIXES, AnswerFormat, NamedAnswer, answer_file
from sspsam.segmentation.image_batches import Outcome
from sspsam.segmentation.result import Segmentation
from sspsam.utils.files import make_directory, replace_file
from sspsam.utils.paths import shown

_LOG: Final = logging.getLogger(__name__)
_WRITER_THREADS: Final = 2
_MAX_PENDING_IMAGES: Final = 8  # images that wait for a writer thread while the model computes
_MAX_PENDING_BYTES: Final = 256 << 20  # of their masks


@dataclass(frozen=True)
class ImageOutcome:
    """Result of one image.

    Args:
        task: the image and its expressions.
        stem: output stem of the image.
        outcome: one segmentation for each expression, or the error of the image.
    """

    task: Task
    stem: str
    outcome: Outcome

    @property
    def mask_bytes(self) -> int:
        """Memory that the masks occupy."""
        if isinstance(self.outcome, SSPSAMError):
            return 0
        return sum(segmentation.mask.nbytes for segmentation in self.outcome)


@dataclass(frozen=True)
class ImageWriter:
    """Writes the masks and overlays of images; threads and processes may write to one folder in parallel.

    Args:
        output: folder of the run.
        temporary: folder on the same file system for incomplete files.
        formats: kinds of files to write.
        provenance: entries that every line gets: the model, its fingerprint and the version of sspsam.
    """

    output: Path
    temporary: Path
    formats: tuple[Format, ...]
    provenance: Mapping[str, str]

    def __call__(self, image: ImageOutcome) -> list[Line]:
        """Write the files of an image.

        Returns:
            The lines for `results.jsonl`, or one line for `errors.jsonl` if the image failed.

        Raises:
            StorageError: a file cannot be written.
        """
        if isinstance(image.outcome, SSPSAMError):
            return [_error_line(image.task.image, image.outcome)]
        try:
            with named_out_of_memory():
                return self._write_results(image, image.outcome)
        except OutOfMemoryError as error:  # of this image alone: the others need not be as large
            return [_error_line(image.task.image, error)]

    def _write_results(self, image: ImageOutcome, results: list[Segmentation]) -> list[Line]:
        lines = []
        for number, (result, label) in enumerate(zip(results, image.task.label_of_each, strict=True), 1):
            files = self._write_files(f"{image.stem}-{number}", NamedAnswer(image.task.image, label, result))
            position = {"image": image.task.image, "number": number, "of": len(results), "files": files}
            labelled = {} if label is None else {"label": label}
            lines.append({**position, **self.provenance, **labelled, **result.to_dict()})
        return lines

    def _write_files(self, stem: str, answer: NamedAnswer) -> dict[AnswerFormat, str]:
        names = {kind: f"{stem}{suffix}" for kind, suffix in ANSWER_SUFFIXES.items() if kind in self.formats}
        for kind, name in names.items():
            self._write_file(name, answer_file(kind, answer))
        return names

    def _write_file(self, name: str, data: bytes) -> None:
        path = self.output / name
        require_inside(path, self.output)
        make_directory(path.parent)
        replace_file(path, data, within=self.temporary)


def _error_line(image: str, error: SSPSAMError) -> Line:
    return {"image": image, "error": type(error).__name__, "message": str(error)}


class Recorder:
    """Appends lines to the ledger and counts them.

    Args:
        ledger: record of the run.
        max_errors: stop when more images than this have failed; None: never.
        failed: images that failed in earlier runs.
        advance: called once for every image.
    """

    def __init__(self, ledger: Ledger, max_errors: int | None, failed: int, advance: Callable[[], object]) -> None:
        self.ledger, self.max_errors, self.failed, self.advance = ledger, max_errors, failed, advance
        self.images = self.expressions = self.no_target = 0

    def record(self, lines: list[Line]) -> None:
        """Append the lines of an image whose files are written.

        Raises:
            BatchError: more than `max_errors` images have failed.
        """
        if "error" in lines[0]:
            self.ledger.errors.append(lines)
            _LOG.info("%s: %s", shown(lines[0]["image"]), shown(lines[0]["message"]))
            self.failed += 1
            if self.max_errors is not None and self.failed > self.max_errors:
                raise BatchError(
                    f"stopped at {shown(lines[0]['image'])}, because more than {self.max_errors} images failed: "
                    f"{lines[0]['message']}"
                )
        else:
            self.ledger.results.append(lines)
            without_target = sum(line["no_target"] for line in lines)
            found = len(lines) - without_target
            _LOG.info("%s: %d of %d texts have a target", shown(lines[0]["image"]), found, len(lines))
            self.images += 1
            self.expressions += len(lines)
            self.no_target += without_target
        self.advance()


def write_in_threads(outcomes: Iterable[ImageOutcome], write: ImageWriter) -> Iterator[list[Line]]:
    """Write the files of images in threads, while the caller's iterable computes the next outcomes.

    Args:
        outcomes: results of images.
        write: writes the files of one image.

    Yields:
        The lines of each image, in the order of `outcomes`.
    """
    pending: deque[tuple[Future[list[Line]], int]] = deque()
    pending_bytes = 0
    with ThreadPoolExecutor(_WRITER_THREADS, thread_name_prefix="sspsam-write") as pool:
        try:
            for outcome in outcomes:
                pending.append((pool.submit(write, outcome), outcome.mask_bytes))
                pending_bytes += outcome.mask_bytes
                del outcome  # so that the masks of a written image are freed before the next outcome is computed
                while pending and (
                    len(pending) > _MAX_PENDING_IMAGES or pending_bytes > _MAX_PENDING_BYTES or pending[0][0].done()
                ):
                    future, size = pending.popleft()
                    pending_bytes -= size
                    yield future.result()
            while pending:
                yield pending.popleft()[0].result()
        finally:
            for future, _ in pending:
                future.cancel()
