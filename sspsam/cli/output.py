"""Lines on standard output, messages on standard error, and the exit status after an error.

Everything that comes from a file or a name is printed with its control characters escaped, so that it can neither forge
a line nor steer the terminal.
"""

import errno
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import click

from sspsam.errors import SSPSAMError, StorageError
from sspsam.utils.paths import printable


def prepare_streams() -> None:
    """Make both streams take every character, and show each warning as one line of the command.

    A stream that cannot encode a character, such as one in cp1252, gets its escape sequence.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = lambda message, *_, **__: complain(str(message))


@contextmanager
def failing_cleanly() -> Iterator[None]:
    """End the command with status 1 and one line, without a traceback, when an `SSPSAMError` is raised inside."""
    try:
        yield
    except SSPSAMError as error:
        complain(str(error))
        sys.exit(1)


def print_row(*fields: object) -> None:
    """Print a line of tab-separated fields on standard output.

    Raises:
        StorageError: standard output cannot be written, as on a full disk. Later lines are dropped.
    """
    try:
        click.echo("\t".join(printable(str(field)) for field in fields))
    except OSError as error:
        if error.errno == errno.EPIPE:  # the reader has gone: click ends the command
            raise
        # the stream still holds the line and would fail again when it is closed
        with open(os.devnull, "wb") as devnull:
            os.dup2(devnull.fileno(), sys.stdout.fileno())
        raise StorageError(f"cannot write to standard output: {error.strerror or error}") from error


def log_to_standard_error() -> None:
    """Print the library's log lines, each as one line of the command; only a command may configure logging."""
    handler = logging.StreamHandler()
    handler.setFormatter(_PrintableFormatter("sspsam: %(message)s"))
    logger = logging.getLogger("sspsam")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


class _PrintableFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def complain(message: str) -> None:
    """Print a message as one line on standard error."""
    click.echo(f"sspsam: {printable(message)}", err=True)
