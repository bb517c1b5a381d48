"""Lazy batches: threads load the next items while the caller's thread computes with the current batch."""

import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import Any, Final, Generic, NoReturn, TypeVar

import torch

from sspsam.errors import OutOfMemoryError, SSPSAMError, warn
from sspsam.messages import OptionMessage
from sspsam.utils.memory import OUT_OF_MEMORY_MESSAGE, is_out_of_memory, release_memory
from sspsam.utils.paths import first_line

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
Result = TypeVar("Result")

_BATCHES_AHEAD: Final = 2  # that are loaded while one is computed
_GPU_BATCH_SIZE: Final = 4
_MOST_WORKERS: Final = 8


def default_batch_size(device: torch.device) -> int:
    """Return the number of images that are encoded together: one image fills a CPU, a GPU needs several."""
    return 1 if device.type == "cpu" else _GPU_BATCH_SIZE


def default_workers(device: torch.device) -> int:
    """Return the number of threads that load images: two keep a CPU busy, a GPU needs as many as there are cores."""
    return 2 if device.type == "cpu" else max(2, min(_MOST_WORKERS, os.cpu_count() or 1))


def result_or_error(function: Callable[..., Result], *arguments: Any, **keywords: Any) -> Result | SSPSAMError:
    """Call a function and return its result, or the `SSPSAMError` that it raised.

    Errors for lack of memory are not caught: `compute_in_batches` handles them.
    """
    handled = sys.exception()  # of the caller; it becomes the context of an error
    try:
        return function(*arguments, **keywords)
    except SSPSAMError as error:
        return without_traceback(error, handled)


def without_traceback(error: SSPSAMError, handled: BaseException | None = None) -> SSPSAMError:
    """Return the error without its frames, so that keeping the error keeps none of their variables alive.

    Args:
        error: with its causes and contexts.
        handled: an exception that is no part of the error; its frames stay.
    """
    cause: BaseException | None = error
    while cause is not None and cause is not handled:
        cause.__traceback__ = None
        cause = cause.__cause__ or cause.__context__
    return error


def raise_if_error(outcome: Result | SSPSAMError) -> Result:
    """Return the outcome; raise it if it is an error."""
    if isinstance(outcome, SSPSAMError):
        raise outcome
    return outcome


def raise_first_error(outcomes: Generator[Result | SSPSAMError, None, None]) -> Iterator[Result]:
    """Yield the outcomes up to the first error, which is raised."""
    with closing(outcomes):
        for outcome in outcomes:
            yield raise_if_error(outcome)


def raise_error(error: Exception) -> NoReturn:
    """Raise the error."""
    raise error


def compute_in_batches(
    items: Iterable[Item],
    load: Callable[[Item], Loaded],
    compute: Callable[[list[Loaded]], list[Result]],
    *,
    batch_size: int,
    workers: int,
    on_single_item_oom: Callable[[OutOfMemoryError], Result] = raise_error,
) -> Generator[Result, None, None]:
    """Yield results in the order of the items; at most a few batches of items are taken in advance.

    Args:
        items: taken one by one.
        load: applied to each item by a thread.
        compute: applied to a batch in the caller's thread. When memory runs out, the batch size is halved.
        batch_size: items that are computed together.
        workers: number of threads.
        on_single_item_oom: returns the result of an item for which alone there is not enough memory, or raises the
            error.

    Raises:
        Exception: any error of `items`, `load` or `compute`, after the results of all earlier items.
    """
    batches = _AdaptiveBatches(compute, batch_size, on_single_item_oom)
    with ThreadPoolExecutor(workers, thread_name_prefix="sspsam-read") as pool:
        futures = _submitted(pool, items, load)
        waiting: deque[Future[Loaded]] = deque()
        try:
            waiting.extend(islice(futures, _BATCHES_AHEAD * batch_size))
            while waiting:
                loaded: list[Loaded] = []
                failure: BaseException | None = None
                while waiting and failure is None and len(loaded) < batches.size:
                    future = waiting.popleft()
                    waiting.extend(islice(futures, 1))
                    failure = future.exception()
                    if failure is None:
                        loaded.append(future.result())
                yield from batches.results(loaded)
                if failure is not None:
                    raise failure
        finally:
            for future in waiting:
                future.cancel()


def _submitted(
    pool: ThreadPoolExecutor, items: Iterable[Item], load: Callable[[Item], Loaded]
) -> Iterator[Future[Loaded]]:
    """Yield a future for each item; an error of the caller's iterable becomes a failed future at its place."""
    try:
        for item in items:
            yield pool.submit(load, item)
    except Exception as error:
        failed: Future[Loaded] = Future()
        failed.set_exception(error)
        yield failed


class _AdaptiveBatches(Generic[Loaded, Result]):
    """Compute in batches whose size is halved when memory runs out.

    Args:
        compute: applied to a batch.
        size: of the first batch.
        on_single_item_oom: see `compute_in_batches`.
    """

    def __init__(
        self,
        compute: Callable[[list[Loaded]], list[Result]],
        size: int,
        on_single_item_oom: Callable[[OutOfMemoryError], Result],
    ) -> None:
        self.compute, self.size, self.on_single_item_oom = compute, size, on_single_item_oom

    def results(self, loaded: list[Loaded]) -> Iterator[Result]:
        """Yield the results of loaded items, in order."""
        while loaded:
            batch = loaded[: self.size]
            results = self._computed(batch)
            # outside of any except clause, whose traceback would keep the memory that has to be freed
            if isinstance(results, str):
                release_memory()
                if len(batch) > 1:
                    self.size = len(batch) // 2
                    warn(f"out of memory with {len(batch)} images at a time; continuing with {self.size}")
                    continue
                message = OptionMessage(OUT_OF_MEMORY_MESSAGE, f": {results}")
                results = [self.on_single_item_oom(OutOfMemoryError(message))]
            loaded = loaded[len(batch) :]
            yield from results

    def _computed(self, batch: list[Loaded]) -> list[Result] | str:
        """Return the results, or the first line of the error that reports a lack of memory."""
        try:
            return self.compute(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return first_line(error)
