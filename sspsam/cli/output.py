"""Messages on standard error, and the exit status after an error."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from sspsam.errors import SSPSAMError


@contextmanager
def failing_cleanly() -> Iterator[None]:
    """End the command with status 1 and one line, without a traceback, when an `SSPSAMError` is raised inside."""
    try:
        yield
    except SSPSAMError as error:
        complain(str(error))
        sys.exit(1)


def complain(message: str) -> None:
    """Print a message on standard error."""
    click.echo(f"sspsam: {message}", err=True)
