"""One conversion in a process of its own."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sspsam import errors
from sspsam.checkpoints.convert import convert_checkpoint
from sspsam.checkpoints.names import AUTHORS_LICENSE, AUTHORS_REPOSITORY, Source
from sspsam.errors import CheckpointError, SSPSAMError

_START: Final = (
    # without the current directory, from which a file of another name would be run
    "import sys; sys.path[:] = [entry for entry in sys.path if entry]; "
    "import json; task = json.loads(sys.stdin.readline()); sys.path[:] = task['path']; "
    "from sspsam.checkpoints.converted import child; child(task)"
)


def convert_in_subprocess(checkpoint: Path, out_dir: Path, source: Source) -> None:
    """`convert_checkpoint` in a process that holds nothing else and whose memory goes back when it ends."""
    task = {
        "checkpoint": str(checkpoint),
        "out_dir": str(out_dir),
        "source": str(source),
        "license": AUTHORS_LICENSE if source.repository == AUTHORS_REPOSITORY else None,
        "path": [str(entry) for entry in sys.path],
    }
    if not sys.executable or getattr(sys, "frozen", False):  # no interpreter to start
        _convert_task(task)
        return
    environment = {name: value for name, value in os.environ.items() if "TOKEN" not in name}
    # the child ends when this pipe does, so a killed parent leaves nobody behind who still writes
    child = subprocess.Popen(
        [sys.executable, "-c", _START], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    try:
        said = b""
        if child.stdin is not None and child.stdout is not None:  # pipes were asked for
            with contextlib.suppress(BrokenPipeError):
                child.stdin.write(json.dumps(task).encode() + b"\n")
                child.stdin.flush()
            said = child.stdout.read()
        status = child.wait()
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            with contextlib.suppress(OSError, AttributeError):
                pipe.close()  # type: ignore[union-attr]  # suppressed one line above
    _raise_reported_error(said, status, checkpoint)


def _raise_reported_error(said: bytes, status: int, checkpoint: Path) -> None:
    lines = said.splitlines()
    try:
        answer: dict[str, str] = json.loads(lines[-1] if lines else b"")
    except ValueError:
        raise CheckpointError(
            f"the process that converted {checkpoint} ended without an answer (exit status {status}); was there too "
            "little memory? The file itself is good, try again."
        ) from None
    if answer:
        kind = getattr(errors, answer["kind"], CheckpointError)
        raise kind(answer["message"])


def child(task: Mapping[str, Any]) -> None:
    """What the process of its own does: one conversion, answered on the last line of standard output."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever is printed on the way is no answer

    def end_with_the_parent() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=end_with_the_parent, daemon=True).start()
    answer: dict[str, str] = {}
    try:
        _convert_task(task)
    except SSPSAMError as error:
        answer = {"kind": type(error).__name__, "message": str(error)}
    answers.write("\n" + json.dumps(answer))
    answers.flush()
    os._exit(0)  # the thread that waits for the parent must not keep the interpreter


def _convert_task(task: Mapping[str, Any]) -> None:
    convert_checkpoint(task["checkpoint"], task["out_dir"], source=task["source"], license=task["license"])
