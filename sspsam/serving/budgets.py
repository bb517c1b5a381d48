"""Bounds on what all requests hold together. Everything here belongs to the event loop; no lock is needed."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from sspsam.errors import RefusalError


class BodyMemory:
    """Bytes of the request bodies that are held at once.

    Args:
        limit: of all bodies together.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0

    @contextmanager
    def holding(self) -> Iterator["BodyShare"]:
        """Count the bytes of one body, and give them back at the end."""
        share = BodyShare(self)
        try:
            yield share
        finally:
            self.used -= share.used


class BodyShare:
    """Bytes of one request body.

    Args:
        memory: that the bytes are taken from.
    """

    def __init__(self, memory: BodyMemory) -> None:
        self._memory, self.used = memory, 0

    def add(self, count: int) -> None:
        """Take bytes.

        Raises:
            RefusalError: 503, all bodies together would exceed the limit.
        """
        if self._memory.used + count > self._memory.limit:
            message = "the server holds as many request bodies as it may"
            raise RefusalError(message, status=503, kind="Busy", retry_after=2)
        self._memory.used += count
        self.used += count


class PixelBudget:
    """Pixels of decoded images that wait for the model; images wait for their share before they are decoded.

    Args:
        limit: of all images together; one larger image is let in when there is no other.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._used = limit, 0
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def holding(self, pixels: int) -> AsyncIterator[None]:
        """Wait for a share of the budget and hold it."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._used == 0 or self._used + pixels <= self._limit)
            self._used += pixels
        try:
            yield
        finally:
            self._used -= pixels
            await asyncio.shield(self._notify())

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


class Admission:
    """Requests that wait for the model or are computed.

    Args:
        limit: above which further requests are refused.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self.count = limit, 0

    def require_room(self, retry_after: float) -> None:
        """Refuse a request where the queue is full.

        Raises:
            RefusalError: 503.
        """
        if self.count >= self._limit:
            message = f"the queue is full: {self._limit} requests wait for the model"
            raise RefusalError(message, status=503, kind="QueueFull", retry_after=retry_after)

    @contextmanager
    def admitted(self, retry_after: float) -> Iterator[None]:
        """Count a request until it is answered.

        Raises:
            RefusalError: 503, the queue is full.
        """
        self.require_room(retry_after)
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1
