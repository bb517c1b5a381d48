"""Warnings and lines of C libraries about images that threads decode, each as a line with the name of its image."""

import io
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sspsam.cli.output import complain, complain_of_image, standard_error_into, words_of


@contextmanager
def messages_with_names_of_images() -> Iterator[None]:
    """Print what libraries say about an image, in any thread, as lines that begin with the image's name."""
    from sspsam.images.decoding_hook import DECODING_HOOK

    messages = _MessagesOfThreads()
    with warnings.catch_warnings(), _own_standard_error(), DECODING_HOOK.set_to(messages.around):
        warnings.filterwarnings("always", module=r"PIL\b")  # about every image, not only about the first
        warnings.showwarning = messages.show_warning
        yield


class _MessagesOfThreads:
    """Messages about the image that each thread decodes."""

    def __init__(self) -> None:
        self._of_thread = threading.local()
        # libtiff writes to file descriptor 2, of which there is one; Pillow lets it decode one image at a time anyway
        self._descriptor = threading.Lock()

    def show_warning(self, message: Warning | str, *_: object, **__: object) -> None:
        """Keep a warning until the image of its thread is decoded; print it where there is no image."""
        messages: list[str] | None = getattr(self._of_thread, "messages", None)
        if messages is None:
            complain(words_of(message))
        else:
            messages.append(words_of(message))

    @contextmanager
    def around(self, name: str, is_tiff: bool) -> Iterator[None]:
        """Collect the messages of the calling thread, and print them with the name of the image."""
        messages: list[str] = []
        self._of_thread.messages = messages
        try:
            if is_tiff:
                with self._descriptor, standard_error_into(messages):
                    yield
            else:
                yield
        finally:
            self._of_thread.messages = None
            complain_of_image(name, messages)


@contextmanager
def _own_standard_error() -> Iterator[None]:
    """Let Python write to a copy of file descriptor 2, so that the descriptor itself is for C libraries."""
    stream = sys.stderr
    try:
        if not isinstance(stream, io.TextIOWrapper) or stream.fileno() != 2:
            raise OSError
        copy = os.dup(2)
    except (OSError, ValueError):  # closed, or replaced by another program
        yield
        return
    own = open(copy, "w", buffering=1, encoding=stream.encoding, errors=stream.errors)  # noqa: SIM115  # closed below
    try:
        sys.stderr = own
        yield
    finally:
        sys.stderr = stream
        with suppress(OSError):  # as on a full disk
            own.close()
