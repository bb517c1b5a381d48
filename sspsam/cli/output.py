"""Lines on standard output, messages on standard error, and the exit status after an error.

Everything that comes from a file or a name is printed with its control characters escaped, so that it can neither forge
a line nor steer the terminal.
"""

import errno
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Final, TextIO

import click

from sspsam.errors import SSPSAMError, StorageError
from sspsam.messages import message_of
from sspsam.utils.paths import printable, shown

INTERRUPTED: Final = 130  # exit status after Ctrl-C, as of shells
_MAX_USAGE_MESSAGE: Final = 1000  # characters; a message of click quotes the whole value
_MAX_MESSAGES: Final = 5  # about one image
_MAX_CAPTURED: Final = 1 << 16  # bytes


def prepare_streams() -> None:
    """Make both streams take every character, and show each warning as one line of the command.

    A stream that cannot encode a character, such as one in cp1252, gets its escape sequence.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = lambda message, *_, **__: complain(words_of(message))


def words_of(error: Warning | Exception | str) -> str:
    """Return the message of an error or warning, with options named as the user types them."""
    return error if isinstance(error, str) else message_of(error).for_command


@contextmanager
def failing_cleanly() -> Iterator[None]:
    """End the command with status 1 and one line, without a traceback, after an `SSPSAMError` or `MemoryError`."""
    try:
        yield
    except SSPSAMError as error:
        complain(words_of(error))
        sys.exit(1)
    except MemoryError:  # outside of the model, whose errors are named
        complain("not enough memory")
        sys.exit(1)


class CommandGroup(click.Group):
    """Commands whose wrong usage, interruption and unwritable streams end in one line each."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the options before the name of the command."""
        prepare_streams()
        with _ending_in_one_line():
            return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; name `sspsam segment` if there is an image in its place."""
        if args and self.get_command(ctx, args[0]) is None and os.path.exists(args[0]):
            name, command = shown(args[0]), "batch" if os.path.isdir(args[0]) else "segment"
            ctx.fail(f"{name} is no command, but a file or folder: use sspsam {command} {name} ... (see sspsam --help)")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Parse the arguments of the command and run it."""
        with _ending_in_one_line():
            return super().invoke(ctx)


@contextmanager
def _ending_in_one_line() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        complain("interrupted")
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
            raise  # its message is the help page
        _complain_of_usage(error)
        sys.exit(error.exit_code)
    except OSError as error:
        # --help and --version; every other file is written and read by functions that name it
        if isinstance(error, SSPSAMError) or error.filename is not None or error.errno not in _stream_errors():
            raise
        _discard(sys.stdout)
        complain(f"cannot write to standard output: {error.strerror or error}")
        sys.exit(1)


def _stream_errors() -> tuple[int | None, ...]:
    return errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EBADF, getattr(errno, "EDQUOT", None)  # Windows has no EDQUOT


def _complain_of_usage(error: click.ClickException) -> None:
    """Print an error of click; it quotes what the user typed, which may hold control characters or a whole file."""
    message = printable(" ".join(error.format_message().split()))
    if len(message) > _MAX_USAGE_MESSAGE:
        message = f"{message[: _MAX_USAGE_MESSAGE // 2]}...{message[-_MAX_USAGE_MESSAGE // 2 :]}"
    one_line = click.ClickException(message)
    if isinstance(error, click.UsageError):
        one_line = click.UsageError(message, error.ctx)
    try:
        one_line.show()
    except OSError:
        _discard(sys.stderr)


def print_row(*fields: object) -> None:
    """Print a line of tab-separated fields on standard output.

    Raises:
        StorageError: standard output cannot be written, as on a full disk. Later lines are dropped.
    """
    if sys.stdout is None:
        raise StorageError("cannot write to standard output: it is closed")
    try:
        click.echo("\t".join(printable(str(field)) for field in fields))
    except OSError as error:
        if error.errno == errno.EPIPE:  # the reader has gone: click ends the command
            raise
        _discard(sys.stdout)
        raise StorageError(f"cannot write to standard output: {error.strerror or error}") from error


def _discard(stream: TextIO) -> None:
    """Drop what a stream still holds and all that follows; it would fail again when it is closed."""
    with suppress(OSError, ValueError), open(os.devnull, "wb") as devnull:
        os.dup2(devnull.fileno(), stream.fileno())


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
    """Print a message as one line on standard error; where standard error cannot be written, the message is dropped."""
    try:
        click.echo(f"sspsam: {printable(message)}", err=True)
    except OSError:
        _discard(sys.stderr)


@contextmanager
def messages_with_name(name: object) -> Iterator[None]:
    """Print warnings, and lines that C libraries such as libtiff write, as lines that begin with a name.

    Args:
        name: of the image that is read inside.
    """
    lines: list[str] = []
    recorded: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as recorded, standard_error_into(lines):
            yield
    finally:
        complain_of_image(shown(name), [*(words_of(warning.message) for warning in recorded), *lines])


def complain_of_image(name: str, messages: Sequence[str]) -> None:
    """Print different messages about one image, up to a number, each with the name of the image.

    Args:
        name: of the image, as it is shown.
        messages: may name the image themselves.
    """
    distinct = list(dict.fromkeys(messages))
    for message in distinct[:_MAX_MESSAGES]:
        complain(message if name in printable(message) else f"{name}: {message}")
    if len(distinct) > _MAX_MESSAGES:
        complain(f"{name}: and {len(distinct) - _MAX_MESSAGES} more messages")


@contextmanager
def standard_error_into(lines: list[str]) -> Iterator[None]:
    """Collect the lines that are written to file descriptor 2; only a program, which owns it, may do this."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.TemporaryFile())
            saved = os.dup(2)
        except OSError:  # no folder for temporary files, or standard error is closed
            yield
            return
        stack.callback(os.close, saved)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            file.seek(0)
            text = file.read(_MAX_CAPTURED).decode(errors="backslashreplace")
            lines.extend(line.strip() for line in text.splitlines() if line.strip())
