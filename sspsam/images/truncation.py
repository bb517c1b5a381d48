"""Pillow's process-wide permission to fill up truncated files, which is withdrawn while this package decodes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from PIL import ImageFile


class _Permission:
    """`PIL.ImageFile.LOAD_TRUNCATED_IMAGES`, False while threads decode.

    The last of several threads that decode at once restores the setting.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = 0
        self._was_given = False

    @contextmanager
    def withdrawn(self) -> Iterator[None]:
        """Let Pillow raise an error for a truncated file instead of filling it up with grey or black."""
        with self._lock:
            self._threads += 1
            if ImageFile.LOAD_TRUNCATED_IMAGES:
                self._was_given, ImageFile.LOAD_TRUNCATED_IMAGES = True, False
        try:
            yield
        finally:
            with self._lock:
                self._threads -= 1
                if self._threads == 0 and self._was_given:
                    self._was_given, ImageFile.LOAD_TRUNCATED_IMAGES = False, True


TRUNCATED_FILES: Final = _Permission()  # of the process, as Pillow's setting is
