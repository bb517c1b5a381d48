"""One conversion in a subprocess: the parent's side, and the module that the subprocess runs with `python -P -m`.

The parent writes a task, one line of JSON, to the subprocess' standard input and leaves the pipe open. The subprocess
writes its answer, one line of JSON, as the last line of its standard output. Importing this module imports no PyTorch.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, cast

from sspsam import errors
from sspsam.checkpoints.names import AUTHORS_LICENSE, AUTHORS_REPOSITORY, Source
from sspsam.errors import CheckpointError, SSPSAMError
from sspsam.utils.paths import shown

_MODULE: Final = "sspsam.checkpoints.convert_process"


def convert_in_subprocess(checkpoint: Path, out_dir: Path, source: Source, encoder_store: Path | None = None) -> None:
    """Run `convert_checkpoint` in a subprocess, whose memory is released when it ends.

    An interpreter that cannot be started again, as in a frozen application, converts in this process.

    Args:
        checkpoint: the authors' `.pth` file.
        out_dir: where to write the converted checkpoint.
        source: of the file, recorded in its `config.json`.
        encoder_store: folder that keeps the image encoders; None: the converted checkpoint holds them.

    Raises:
        SSPSAMError: the error that `convert_checkpoint` raised in the subprocess.
        CheckpointError: the subprocess ended without an answer.
    """
    task = {
        "checkpoint": str(checkpoint),
        "out_dir": str(out_dir),
        "source": str(source),
        "license": AUTHORS_LICENSE if source.repository == AUTHORS_REPOSITORY else None,
        "encoder_store": None if encoder_store is None else str(encoder_store),
    }
    if not sys.executable or getattr(sys, "frozen", False):
        _convert(task)
        return
    output, status = _run(_command(), json.dumps(task).encode() + b"\n")
    _raise_reported_error(output, status, checkpoint)


def _command() -> list[str]:
    # -P: -m would put the current directory, whose files must not be run, at the front of sys.path
    return [sys.executable, "-P", "-m", _MODULE]


def _environment() -> dict[str, str]:
    """The environment of the subprocess: no tokens, and the modules that this process would import."""
    variables = {name: value for name, value in os.environ.items() if "TOKEN" not in name}
    return {**variables, "PYTHONPATH": os.pathsep.join(_import_path(sys.path))}


def _import_path(entries: Sequence[object]) -> list[str]:
    """Return the entries of `sys.path` that PYTHONPATH can hold, and the parent folder of this package if it is
    missing.

    An empty entry is the current directory, whose files must not be run.
    """
    texts = [str(entry) for entry in entries]
    path = [text for text in texts if text and os.pathsep not in text]
    package_folder = str(Path(__file__).parents[2])
    return path if package_folder in path else [*path, package_folder]


def _run(command: Sequence[str], task: bytes) -> tuple[bytes, int]:
    """Run a subprocess; returns its standard output and its exit status.

    The pipe to its standard input stays open until it ends. If this process is killed, the pipe closes, and the
    subprocess ends itself instead of writing on.
    """
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=_environment()
    ) as process:
        stdin, stdout = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)  # pipes were requested
        try:
            with contextlib.suppress(BrokenPipeError):  # the subprocess was killed: its exit status says so
                stdin.write(task)
            output = stdout.read()
            return output, process.wait()
        finally:
            process.kill()


def _raise_reported_error(output: bytes, status: int, checkpoint: Path) -> None:
    """Raise the error that the last line of the output reports; an empty object reports success."""
    lines = output.splitlines()
    try:
        answer = json.loads(lines[-1] if lines else b"")
    except ValueError:
        answer = None
    if status != 0 or not isinstance(answer, dict):
        raise CheckpointError(
            f"the subprocess that converted {shown(checkpoint)} ended without an answer (exit status {status}); "
            "perhaps there was too little memory. The file need not be damaged: free some memory and try again."
        )
    if answer:
        kind = getattr(errors, answer["kind"], CheckpointError)
        raise kind(answer["message"])


def main() -> None:
    """Convert one checkpoint as the subprocess; never returns."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print must not be taken for the answer
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=_exit_with_the_parent, daemon=True).start()
    answer: dict[str, str] = {}
    try:
        _convert(task)
    except SSPSAMError as error:
        answer = {"kind": type(error).__name__, "message": str(error)}
    answers.write("\n" + json.dumps(answer))
    answers.flush()
    os._exit(0)  # sys.exit would wait for the thread that reads standard input


def _exit_with_the_parent() -> None:
    """Wait until the pipe from the parent closes, then exit at once."""
    sys.stdin.read()
    os._exit(1)


def _convert(task: Mapping[str, Any]) -> None:
    from sspsam.checkpoints.convert import convert_checkpoint

    convert_checkpoint(
        task["checkpoint"],
        task["out_dir"],
        source=task["source"],
        license=task["license"],
        encoder_store=None if task["encoder_store"] is None else Path(task["encoder_store"]),
    )


if __name__ == "__main__":
    main()
