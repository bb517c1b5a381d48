"""Job files, by which the output folder of a batch is recognised."""

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from sspsam.batch.records import Line
from sspsam.errors import BatchError, SSPSAMError, StorageError
from sspsam.utils.file_status import status_of
from sspsam.utils.paths import open_regular_file, shown

_JOB_FILE: Final = re.compile(r"job(\.\d+-of-\d+)?\.json")
_MAX_BYTES: Final = 64 << 20  # a job file holds at most the expressions of all images


def is_job_name(name: str) -> bool:
    """Return whether a file has the name of a job file."""
    return _JOB_FILE.fullmatch(name) is not None


def read_job(path: Path) -> Line | None:
    """Return the content of a job file; None if the file is missing, damaged or not a job file.

    Raises:
        BatchError: a job file cannot be read, is not a regular file, or is larger than any job.
    """
    if not is_job_name(path.name) or status_of(path, BatchError) is None:
        return None
    try:
        with open_regular_file(path, BatchError) as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise BatchError(f"cannot read {shown(path)}: {error.strerror or error}") from error
    if len(content) > _MAX_BYTES:
        raise BatchError(f"{shown(path)} is larger than {_MAX_BYTES >> 20} MiB, and no job file of sspsam is")
    return _parsed(content)


def _parsed(content: bytes) -> Line | None:
    try:
        job = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return job if isinstance(job, dict) and {"version", "sspsam"} <= job.keys() else None


def is_batch_folder(folder: Path, names: list[str]) -> bool:
    """Return whether a folder is the output of a batch.

    Args:
        folder: location of the folder.
        names: of the files in the folder.
    """
    return any(_is_job(folder / name) for name in names if is_job_name(name))


def has_files_of(output: Path, folder: str) -> bool:
    """Return whether the results of a batch name a file in a folder.

    Args:
        output: the output folder.
        folder: relative to it, with `/`.
    """
    prefix = json.dumps(f"{folder}/")[1:-1].encode()
    named = re.compile(rb'"files": \{[^}]*"' + re.escape(prefix))
    with suppress(OSError):
        for path in sorted(output.glob("results*.jsonl")):
            with path.open("rb") as file:
                if any(named.search(line) for line in file):
                    return True
    return False


def _is_job(path: Path) -> bool:
    try:
        return read_job(path) is not None
    except SSPSAMError:
        return False


def with_model_of(job: Mapping[str, Any], earlier: Mapping[str, Any]) -> dict[str, Any]:
    """Return a job with the name of an earlier job's model, if both models have the same fingerprint.

    A checkpoint that was moved, or is named by another path, is the same model.
    """
    model = earlier.get("model")
    is_same = job.get("fingerprint") is not None and job.get("fingerprint") == earlier.get("fingerprint")
    return {**job, "model": model} if is_same and isinstance(model, str) else dict(job)


def require_inside(path: Path, output: Path) -> None:
    """Refuse a link that leads out of the output folder.

    Raises:
        StorageError: the message names the link.
    """
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(output)):
        raise StorageError(f"a link in the path of {shown(path)} leads out of {shown(output)}: remove the link")
