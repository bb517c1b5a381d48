"""The record of a batch: what was asked for, what is done, what failed; the only state that a resumed run reads.

`results.jsonl` has one line for each picture and expression, `errors.jsonl` one for each picture that failed. A line is
written, and on disk, after the files that it names. Both only grow; what a crash left unfinished at their end is cut
off at the next start. The results file is also the lock, which the system frees when its holder dies.
"""

import json
import os
import re
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Final

from sspsam.batch.records import Line, Record, Shard
from sspsam.errors import BatchError, warn
from sspsam.utils.files import make_directory, replace_file, storage_errors

_SHARD: Final = r"(\.\d+-of-\d+)?"
_JOB: Final = re.compile(rf"job{_SHARD}\.json")
_RECORD: Final = re.compile(rf"(results|errors){_SHARD}\.jsonl")
_TEMPORARY: Final = re.compile(rf"\.sspsam-tmp{_SHARD}")
_PICTURE: Final = re.compile(r"(.+)-\d+(\.overlay)?\.png", re.DOTALL)
_LITTER: Final = (".DS_Store", "Thumbs.db", "desktop.ini")  # that a desktop leaves where somebody looked
_REMOVING: Final = "removing"  # in the job of a run that is about to begin anew


@dataclass(frozen=True)
class Ledger:
    """The record of one run, held by it alone.

    Args:
        output: folder of the run.
        shard: which run this is.
        results: one line for each picture and expression.
        errors: one line for each picture that failed.
        temporary: folder for files that are being written.
    """

    output: Path
    shard: Shard
    results: Record
    errors: Record
    temporary: Path

    @property
    def done(self) -> set[str]:
        """Pictures about which nothing is left to do."""
        return self.results.done | self.errors.done


@contextmanager
def open_ledger(
    output: Path, shard: Shard, job: Mapping[str, Any], overwrite: bool, stems: Collection[str] = ()
) -> Iterator[Ledger]:
    """Begin or go on with the record of a run.

    Args:
        output: folder of the run; made if need be.
        shard: which run this is.
        job: what is asked for, as plain values; an earlier run, or one of another shard, must have been asked the same.
        overwrite: whether to remove what an earlier run wrote.
        stems: what the names of this run's files begin with.

    Raises:
        BatchError: another run is at work there, an earlier one was asked something else, or the folder is not ours.
        StorageError: it cannot be written.
    """
    _require_ours(output)
    make_directory(output)
    temporary = output / shard.name(".sspsam-tmp")
    with ExitStack() as stack:
        results, errors = (Record.opened(output / shard.name(stem, ".jsonl"), stack) for stem in ("results", "errors"))
        _lock(results.file, output)
        shutil.rmtree(temporary, ignore_errors=True)
        make_directory(temporary)
        stack.callback(shutil.rmtree, temporary, ignore_errors=True)
        ledger = Ledger(output, shard, results, errors, temporary)
        if overwrite:
            _require_the_same_parts(ledger, job)
            _remove_earlier(ledger, job, stems)
        else:
            _agree(ledger, job)
        results.recover()
        errors.recover()
        yield ledger


def _require_ours(output: Path) -> None:
    """Never write among files that somebody else put there."""
    with storage_errors(output):
        paths = sorted(output.iterdir()) if output.exists() else []
        if any(_job_in(path) is not None for path in paths):
            return
        foreign = [path.name for path in paths if not _is_begun(path)]
    if foreign:
        raise BatchError(
            f"{output} is not empty and holds no batch ({foreign[0]!r} and {len(foreign) - 1} more): choose "
            "another folder, so that nothing of yours is replaced"
        )


def _is_begun(path: Path) -> bool:
    """Whether a run that did not get far left it, or a desktop."""
    empty = _RECORD.fullmatch(path.name) is not None and path.stat().st_size == 0
    return empty or _TEMPORARY.fullmatch(path.name) is not None or path.name in _LITTER


def _job_in(path: Path) -> Line | None:
    """What a run was asked for; None where that is no file of ours."""
    if not _JOB.fullmatch(path.name):
        return None
    try:
        with storage_errors(path):
            content = path.read_bytes() if path.exists() else b""
        job = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return job if isinstance(job, dict) and {"version", "sspsam"} <= job.keys() else None


