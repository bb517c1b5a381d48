"""State of a run on disk: `job.json`, `results.jsonl` and `errors.jsonl`; a resumed run continues from them.

`results.jsonl` has one line for each image and expression, `errors.jsonl` one for each image that failed. The lines of
an image are flushed to disk after the files that they name. Both files are append-only; a start cuts off an incomplete
end that a crash left. The results file is also the lock, which the operating system releases when the process ends.
"""

import json
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from sspsam.batch.combined_output_names import combined_output_names
from sspsam.batch.job_files import read_job, require_inside, with_model_of
from sspsam.batch.overwriting import REMOVING, remove_earlier_run
from sspsam.batch.records import JsonLinesFile, Line, Shard
from sspsam.errors import BatchError, warn
from sspsam.messages import OVERWRITE, OptionMessage, joined, option
from sspsam.utils.file_locks import lock_file
from sspsam.utils.files import make_directory, replace_file, storage_errors
from sspsam.utils.paths import shown

_SHARD: Final = r"(\.\d+-of-\d+)?"
_RECORD_FILE: Final = re.compile(rf"(results|errors){_SHARD}\.jsonl")
_TEMPORARY_FOLDER: Final = re.compile(rf"\.sspsam-tmp{_SHARD}")
_DESKTOP_FILES: Final = (".DS_Store", "Thumbs.db", "desktop.ini")  # written by file managers that opened the folder
# keys of the job file that are named as options
_OPTIONS: Final = frozenset(
    {
        "batch_size",
        "calibration",
        "formats",
        "glob",
        "labels",
        "mask_threshold",
        "max_pixels",
        "no_target_pixels",
        "presence_threshold",
        "shard",
        "texts",
    }
)
# said beside a difference
_NOTES: Final = MappingProxyType(
    {"formats": " (those with a file for each image; to add coco, yolo or parquet, name the earlier formats too)"}
)


@dataclass(frozen=True)
class Ledger:
    """The locked record of one run.

    Args:
        output: folder of the run.
        shard: number of the run.
        results: one line for each image and expression.
        errors: one line for each image that failed.
        temporary: folder for files that are being written.
        model: name of the model in all lines; that of the first run, if this run resumes it.
    """

    output: Path
    shard: Shard
    results: JsonLinesFile
    errors: JsonLinesFile
    temporary: Path
    model: str

    @property
    def recorded_images(self) -> set[str]:
        """Images that are complete: answered, or failed."""
        return self.results.images | self.errors.images

    @property
    def job_path(self) -> Path:
        return self.output / self.shard.name("job", ".json")

    def write_job(self, job: Mapping[str, Any]) -> None:
        require_inside(self.job_path, self.output)
        data = (json.dumps(job, indent=1, sort_keys=True) + "\n").encode()
        replace_file(self.job_path, data, within=self.temporary)


@contextmanager
def open_ledger(
    output: Path, shard: Shard, job: Mapping[str, Any], overwrite: bool, stems: Collection[str] = ()
) -> Iterator[Ledger]:
    """Lock the record of a run, and start the run or resume it.

    Args:
        output: folder of the run; created if missing.
        shard: number of the run.
        job: everything that determines the answers, as JSON values; a run is resumed only with an equal job, and the
            shards in a folder need equal jobs.
        overwrite: whether to remove the files of an earlier run first.
        stems: output stems of this run's images.

    Raises:
        BatchError: another run holds the lock, an earlier run had another job, or the folder holds other files.
        StorageError: a file cannot be written.
    """
    _require_batch_folder(output)
    make_directory(output)
    temporary = output / shard.name(".sspsam-tmp")
    require_inside(temporary, output)
    with ExitStack() as stack:
        results, errors = (
            JsonLinesFile.open(output / shard.name(stem, ".jsonl"), output, stack) for stem in ("results", "errors")
        )
        _lock(results.file, output)
        shutil.rmtree(temporary, ignore_errors=True)
        make_directory(temporary)
        stack.callback(shutil.rmtree, temporary, ignore_errors=True)
        if not overwrite:
            job = _with_known_model(output, shard, job)
        ledger = Ledger(output, shard, results, errors, temporary, str(job.get("model")))
        if overwrite:
            _require_same_shard_count(ledger, job)
            _overwrite(ledger, job, stems)
        else:
            _start_or_resume(ledger, job)
        results.recover()
        errors.recover()
        yield ledger


def _require_batch_folder(output: Path) -> None:
    """Refuse a folder that holds files and no batch."""
    with storage_errors(output):
        paths = sorted(output.iterdir()) if os.path.exists(output) else []
        if any(read_job(path) is not None for path in paths):
            return
        foreign = [path.name for path in paths if not _is_leftover(path)]
    if foreign:
        raise BatchError(
            f"{shown(output)} is not empty and holds no batch ({shown(foreign[0])!r} and {len(foreign) - 1} more): "
            "choose another folder, so that none of your files is replaced"
        )


