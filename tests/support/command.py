"""The `sspsam` command inside the test process, with any supported version of click."""

import inspect
from typing import Any

from click.testing import CliRunner, Result

from sspsam.cli import main


def run_command(*arguments: object) -> Result:
    """Run `sspsam` with arguments; the result has standard output and standard error separately."""
    # click below 8.2 mixes both unless told otherwise; later versions have no such parameter
    separate: dict[str, Any] = {"mix_stderr": False}
    parameters = inspect.signature(CliRunner).parameters
    runner = CliRunner(**{name: value for name, value in separate.items() if name in parameters})
    return runner.invoke(main, [str(argument) for argument in arguments])