def _lock(file: FileIO, output: Path) -> None:
    """Hold a file until it is closed or this process ends."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(1 << 40)  # a byte that nobody reads
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise BatchError(f"another run is at work in {output}: wait for it, or choose another folder") from None
    except OSError as error:
        warn(f"{output} is on a file system without locks ({error.strerror}): make sure that no other run uses it")


def _agree(ledger: Ledger, job: Mapping[str, Any]) -> None:
    """Record what is asked for, or compare it with what was, by this run's forerunners and by those of other shards."""
    path = ledger.output / ledger.shard.name("job", ".json")
    earlier = _job_in(path)
    if earlier is None and path.exists():
        raise BatchError(f"{path} is damaged: begin anew with overwrite")
    if earlier is None:
        _write_job(ledger, job)  # before the others are looked at, so that of two beginners one sees the other
    elif _REMOVING in earlier:
        raise BatchError(
            f"an earlier run in {ledger.output} was stopped while it removed what was there: say overwrite again"
        )
    try:
        if earlier is not None:
            _compare(job, earlier, f"an earlier run in {ledger.output}", ())
        for other, theirs in _others(ledger):
            _compare(job, theirs, f"the run of {other}", ("shard",))
    except BatchError:
        if earlier is None:
            path.unlink()
        raise


def _require_the_same_parts(ledger: Ledger, job: Mapping[str, Any]) -> None:
    """Other shards may begin anew one by one, but runs in parts of another number would stay, and be in the way."""
    for other, theirs in _others(ledger):
        if theirs.get("shards") != job.get("shards"):
            raise BatchError(f"{other} is of a run in {theirs.get('shards')} parts: choose another folder")


def _others(ledger: Ledger) -> Iterator[tuple[Path, Line]]:
    """What other shards of the same folder were asked."""
    own = ledger.shard.name("job", ".json")
    for path in sorted(ledger.output.glob("job*.json")):
        job = None if path.name == own else _job_in(path)
        if job is not None and _REMOVING not in job:
            yield path, job


def _compare(job: Mapping[str, Any], earlier: Line, who: str, own: Collection[str]) -> None:
    asked = json.loads(json.dumps(job))
    differences = [
        f"{key} was {_short(earlier.get(key))}, is {_short(asked.get(key))}"
        for key in sorted(asked.keys() | earlier.keys())
        if asked.get(key) != earlier.get(key) and key not in own
    ]
    if differences:
        raise BatchError(
            f"{who} was asked something else: {'; '.join(differences)}. Ask the same to go "
            "on with it, choose another folder, or begin anew with overwrite"
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _write_job(ledger: Ledger, job: Mapping[str, Any]) -> None:
    path = ledger.output / ledger.shard.name("job", ".json")
    replace_file(path, (json.dumps(job, indent=1, sort_keys=True) + "\n").encode(), within=ledger.temporary)


def _remove_earlier(ledger: Ledger, job: Mapping[str, Any], stems: Collection[str]) -> None:
    """Remove the files that an earlier run wrote, then its record; who is stopped in between has to say so again.

    What other shards were asked is not compared: they have to begin anew, too.
    """
    _write_job(ledger, {"version": job.get("version"), "sspsam": job.get("sspsam"), _REMOVING: True})
    root = Path(os.path.realpath(ledger.output))
    files = {ledger.shard.name(stem, suffix) for stem, suffix in (("coco", ".json"), ("results", ".parquet"))}
    for line in ledger.results.lines():
        with suppress(ValueError, TypeError, AttributeError):
            files.update(map(str, json.loads(line).get("files", {}).values()))
    files.update(_unlisted(root, frozenset(stems)))
    folders: set[Path] = set()
    for path in (Path(os.path.realpath(root / name)) for name in files):
        if path.is_relative_to(root) and path != root:
            with storage_errors(path):
                path.unlink(missing_ok=True)
            folders.update(folder for folder in path.parents if folder != root and folder.is_relative_to(root))
    for folder in sorted(folders, reverse=True):  # what is inside before what it is in
        with suppress(OSError):  # not empty, or gone already
            folder.rmdir()
    ledger.results.clear()
    ledger.errors.clear()
    _write_job(ledger, job)


def _unlisted(root: Path, stems: Collection[str]) -> Iterator[str]:
    """Files of pictures for which there was no line yet when a run was stopped."""
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name).relative_to(root).as_posix()
            if (found := _PICTURE.fullmatch(path)) and found[1] in stems:
                yield path
