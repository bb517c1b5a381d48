"""`-q` and `-v` of every command, and the messages that depend on them."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import click

from sspsam.cli.output import complain, log_to_standard_error

if TYPE_CHECKING:
    from sspsam.predictor import SSPSAMPredictor

_NO_PROGRESS_BARS: Final = "HF_HUB_DISABLE_PROGRESS_BARS"  # huggingface_hub and `sspsam.utils.progress` read it
_LEVEL: Final = "sspsam.verbosity"  # key in click's `Context.meta`, which a command shares with its group


def verbosity_options() -> list[click.Parameter]:
    """Return the options -q and -v, which take effect while they are parsed and pass no value to the command."""
    return [
        click.Option(
            ["-q", "--quiet"],
            is_flag=True,
            expose_value=False,
            callback=_be_quiet,
            help="Print errors only: no warnings, no progress bar, no summary.",
        ),
        click.Option(
            ["-v", "--verbose"],
            is_flag=True,
            expose_value=False,
            callback=_be_verbose,
            help="Print a line about the model and about each image on standard error.",
        ),
    ]


def is_quiet() -> bool:
    """Return whether -q was given."""
    return _level() == "-q"


def is_verbose() -> bool:
    """Return whether -v was given."""
    return _level() == "-v"


def inform(message: str) -> None:
    """Print a message that is no error as one line on standard error, unless -q was given."""
    if not is_quiet():
        complain(message)


def detail(message: str) -> None:
    """Print a message as one line on standard error if -v was given."""
    if is_verbose():
        complain(message)


def shows_progress() -> bool:
    """Return whether a progress bar is shown: not with -q, and not with -v, whose lines would break it."""
    return _level() is None


def model_message(predictor: "SSPSAMPredictor") -> str:
    """Return the message of -v about a predictor."""
    precision = str(predictor.dtype).removeprefix("torch.")
    return f"model {predictor.origin} on {predictor.device}, {precision}"


def _level() -> str | None:
    context = click.get_current_context(silent=True)
    return None if context is None else context.meta.get(_LEVEL)


def _be_quiet(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and _set_level(context, "-q"):
        context.with_resource(_without_progress_and_warnings())  # until the command ends


@contextmanager
def _without_progress_and_warnings() -> Iterator[None]:
    before = os.environ.get(_NO_PROGRESS_BARS)
    os.environ[_NO_PROGRESS_BARS] = "1"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if before is None:
            del os.environ[_NO_PROGRESS_BARS]
        else:
            os.environ[_NO_PROGRESS_BARS] = before


def _be_verbose(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and _set_level(context, "-v"):
        context.with_resource(_logging_to_standard_error())  # until the command ends


@contextmanager
def _logging_to_standard_error() -> Iterator[None]:
    logger = logging.getLogger("sspsam")
    handlers, level = list(logger.handlers), logger.level
    log_to_standard_error()
    try:
        yield
    finally:
        logger.handlers = handlers
        logger.setLevel(level)


def _set_level(context: click.Context, level: str) -> bool:
    """Set the level; return whether it is new.

    Raises:
        click.UsageError: the other level was given too.
    """
    known = context.meta.get(_LEVEL)
    if known not in (None, level):
        raise click.UsageError("-q and -v exclude each other: leave out one of them", context)
    context.meta[_LEVEL] = level
    return known is None
