"""Removal of the files that an earlier run wrote, for a run with `overwrite`."""

import json
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from sspsam.batch.combined_output_names import files_of_combined_output, is_own_combined_output
from sspsam.batch.naming import ANSWER_FILE
from sspsam.utils.files import storage_errors

REMOVING: Final = "removing"  # key in the job file of a run that is removing an earlier run's files


def remove_earlier_run(
    output: Path, result_lines: Iterable[bytes], combined_outputs: Iterable[str], stems: Collection[str]
) -> None:
    """Remove the files of an earlier run, and the folders that are empty afterwards; the record files stay.

    Args:
        output: folder of the run.
        result_lines: lines of `results.jsonl`, which name the files.
        combined_outputs: names of the files and folders that are made from all results.
        stems: output stems of the run's images; files with these stems are removed although no line names them.
    """
    root = Path(os.path.realpath(output))
    own_outputs = (root / name for name in combined_outputs if os.path.lexists(root / name))
    own_files = (
        str(path) for own in own_outputs if is_own_combined_output(own) for path in files_of_combined_output(own)
    )
    files = {*own_files, *_files_in_lines(result_lines), *_unrecorded_files(root, stems)}
    folders: set[Path] = set()
    for path in (Path(os.path.realpath(root / name)) for name in files):
        if path.is_relative_to(root) and path != root:
            with storage_errors(path):
                path.unlink(missing_ok=True)
            folders.update(folder for folder in path.parents if folder != root and folder.is_relative_to(root))
    for folder in sorted(folders, reverse=True):  # subfolders before their parents
        with suppress(OSError):  # not empty, or already removed
            folder.rmdir()


def _files_in_lines(result_lines: Iterable[bytes]) -> Iterator[str]:
    for line in result_lines:
        with suppress(ValueError, TypeError, AttributeError, RecursionError):
            for name in map(str, json.loads(line).get("files", {}).values()):
                if ANSWER_FILE.fullmatch(name) and "\0" not in name:  # a damaged line may name any file
                    yield name


def _unrecorded_files(root: Path, stems: Collection[str]) -> Iterator[str]:
    """Yield files about answers that have one of the stems; a run may be stopped before it writes their lines."""
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name).relative_to(root).as_posix()
            if (match := ANSWER_FILE.fullmatch(path)) and match[1] in stems:
                yield path
