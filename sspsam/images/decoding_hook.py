"""Hook around the decoding of each image file, with which a program attributes the messages of libraries to images."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

Around = Callable[[str, bool], AbstractContextManager[None]]
"""Returns the context to enter, from the name of an image and whether libtiff may decode it."""


class DecodingHook:
    """The context that threads enter to decode an image file; none at first.

    Only command line programs, which own their process, set it.
    """

    def __init__(self) -> None:
        self._around: Around | None = None

    def __call__(self, name: str, is_tiff: bool) -> AbstractContextManager[None]:
        """Return the context for an image."""
        around = self._around
        return nullcontext() if around is None else around(name, is_tiff)

    @contextmanager
    def set_to(self, around: Around) -> Iterator[None]:
        """Enter `around` for every image that is decoded inside."""
        before, self._around = self._around, around
        try:
            yield
        finally:
            self._around = before


DECODING_HOOK: Final = DecodingHook()  # of the process, as its streams are
