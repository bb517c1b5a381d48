"""Many pictures, one after the other: threads read and resize the next while the model is busy with this one."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice, zip_longest
from typing import Any, Final, Generic, NoReturn, TypeVar, cast

import torch

from sspsam.errors import OutOfMemoryError, SSPSAMError, warn

Item = TypeVar("Item")
Ready = TypeVar("Ready")
Result = TypeVar("Result")

_AHEAD: Final = 2  # batches that are made ready while one is computed
_PICTURES: Final = 4  # that go through the encoders together on a GPU
_TOO_LARGE: Final = (
    "not enough memory for a single picture; use dtype='float16' on a GPU, a smaller model, or another device"
)
# how PyTorch and the libraries below it say that there is no memory, where they have no exception for it
_SIGNS: Final = ("can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED")


def default_batch_size(device: torch.device) -> int:
    """Pictures that are encoded together: one fills the cores of a CPU, a GPU wants several."""
    return 1 if device.type == "cpu" else _PICTURES


def result_or_error(work: Callable[..., Result], *arguments: Any, **named: Any) -> Result | SSPSAMError:
    """What `work` returns, or the error of ours that it raises. Running out of memory is for `in_batches` to handle."""
    try:
        return work(*arguments, **named)
    except SSPSAMError as error:
        return without_traceback(error)


def without_traceback(error: SSPSAMError) -> SSPSAMError:
    """An error to keep: without the frames that it came through, and all that those hold."""
    each: BaseException | None = error
    while each is not None:
        each.__traceback__ = None
        each = each.__cause__ or each.__context__
    return error


def raise_if_error(outcome: Result | SSPSAMError) -> Result:
    """The outcome, which is raised if it is an error."""
    if isinstance(outcome, SSPSAMError):
        raise outcome
    return outcome


def raise_first_error(outcomes: Generator[Result | SSPSAMError, None, None]) -> Iterator[Result]:
    """The outcomes up to the first error, which is raised."""
    with closing(outcomes):
        for outcome in outcomes:
            yield raise_if_error(outcome)


def raise_error(error: Exception) -> NoReturn:
    """Raise it."""
    raise error


def compute_in_batches(
    items: Iterable[Item],
    make_ready: Callable[[Item], Ready],
    compute: Callable[[list[Ready]], list[Result]],
    *,
    batch_size: int,
    workers: int,
    on_single_item_oom: Callable[[OutOfMemoryError], Result] = raise_error,
) -> Generator[Result, None, None]:
    """Results in the order of the items, lazily: no more than a few batches of items are taken in advance.

    Args:
        items: taken one by one.
        make_ready: what threads do with each.
        compute: what is done with several at once, in the caller's thread. Running out of memory halves the batch.
        batch_size: items that are computed together.
        workers: threads.
        too_large: gives the result of an item for which alone there is not enough memory, or raises the error.

    Raises:
        Exception: whatever `items`, `make_ready` or `compute` raise, after the results of all earlier items.
    """
    shrinking = _Shrinking(compute, batch_size, on_single_item_oom)
    with ThreadPoolExecutor(workers, thread_name_prefix="sspsam-read") as pool:
        source = _submitted(pool, items, make_ready)
        waiting: deque[Future[Ready]] = deque()
        try:
            waiting.extend(islice(source, _AHEAD * batch_size))
            while waiting:
                ready: list[Ready] = []
                failure: BaseException | None = None
                while waiting and failure is None and len(ready) < shrinking.size:
                    future = waiting.popleft()
                    waiting.extend(islice(source, 1))
                    failure = future.exception()
                    if failure is None:
                        ready.append(future.result())
                yield from shrinking(ready)
                if failure is not None:
                    raise failure
        finally:
            for future in waiting:
                future.cancel()


def pair_images_with_texts(
    images: Iterable[Item],
    texts: Iterable[str] | Iterable[Sequence[str]],
    tokenize: Callable[[Sequence[str]], Ready | SSPSAMError],
) -> Iterator[tuple[Item, Ready | SSPSAMError]]:
    """Each picture with its tokenised expressions: the same for all, or one list for each.

    Raises:
        ValueError: there are more pictures than lists, or the other way round.
        TypeError: what should be a list of expressions for a picture is a string.
    """
    if isinstance(texts, Sequence) and all(isinstance(text, str) for text in texts):
        asked = raise_if_error(tokenize(texts))  # at once: a bad expression is found before any picture is read
        return ((image, asked) for image in images)
    return _paired(images, texts, tokenize)


def _paired(
    images: Iterable[Item],
    texts: Iterable[str] | Iterable[Sequence[str]],
    tokenize: Callable[[Sequence[str]], Ready | SSPSAMError],
) -> Iterator[tuple[Item, Ready | SSPSAMError]]:
    missing = object()
    for number, (image, own) in enumerate(zip_longest(images, texts, fillvalue=missing)):
        if image is missing or own is missing:
            more, fewer = ("lists of texts", "pictures") if image is missing else ("pictures", "lists of texts")
            raise ValueError(f"there are more {more} than {fewer} ({number}); give one list of texts for each picture")
        if isinstance(own, str):
            raise TypeError(f"the texts of picture {number} are a list of expressions, not the string {own[:60]!r}")
        yield cast(Item, image), tokenize(cast(Sequence[str], own))


def _submitted(
    pool: ThreadPoolExecutor, items: Iterable[Item], make_ready: Callable[[Item], Ready]
) -> Iterator[Future[Ready]]:
    """One future for each item; what the caller's own iterable raises comes in its turn."""
    try:
        for item in items:
            yield pool.submit(make_ready, item)
    except Exception as error:
        failed: Future[Ready] = Future()
        failed.set_exception(error)
        yield failed


class _Shrinking(Generic[Ready, Result]):
    """Computes in batches that become smaller when memory runs out.

    Args:
        compute: for several at once.
        size: of the first batch.
        too_large: see `in_batches`.
    """

    def __init__(
        self,
        compute: Callable[[list[Ready]], list[Result]],
        size: int,
        on_single_item_oom: Callable[[OutOfMemoryError], Result],
    ) -> None:
        self.compute, self.size, self.on_single_item_oom = compute, size, on_single_item_oom

    def __call__(self, ready: list[Ready]) -> Iterator[Result]:
        while ready:
            part = ready[: self.size]
            results = self._computed(part)
            # outside of any except clause: its traceback would keep what is to be freed
            if isinstance(results, str):
                release_memory()
                if len(part) == 1:
                    results = [self.on_single_item_oom(OutOfMemoryError(f"{_TOO_LARGE}: {results}"))]
                else:
                    self.size = len(part) // 2
                    warn(f"out of memory with {len(part)} pictures at a time; going on with {self.size}")
                    continue
            ready = ready[len(part) :]
            yield from results

    def _computed(self, part: list[Ready]) -> list[Result] | str:
        """The results, or how it was said that there is not enough memory."""
        try:
            return self.compute(part)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return (str(error).splitlines() or [type(error).__name__])[0]


def release_memory() -> None:
    """Give back to the GPU what PyTorch keeps for later."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch or Python ran out of memory, on a GPU or not."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(sign in str(error) for sign in _SIGNS)
