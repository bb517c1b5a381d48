"""The thread that owns the predictor: it takes jobs from a queue, several about one image in one batch."""

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np

from sspsam.errors import DeadlineExceededError, OutOfMemoryError, SSPSAMError
from sspsam.images.embedding import ImageEmbedding
from sspsam.images.loading import Pixels
from sspsam.models.device_model import expressions_per_pass
from sspsam.predictor import SSPSAMPredictor
from sspsam.segmentation.answers import PredictOptions
from sspsam.segmentation.result import Segmentation

_MOST_FAILURES: Final = 2  # in a row; a CUDA error, for one, ends the use of the GPU in this process
_SECONDS_OF_NO_ANSWER: Final = 1.0  # estimate before the first answer
_CLOSING_SECONDS: Final = 5.0


@dataclass(frozen=True)
class ExpressionQuery:
    """Expressions about one image.

    Args:
        expressions: none, if the image shall only be encoded.
        options: of `predict`.
        convert: called with each answer in the model's thread, so that no request holds all its masks at once.
    """

    expressions: tuple[str, ...] = ()
    options: PredictOptions = field(default_factory=PredictOptions)
    convert: Callable[[Segmentation], Any] = Segmentation.to_dict


@dataclass(frozen=True)
class Answered:
    """The outcome of a job.

    Args:
        embedding: of the image.
        results: for each expression, what `convert` returned.
        waited: seconds in the queue.
        computed: seconds of the model, for all requests that were answered together.
    """

    embedding: ImageEmbedding
    results: list[Any]
    waited: float
    computed: float


@dataclass(eq=False)
class Job:
    """A request for the model.

    Args:
        image: pixels to encode, or an embedding.
        query: about the image.
        deadline: by `time.monotonic`, after which the job is not started.
        future: of the outcome. Cancelling it works until the job is started.
        abandoned: whether no request waits for the outcome; a job that is computed already ends at the next pass.
    """

    image: Pixels | ImageEmbedding
    query: ExpressionQuery
    deadline: float
    future: "Future[Answered]" = field(default_factory=Future)
    abandoned: bool = False
    created: float = field(default_factory=time.monotonic)

    def abandon(self) -> None:
        """Give the outcome up, at any time."""
        self.abandoned = True
        self.future.cancel()

    def start(self) -> bool:
        """Mark the job as started; return False if it was given up or its deadline has passed."""
        if not self.future.set_running_or_notify_cancel():
            return False
        if time.monotonic() <= self.deadline:
            return True
        self.future.set_exception(DeadlineExceededError("the request waited for too long"))
        return False

    def can_batch_with(self, other: "Job") -> bool:
        """Return whether both jobs may be answered in one batch: about one embedding, with the same options."""
        return (
            isinstance(self.image, ImageEmbedding)
            and self.image is other.image
            and self.query.options == other.query.options
        )


class JobQueue:
    """Jobs in the order of their arrival; its length is bounded by `Admission`."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, job: Job) -> None:
        """Add a job."""
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()

    def close(self) -> None:
        """Let `take` return no jobs once the queue is empty."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self, most_expressions: int) -> list[Job]:
        """Wait for a job, and return it with later ones of the same batch; nothing after `close`.

        Args:
            most_expressions: of all jobs together, if there are several.
        """
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._jobs or self._closed)
                if not self._jobs:
                    return []
                first = self._jobs.popleft()
                if first.start():
                    return self._batch_of(first, most_expressions)

    def _batch_of(self, first: Job, most_expressions: int) -> list[Job]:
        """Remove the jobs that can be answered in one batch with the first from the queue; return all of them."""
        batch, room = [first], most_expressions - len(first.query.expressions)
        for job in [job for job in self._jobs if job.can_batch_with(first)]:
            if len(job.query.expressions) <= room:
                self._jobs.remove(job)
                if job.start():
                    room -= len(job.query.expressions)
                    batch.append(job)
        return batch


class Observer(Protocol):
    """Receiver of measurements; methods are called in the model's thread."""

    def observe_batch(self, jobs: int, expressions: int, seconds: float) -> None:
        """Note that jobs were computed together."""


