"""What all commands share: how they fail."""

import sys

import click

from sspsam.errors import SSPSAMError


class failing_cleanly:  # noqa: N801  # reads as what it does
    """An error of ours ends the command with its message and status 1, without a traceback."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, SSPSAMError):
            complain(str(error))
            sys.exit(1)


def complain(message: str) -> None:
    """Say what went wrong, on standard error."""
    click.echo(f"sspsam: {message}", err=True)
