"""Locks for objects of the caller that several threads may decode at once."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from PIL import Image


class LocksByImage:
    """A lock for each PIL image that is being decoded: two threads that decode one lazy image would damage it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[int, tuple[threading.Lock, int]] = {}  # by id: the lock, and the threads that use it

    @contextmanager
    def holding(self, image: Image.Image) -> Iterator[None]:
        """Hold the lock of an image."""
        key = id(image)
        with self._guard:
            lock, users = self._locks.get(key, (threading.Lock(), 0))
            self._locks[key] = lock, users + 1
        try:
            with lock:
                yield
        finally:
            with self._guard:
                lock, users = self._locks.pop(key)
                if users > 1:
                    self._locks[key] = lock, users - 1


PIL_LOCKS: Final = LocksByImage()  # of the process, as the images are