class Engine:
    """The predictor and its thread.

    Args:
        load: returns the predictor; called in the thread.
        micro_batch: see `ServeOptions`.
        observer: of measurements.
    """

    def __init__(self, load: Callable[[], SSPSAMPredictor], micro_batch: int | None, observer: Observer) -> None:
        self._load, self._micro_batch, self._observer = load, micro_batch, observer
        self.queue = JobQueue()
        self.predictor: SSPSAMPredictor | None = None
        self.failure: BaseException | None = None
        self.seconds_per_batch = _SECONDS_OF_NO_ANSWER  # running mean
        self._failures = 0  # in a row
        self._expressions_per_pass = 1  # between two passes the thread looks for abandoned requests
        # a daemon: a computation that never ends must not keep the process from ending
        self._thread = threading.Thread(target=self._run, name="sspsam-model", daemon=True)

    @property
    def is_ready(self) -> bool:
        """Return whether the model is loaded and its thread runs."""
        return self.predictor is not None and self._thread.is_alive()

    @property
    def failure_message(self) -> str | None:
        """Return why this process can no longer answer; None while it can."""
        if self.failure is not None:
            return "the model could not be loaded: correct the cause and restart the server"
        if self._failures > _MOST_FAILURES:
            return f"the last {self._failures} computations failed: restart the server"
        return None

    def start(self) -> None:
        """Start the thread, which loads the model."""
        self._thread.start()

    def close(self) -> None:
        """Finish the jobs of the queue, and end the thread."""
        self.queue.close()
        if self._thread.is_alive():
            self._thread.join(_CLOSING_SECONDS)

    def _run(self) -> None:
        try:
            predictor = self._load()
            self._expressions_per_pass = expressions_per_pass(predictor.device)
            # the first answer of a process takes longer, since PyTorch prepares weights and kernels
            predictor.predict("warm up", image=np.zeros((64, 64, 3), np.uint8))
        except BaseException as error:
            self.failure = error
            return
        self.predictor = predictor
        while jobs := self.queue.take(self._micro_batch or self._expressions_per_pass):
            self._compute(predictor, jobs)
            del jobs  # while the thread waits, nothing keeps images in memory

    def _compute(self, predictor: SSPSAMPredictor, jobs: list[Job]) -> None:
        """Compute jobs together; where that fails, one by one, so that an error reaches its own request only."""
        start = time.monotonic()
        try:
            outcomes = _answered(predictor, jobs, self._expressions_per_pass, start)
        except BaseException as error:
            if len(jobs) > 1:
                for job in jobs:
                    self._compute(predictor, [job])
                return
            self._fail(jobs[0], error)
            return
        self._failures = 0
        seconds = time.monotonic() - start
        self.seconds_per_batch += 0.1 * (seconds - self.seconds_per_batch)
        self._observer.observe_batch(len(jobs), sum(len(job.query.expressions) for job in jobs), seconds)
        for job, outcome in zip(jobs, outcomes, strict=True):
            job.future.set_result(outcome)

    def _fail(self, job: Job, error: BaseException) -> None:
        if isinstance(error, MemoryError) and not isinstance(error, SSPSAMError):
            error = OutOfMemoryError("not enough memory for this request")
        self._failures = 0 if isinstance(error, SSPSAMError) else self._failures + 1
        # without its frames, which hold the image
        job.future.set_exception(error.with_traceback(None) if isinstance(error, SSPSAMError) else error)


def _answered(predictor: SSPSAMPredictor, jobs: Sequence[Job], size: int, start: float) -> list[Answered]:
    """Return the outcomes of jobs about one image, computed in passes of some expressions."""
    embedding = _embedding(predictor, jobs[0].image)
    pairs = [(text, job) for job in jobs for text in job.query.expressions]
    results: dict[Job, list[Any]] = {job: [] for job in jobs}
    for index in range(0, len(pairs), size):
        if all(job.abandoned for job in jobs):
            break
        batch = pairs[index : index + size]
        answers = predictor.predict([text for text, _ in batch], embedding=embedding, **jobs[0].query.options)
        for (_, job), answer in zip(batch, answers, strict=True):
            results[job].append(job.query.convert(answer))
    seconds = time.monotonic() - start
    return [Answered(embedding, results[job], start - job.created, seconds) for job in jobs]


def _embedding(predictor: SSPSAMPredictor, image: Pixels | ImageEmbedding) -> ImageEmbedding:
    """Return the embedding of an image, without its pixels, which no answer of the server needs."""
    if isinstance(image, ImageEmbedding):
        return image
    return dataclasses.replace(predictor.encode(image, max_pixels=image.shape[0] * image.shape[1]), pixels=None)
