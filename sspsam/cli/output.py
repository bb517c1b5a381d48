"""What all commands share: how they fail."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from sspsam.errors import SSPSAMError


@contextmanager
def failing_cleanly() -> Iterator[None]:
    """An error of ours ends the command with its message and status 1, without a traceback."""
    try:
        yield
    except SSPSAMError as error:
        complain(str(error))
        sys.exit(1)


def complain(message: str) -> None:
    """Say what went wrong, on standard error."""
    click.echo(f"sspsam: {message}", err=True)
