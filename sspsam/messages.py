"""Messages that name options: each front end, Python, the command line or the server, has its own words for them.

A message is built from texts and wordings, so that no front end searches a finished message for names, which would also
be found in file names and expressions.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Final

# flags that are not named as the argument of Python
_OTHER_FLAGS: Final = {"cors_origins": "--cors-origin", "formats": "--format", "labels": "--label", "texts": "-t"}


@dataclass(frozen=True)
class Wording:
    """A part of a message in the words of each front end.

    Args:
        python: for callers in Python.
        command: for users of the command line; None: as in Python.
        server: for clients of the server; None: as in Python.
    """

    python: str
    command: str | None = None
    server: str | None = None

    @property
    def for_command(self) -> str:
        """Words for the command line."""
        return self.python if self.command is None else self.command

    @property
    def for_server(self) -> str:
        """Words for clients of the server."""
        return self.python if self.server is None else self.server


class OptionMessage(str):
    """A message, as a string in the words of Python, with its words for the other front ends.

    Args:
        parts: texts and wordings in order. A message among them keeps its own parts.
    """

    parts: tuple[str | Wording, ...]

    def __new__(cls, *parts: str | Wording) -> "OptionMessage":
        flat = tuple(chain.from_iterable(part.parts if isinstance(part, OptionMessage) else (part,) for part in parts))
        message = super().__new__(cls, "".join(part.python if isinstance(part, Wording) else part for part in flat))
        message.parts = flat
        return message

    def __getnewargs__(self) -> tuple[str | Wording, ...]:  # type: ignore[override]  # for pickle: those of `__new__`
        return self.parts

    @property
    def for_command(self) -> str:
        """The message for users of the command line."""
        return "".join(part.for_command if isinstance(part, Wording) else part for part in self.parts)

    @property
    def for_server(self) -> str:
        """The message for clients of the server."""
        return "".join(part.for_server if isinstance(part, Wording) else part for part in self.parts)


def flag(name: str) -> str:
    """Return the flag of the command line for an argument of Python."""
    return _OTHER_FLAGS.get(name) or "--" + name.replace("_", "-")


def option(name: str) -> Wording:
    """Return the name of an argument: `max_pixels`, `--max-pixels`."""
    return Wording(name, flag(name))


def setting(name: str, value: str) -> Wording:
    """Return an argument with a value: `device='cpu'`, `--device cpu`."""
    return Wording(f"{name}={value!r}", f"{flag(name)} {value}")


def argument(python: str, command: str) -> Wording:
    """Return what callers in Python pass, followed by what the command line has for it.

    Args:
        python: such as `overwrite=True`.
        command: such as `--overwrite`.
    """
    return Wording(f"{python} (command line: {command})", command)


OVERWRITE: Final = argument("overwrite=True", "--overwrite")


def joined(separator: str, messages: Iterable[str]) -> OptionMessage:
    """Return messages in one, which `str.join` would reduce to their words in Python."""
    parts = [part for message in messages for part in (separator, message)]
    return OptionMessage(*parts[1:])


def message_of(error: BaseException) -> OptionMessage:
    """Return the message of an error or warning of any class, with its parts if it has some."""
    if len(error.args) == 1 and isinstance(error.args[0], OptionMessage):
        return error.args[0]
    return OptionMessage(str(error))
