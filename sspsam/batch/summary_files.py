"""Files that are made from all results, `coco.json` and `results.parquet`, told from files of other programs."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from sspsam.batch.job_files import require_inside
from sspsam.errors import BatchError
from sspsam.utils.paths import open_regular_file, shown

COCO_BEGINNING: Final = b'{"info": {"description": "written by sspsam batch"},\n'
_PARQUET_COLUMN: Final = b"foreground_pixels"  # in the schema at the end of the file
_SCHEMA_BYTES: Final = 1 << 20


def is_own_summary(path: Path) -> bool:
    """Return whether a file was written by a batch, by its beginning or its columns.

    Raises:
        BatchError: not a regular file, or the file cannot be read.
    """
    try:
        with open_regular_file(path, BatchError) as file:
            if path.suffix == ".json":
                return file.read(len(COCO_BEGINNING)) == COCO_BEGINNING
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _SCHEMA_BYTES))
            return _PARQUET_COLUMN in file.read()
    except OSError as error:
        raise BatchError(f"cannot read {shown(path)}: {error.strerror or error}") from error


def require_replaceable_summaries(output: Path, paths: Iterable[Path]) -> None:
    """Check before the run that its last step will not replace a file that no batch wrote.

    Raises:
        BatchError: the message names the file.
        StorageError: a path is a link that leads out of the output folder.
    """
    for path in paths:
        require_inside(path, output)
        if os.path.lexists(path) and not is_own_summary(path):
            raise BatchError(
                f"{shown(path)} was not written by sspsam: move the file, or choose another folder, so that it is not "
                "replaced"
            )
