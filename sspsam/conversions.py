"""Checkpoints from the Hub that were converted here: kept beside their source, made once, found again without asking.

    <root>/<owner>--<name>/<commit>/<path, / as -->/   config.json, model.safetensors, source.json
    <root>/<owner>--<name>/names/<name and revision>.json   which commit and path an unpinned name was resolved to

`root` is `sspsam-converted` in `cache_dir` if that is given, else in `HF_HOME`.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from filelock import FileLock

from sspsam import errors
from sspsam.checkpoint import CONFIG_NAME, WEIGHTS_NAME, sha256_of
from sspsam.errors import CheckpointError, DigestMismatchError, SSPSAMError
from sspsam.fetch import HubOptions
from sspsam.names import AUTHORS_LICENSE, AUTHORS_REPOSITORY
from sspsam.storage import make_directory, replace_file, storage_error

_SOURCE_NAME: Final = "source.json"


@dataclass(frozen=True)
class Source:
    """Where a converted checkpoint comes from."""

    repository: str
    commit: str
    path: str
    sha256: str | None = None

    def __str__(self) -> str:
        digest = f", SHA-256 {self.sha256}" if self.sha256 else ""
        return f"{self.repository}@{self.commit}:{self.path}{digest}"


def root_of(options: HubOptions) -> Path:
    """Where conversions are kept."""
    from huggingface_hub import constants

    return (options.cache_dir or Path(constants.HF_HOME)) / "sspsam-converted"


def directory_of(source: Source, options: HubOptions) -> Path:
    """Where the conversion of a source is kept, made or not."""
    return _repository(source.repository, options) / source.commit / source.path.replace("/", "--")


def is_whole(directory: Path) -> bool:
    """Whether a conversion was finished: it takes its place by one renaming, so it is whole or not there."""
    return all((directory / name).is_file() for name in (CONFIG_NAME, WEIGHTS_NAME, _SOURCE_NAME))


def recall(repository: str, name: str, options: HubOptions) -> Source | None:
    """What a name was resolved to before, if its conversion is still there."""
    try:
        source = Source(**json.loads(_record(repository, name, options).read_bytes()))
        return source if is_whole(directory_of(source, options)) else None
    except (OSError, ValueError, TypeError):
        return None


def remember(name: str, source: Source, options: HubOptions) -> None:
    """Note what a name was resolved to; a cache that cannot be written costs the next load a question, no more."""
    record = _record(source.repository, name, options)
    with contextlib.suppress(OSError):
        make_directory(record.parent)
        replace_file(record, json.dumps(asdict(source)).encode())


def forget(repository: str, name: str, options: HubOptions) -> list[Path]:
    """Delete the conversion behind a name, and the note; returns what was deleted."""
    record = _record(repository, name, options)
    try:
        source = Source(**json.loads(record.read_bytes()))
    except (OSError, ValueError, TypeError):
        return []
    directory = directory_of(source, options)
    deleted = [path for path in (directory, record) if path.exists()]
    try:
        with FileLock(_lock(directory)):
            shutil.rmtree(directory, ignore_errors=False) if directory.exists() else None
            record.unlink()
    except OSError as error:
        raise storage_error(directory, error) from error
    return deleted


def convert_once(source: Source, fetch: Callable[[], Path], options: HubOptions) -> Path:
    """The directory of a converted source; of several processes that ask at once, one converts and the others wait.

    Args:
        source: what to convert; its digest is checked where it is known.
        fetch: gives the `.pth` file; called only if there is something to convert.
        options: where to keep it.

    Raises:
        DigestMismatchError: the file is not the one that the Hub announced.
        CheckpointError, UnsafeCheckpointError, StorageError: as `convert_checkpoint`.
    """
    directory = directory_of(source, options)
    if is_whole(directory):
        return directory
    checkpoint = fetch()
    make_directory(directory.parent)
    try:
        with FileLock(_lock(directory)):
            if not is_whole(directory):
                _convert(source, checkpoint, directory)
    except OSError as error:
        raise error if isinstance(error, SSPSAMError) else storage_error(directory, error) from error
    return directory


def _convert(source: Source, checkpoint: Path, directory: Path) -> None:
    """With the lock held: whatever lies beside the directory was left by a process that was killed."""
    for stale in directory.parent.glob(directory.name + ".*.tmp"):
        shutil.rmtree(stale, ignore_errors=True)
    shutil.rmtree(directory, ignore_errors=True)
    digest = sha256_of(checkpoint)
    if source.sha256 not in (None, digest):
        raise DigestMismatchError(
            f"{checkpoint} is damaged: its SHA-256 is {digest}, the Hub announced {source.sha256}."
        )
    source = Source(source.repository, source.commit, source.path, digest)
    temporary = directory.with_name(f"{directory.name}.{os.getpid()}.tmp")
    try:
        in_own_process(checkpoint, temporary, source)
        replace_file(temporary / _SOURCE_NAME, json.dumps(asdict(source), indent=2).encode())
        os.replace(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def in_own_process(checkpoint: Path, out_dir: Path, source: Source) -> None:
    """`convert_checkpoint` in a process that holds nothing else and whose memory goes back when it ends."""
    task = {
        "checkpoint": str(checkpoint),
        "out_dir": str(out_dir),
        "source": str(source),
        "license": AUTHORS_LICENSE if source.repository == AUTHORS_REPOSITORY else None,
    }
    # the child ends when this pipe does, so a killed parent leaves nobody behind who still writes
    child = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import child; child()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        if child.stdin is None or child.stdout is None:
            raise RuntimeError("a pipe was asked for and not given")
        child.stdin.write(json.dumps(task).encode() + b"\n")
        child.stdin.flush()
        said = child.stdout.read()
        status = child.wait()
    except BrokenPipeError:
        said, status = b"", child.wait()
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
    _raise_what_was_said(said, status, checkpoint)


def _raise_what_was_said(said: bytes, status: int, checkpoint: Path) -> None:
    try:
        answer: dict[str, Any] = json.loads(said)
    except ValueError:
        raise CheckpointError(
            f"converting {checkpoint} was stopped (exit status {status}); there may be too little memory. Try again"
        ) from None
    if answer:
        kind = getattr(errors, answer["kind"], CheckpointError)
        raise kind(answer["message"])


def child() -> None:
    """What the process of its own does: one conversion, read from standard input, answered on standard output."""
    task = json.loads(sys.stdin.buffer.readline())

    def end_with_the_parent() -> None:
        sys.stdin.buffer.read()
        os._exit(1)

    threading.Thread(target=end_with_the_parent, daemon=True).start()
    from sspsam.convert import convert_checkpoint

    answer: dict[str, str] = {}
    try:
        convert_checkpoint(task["checkpoint"], task["out_dir"], source=task["source"], license=task["license"])
    except SSPSAMError as error:
        answer = {"kind": type(error).__name__, "message": str(error)}
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)  # the thread that waits for the parent must not keep the interpreter


def _repository(repository: str, options: HubOptions) -> Path:
    return root_of(options) / repository.replace("/", "--")


def _record(repository: str, name: str, options: HubOptions) -> Path:
    key = f"{name}@{options.revision or 'main'}"
    readable = re.sub(r"[^\w.+@-]", "_", key)[:80]
    return (
        _repository(repository, options) / "names" / f"{readable}-{hashlib.sha256(key.encode()).hexdigest()[:8]}.json"
    )


def _lock(directory: Path) -> Path:
    return directory.with_name(directory.name + ".lock")