def _is_leftover(path: Path) -> bool:
    """Return whether a path was left by a run that crashed at its start, or by a file manager."""
    is_empty_record = _RECORD_FILE.fullmatch(path.name) is not None and path.stat().st_size == 0
    return is_empty_record or _TEMPORARY_FOLDER.fullmatch(path.name) is not None or path.name in _DESKTOP_FILES


def _lock(file: FileIO, output: Path) -> None:
    """Lock a file until it is closed or this process ends."""
    try:
        lock_file(file)
    except (BlockingIOError, PermissionError):
        raise BatchError(
            f"another run is writing to {output}: wait until it has finished, or choose another folder"
        ) from None
    except OSError as error:
        warn(
            f"the file system of {output} does not support locks ({error.strerror}): make sure that no other run "
            "writes to this folder"
        )


def _with_known_model(output: Path, shard: Shard, job: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the job with the name that an earlier run or another shard gave to the same model."""
    own = output / shard.name("job", ".json")
    for path in (own, *sorted(output.glob("job*.json"))):
        earlier = read_job(path)
        if earlier is not None and REMOVING not in earlier:
            return with_model_of(job, earlier)
    return job


def _start_or_resume(ledger: Ledger, job: Mapping[str, Any]) -> None:
    """Write the job file, or compare the job with an earlier one; compare it with the jobs of other shards."""
    earlier = read_job(ledger.job_path)
    if earlier is None and os.path.lexists(ledger.job_path):
        raise BatchError(OptionMessage(f"{ledger.job_path} is damaged: start again with ", OVERWRITE))
    if earlier is None:
        ledger.write_job(job)  # before the other jobs are read: if two shards start at once, one sees the other
    elif REMOVING in earlier:
        raise BatchError(
            OptionMessage(
                f"an earlier run was interrupted while it removed the files in {ledger.output}: use ",
                OVERWRITE,
                " once more",
            )
        )
    try:
        if earlier is not None:
            _require_equal_jobs(job, earlier, f"an earlier run in {ledger.output}", frozenset())
        for path, shard_job in _jobs_of_other_shards(ledger):
            _require_equal_jobs(job, shard_job, f"the run of {path}", frozenset({"shard"}))
    except BatchError:
        if earlier is None:
            ledger.job_path.unlink()
        raise


def _require_same_shard_count(ledger: Ledger, job: Mapping[str, Any]) -> None:
    """Refuse to overwrite one shard of a batch that was split into another number of shards.

    The shards of one batch can be overwritten one after another. Files of shards of another count would remain, and
    every later run would be refused because of them.
    """
    for path, shard_job in _jobs_of_other_shards(ledger):
        if shard_job.get("shards") != job.get("shards"):
            raise BatchError(f"{path} belongs to a batch of {shard_job.get('shards')} shards: choose another folder")


def _jobs_of_other_shards(ledger: Ledger) -> Iterator[tuple[Path, Line]]:
    for path in sorted(ledger.output.glob("job*.json")):
        job = None if path.name == ledger.job_path.name else read_job(path)
        if job is not None and REMOVING not in job:
            yield path, job


def _require_equal_jobs(job: Mapping[str, Any], earlier: Line, owner: str, ignored_keys: Collection[str]) -> None:
    """Compare two jobs.

    Args:
        job: of this run.
        earlier: as read from a job file.
        owner: name of the earlier job's run, for the error.
        ignored_keys: keys that may differ.

    Raises:
        BatchError: the jobs differ; the message lists the differences.
    """
    current = json.loads(json.dumps(job))
    try:
        differences = [
            OptionMessage(
                option(key) if key in _OPTIONS else key,
                f" was {_abbreviated(earlier.get(key))}, is {_abbreviated(current.get(key))}{_NOTES.get(key, '')}",
            )
            for key in sorted(current.keys() | earlier.keys())
            if current.get(key) != earlier.get(key) and key not in ignored_keys
        ]
    except RecursionError:
        raise BatchError(f"the job file of {owner} is damaged: it is nested too deeply") from None
    if differences:
        raise BatchError(
            OptionMessage(
                f"{owner} had other inputs or options: ",
                joined("; ", differences),
                ". Resume it with the same ones, choose another folder, or start again with ",
                OVERWRITE,
            )
        )


def _abbreviated(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _overwrite(ledger: Ledger, job: Mapping[str, Any], stems: Collection[str]) -> None:
    """Remove the files of an earlier run, then its record.

    The job file says that files are being removed until all of them are gone, so that an interrupted removal is not
    resumed as a run. The job is not compared with the jobs of other shards, because they have to be overwritten too.
    """
    ledger.write_job({"version": job.get("version"), "sspsam": job.get("sspsam"), REMOVING: True})
    combined_outputs = combined_output_names(ledger.shard).values()
    remove_earlier_run(ledger.output, ledger.results.lines(), combined_outputs, frozenset(stems))
    ledger.results.clear()
    ledger.errors.clear()
    ledger.write_job(job)
