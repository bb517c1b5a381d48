"""The thread that owns the predictor: it takes questions from a queue, several about one image together."""

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np

from sspsam.errors import OutOfMemoryError, SSPSAMError
from sspsam.images.embedding import ImageEmbedding
from sspsam.images.loading import Pixels
from sspsam.predictor import SSPSAMPredictor
from sspsam.segmentation.answers import PredictOptions
from sspsam.segmentation.result import Segmentation

# expressions that the predictor decodes in one pass; between two passes the thread looks for abandoned requests
_PASS: Final = {"cpu": 2}
_PASS_ELSEWHERE: Final = 64
_FAILURES_OF_A_SICK_PROCESS: Final = 3  # in a row; a CUDA error, for one, ends the use of the GPU in this process
_SECONDS_OF_NO_ANSWER: Final = 1.0  # estimate before the first answer
_CLOSING_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Question:
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


class DeadlineExceededError(Exception):
    """A request waited for too long and was not computed."""


@dataclass(eq=False)
class Job:
    """A request for the model.

    Args:
        image: pixels to encode, or an embedding.
        question: about the image.
        deadline: by `time.monotonic`, after which the job is not started.
        future: of the outcome. Cancelling it works until the job is started.
        abandoned: whether no request waits for the outcome; a job that is computed already ends at the next pass.
    """

    image: Pixels | ImageEmbedding
    question: Question
    deadline: float
    future: "Future[Answered]" = field(default_factory=Future)
    abandoned: bool = False
    created: float = field(default_factory=time.monotonic)

    def abandon(self) -> None:
        """Give the outcome up, at any time."""
        self.abandoned = True
        self.future.cancel()

    def joins(self, other: "Job") -> bool:
        """Return whether both jobs may be answered together: about one embedding, with the same options."""
        return (
            isinstance(self.image, ImageEmbedding)
            and self.image is other.image
            and self.question.options == other.question.options
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
        """Wait for a job, and return it with later ones that are answered with it; nothing after `close`.

        Args:
            most_expressions: of all jobs together, if there are several.
        """
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._jobs or self._closed)
                if not self._jobs:
                    return []
                first = self._jobs.popleft()
                if _is_started(first):
                    return [first, *self._companions(first, most_expressions)]

    def _companions(self, first: Job, most_expressions: int) -> list[Job]:
        """Remove from the queue the jobs that are answered together with the first one, and return them."""
        room = most_expressions - len(first.question.expressions)
        companions: list[Job] = []
        for job in [job for job in self._jobs if job.joins(first)]:
            if len(job.question.expressions) <= room:
                self._jobs.remove(job)
                if _is_started(job):
                    room -= len(job.question.expressions)
                    companions.append(job)
        return companions


def _is_started(job: Job) -> bool:
    """Mark a job as started; return False for one that was given up or whose deadline has passed."""
    if not job.future.set_running_or_notify_cancel():
        return False
    if time.monotonic() <= job.deadline:
        return True
    job.future.set_exception(DeadlineExceededError())
    return False


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
        self._pass = _PASS_ELSEWHERE
        # a daemon: a computation that never ends must not keep the process from ending
        self._thread = threading.Thread(target=self._run, name="sspsam-model", daemon=True)

    @property
    def is_ready(self) -> bool:
        """Return whether the model is loaded and its thread runs."""
        return self.predictor is not None and self._thread.is_alive()

    @property
    def is_sick(self) -> bool:
        """Return whether the model could not be loaded, or several computations in a row failed unexpectedly."""
        return self.failure is not None or self._failures >= _FAILURES_OF_A_SICK_PROCESS

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
            self._pass = _PASS.get(predictor.device.type, _PASS_ELSEWHERE)
            # the first answer of a process takes longer, since PyTorch prepares weights and kernels
            predictor.predict("warm up", image=np.zeros((64, 64, 3), np.uint8))
        except BaseException as error:
            self.failure = error
            return
        self.predictor = predictor
        while jobs := self.queue.take(self._micro_batch or self._pass):
            self._compute(predictor, jobs)
            del jobs  # while the thread waits, nothing keeps images in memory

    def _compute(self, predictor: SSPSAMPredictor, jobs: list[Job]) -> None:
        """Compute jobs together; where that fails, one by one, so that an error reaches its own request only."""
        start = time.monotonic()
        try:
            outcomes = _answered(predictor, jobs, self._pass, start)
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
        self._observer.observe_batch(len(jobs), sum(len(job.question.expressions) for job in jobs), seconds)
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
    pairs = [(text, job) for job in jobs for text in job.question.expressions]
    results: dict[Job, list[Any]] = {job: [] for job in jobs}
    for index in range(0, len(pairs), size):
        if all(job.abandoned for job in jobs):
            break
        batch = pairs[index : index + size]
        answers = predictor.predict([text for text, _ in batch], embedding=embedding, **jobs[0].question.options)
        for (_, job), answer in zip(batch, answers, strict=True):
            results[job].append(job.question.convert(answer))
    seconds = time.monotonic() - start
    return [Answered(embedding, results[job], start - job.created, seconds) for job in jobs]


def _embedding(predictor: SSPSAMPredictor, image: Pixels | ImageEmbedding) -> ImageEmbedding:
    """Return the embedding of an image, without its pixels, which no answer of the server needs."""
    if isinstance(image, ImageEmbedding):
        return image
    return dataclasses.replace(predictor.encode(image, max_pixels=image.shape[0] * image.shape[1]), pixels=None)
