"""The parts of a running server, and the way of a request through them."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from sspsam.errors import DeadlineExceededError, RefusalError, SSPSAMError
from sspsam.images.embedding import ImageEmbedding
from sspsam.images.loading import load_image
from sspsam.predictor import SSPSAMPredictor
from sspsam.serving.bodies import read_body
from sspsam.serving.budgets import Admission, BodyMemory, BodyShare, PixelBudget
from sspsam.serving.decoding import image_size
from sspsam.serving.engine import Answered, Engine, ExpressionQuery, Job
from sspsam.serving.metrics import Metrics
from sspsam.serving.options import ServeOptions
from sspsam.serving.questions import Content, parse_content
from sspsam.serving.refusals import refusal_of
from sspsam.serving.store import ImageStore

_WAITING_IMAGES: Final = 2  # of the largest size, that are decoded while the model is busy
_INLINE_BYTES: Final = 1 << 16  # bodies up to this size are parsed at once; a thread would take longer
_T = TypeVar("_T")


class Service:
    """Model, stores, queues and limits of one server.

    Args:
        load: returns the predictor; called in the model's thread.
        options: limits and settings.
    """

    def __init__(self, load: Callable[[], SSPSAMPredictor], options: ServeOptions) -> None:
        self.options = options
        self.store = ImageStore(options)
        self.admission = Admission(options.queue_length)
        self.bodies = BodyMemory(options.body_memory)
        self._pixels = PixelBudget(_WAITING_IMAGES * options.max_pixels)
        self._threads = ThreadPoolExecutor(options.decoders, thread_name_prefix="sspsam-decoder")
        self.metrics = Metrics(
            lambda: self.admission.count, lambda: len(self.store), lambda: self.store.size, lambda: self.bodies.used
        )
        self.engine = Engine(load, options.micro_batch, self.metrics)
        self.is_draining = False
        self.given_up = 0  # requests that were accepted, but not answered before the server stopped

    @property
    def is_ready(self) -> bool:
        """Return whether requests are answered: the model is loaded, works, and the server does not stop."""
        return self.engine.is_ready and self.engine.failure_message is None and not self.is_draining

    def count_given_up(self) -> None:
        """Count a request that is given up because the server stops."""
        self.given_up += 1

    def close(self) -> None:
        """Finish what was accepted, and end all threads."""
        self.engine.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def require_working_model(self) -> None:
        """Refuse a request where only a new process can answer it.

        Raises:
            RefusalError: 503, the model could not be loaded, or it fails at every request.
        """
        if self.engine.failure_message is not None:
            raise RefusalError(self.engine.failure_message, status=503, kind="ModelFailed")

    def require_predictor(self) -> SSPSAMPredictor:
        """Return the predictor.

        Raises:
            RefusalError: 503, the model is not loaded yet, or could not be loaded.
        """
        if self.engine.predictor is None:
            self.require_working_model()
            raise RefusalError("the model is being loaded", status=503, kind="NotReady", retry_after=10)
        return self.engine.predictor

    def require_room(self) -> SSPSAMPredictor:
        """Return the predictor where a request can be accepted.

        Raises:
            RefusalError: 503, the model is not loaded, or the queue is full.
        """
        predictor = self.require_predictor()
        self.admission.require_room(self._retry_after())
        return predictor

    async def content(self, request: Request, fields: tuple[str, ...], share: BodyShare) -> Content:
        """Read and parse the body of a request; see `read_body` and `parse_content`."""
        body = await read_body(request, self.options, share)
        parse = partial(parse_content, request.headers.get("content-type", ""), body, fields, self.options)
        return parse() if len(body) <= _INLINE_BYTES else await self._in_thread(parse)

    async def answer_image(self, request: Request, image: bytes, query: ExpressionQuery) -> Answered:
        """Decode and encode an image, and answer about it.

        Args:
            request: watched for the end of its connection.
            image: bytes of the file.
            query: about the image.

        Raises:
            RefusalError: 4xx for an image or query that cannot be used, 503 for a full queue or a passed deadline.
            ClientDisconnect: the client is gone.
        """
        with self.admission.admitted(self._retry_after()):
            deadline = asyncio.get_running_loop().time() + self.options.deadline
            width, height = await self._in_thread(partial(image_size, image, self.options.max_pixels))
            try:
                async with asyncio.timeout_at(deadline) as timeout, self._pixels.holding(width * height):
                    timeout.reschedule(None)  # from here on the deadline of the job counts
                    pixels = await self._in_thread(partial(load_image, image, self.options.max_pixels))
                    return await self._computed(request, Job(pixels, query, deadline))
            except TimeoutError:
                raise self._deadline_refusal() from None

    async def answer_embedding(self, request: Request, embedding: ImageEmbedding, query: ExpressionQuery) -> Answered:
        """Answer about an encoded image; arguments and errors are those of `answer_image`."""
        with self.admission.admitted(self._retry_after()):
            deadline = asyncio.get_running_loop().time() + self.options.deadline
            return await self._computed(request, Job(embedding, query, deadline))

    async def _in_thread(self, function: Callable[[], _T]) -> _T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, function)
        except SSPSAMError as error:
            _raise_refusal(error)
            raise

    async def _computed(self, request: Request, job: Job) -> Answered:
        """Give a job to the model's thread and wait for its outcome, its deadline, or the end of the connection."""
        outcome = asyncio.wrap_future(job.future)
        disconnect = asyncio.create_task(_disconnect(request))
        try:
            self.engine.queue.put(job)
            seconds: float | None = job.deadline - asyncio.get_running_loop().time()
            while not outcome.done():
                await asyncio.wait((outcome, disconnect), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                if outcome.done():
                    break
                if disconnect.done():
                    raise ClientDisconnect
                if job.future.cancel():
                    raise self._deadline_refusal()
                seconds = None  # the job was started in time
            return outcome.result()
        except DeadlineExceededError:
            raise self._deadline_refusal() from None
        except SSPSAMError as error:
            _raise_refusal(error)
            raise
        finally:
            job.abandon()
            outcome.cancel()  # an error that comes later is of no interest
            disconnect.cancel()
            with suppress(asyncio.CancelledError):
                await disconnect

    def _deadline_refusal(self) -> RefusalError:
        message = f"the request waited for the model for {self.options.deadline:g} s, and was not computed"
        return RefusalError(message, status=503, kind="DeadlineExceeded", retry_after=self._retry_after())

    def _retry_after(self) -> float:
        """Return an estimate of the seconds in which the queue is worked off, at most a minute."""
        return min(60.0, self.admission.count * self.engine.seconds_per_batch)


async def _disconnect(request: Request) -> None:
    """Return when the client is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _raise_refusal(error: SSPSAMError) -> None:
    """Raise the answer to an error of the library, if it has one."""
    refusal = refusal_of(error)
    if refusal is not None:
        raise refusal from None
