"""Names of combined outputs, and the checks that tell them from files of other programs."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

from sspsam.batch.job_files import require_inside
from sspsam.batch.records import Shard
from sspsam.errors import BatchError, StorageError
from sspsam.segmentation.exports.yolo import DATA_BEGINNING, DATA_FILE, LABELS_FOLDER
from sspsam.utils.paths import open_regular_file, shown

COCO_BEGINNING: Final = b'{"info": {"description": "written by sspsam batch"},\n'
_PARQUET_COLUMN: Final = b"foreground_pixels"  # in the schema at the end of the file
_SCHEMA_BYTES: Final = 1 << 20


def combined_output_names(shard: Shard) -> dict[Literal["coco", "parquet", "yolo"], str]:
    """Return the name of each file or folder that a run makes from all results."""
    return {
        "coco": shard.name("coco", ".json"),
        "parquet": shard.name("results", ".parquet"),
        "yolo": shard.name("yolo"),
    }


def files_of_combined_output(path: Path) -> list[Path]:
    """Return the files of a combined output; files that the user added to a folder are not among them."""
    if not os.path.isdir(path):
        return [path]
    labels = (Path(folder) / name for folder, _, names in os.walk(path / LABELS_FOLDER) for name in names)
    return [path / DATA_FILE, *labels]


def is_own_combined_output(path: Path) -> bool:
    """Return whether a file or folder was written by a batch, by its beginning, its columns or its file `data.yaml`.

    Raises:
        BatchError: not a regular file, or the file cannot be read.
    """
    if os.path.isdir(path) and path.suffix not in (".json", ".parquet"):
        return _is_own_folder(path)
    try:
        with open_regular_file(path, BatchError) as file:
            if path.suffix == ".json":
                return file.read(len(COCO_BEGINNING)) == COCO_BEGINNING
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _SCHEMA_BYTES))
            return _PARQUET_COLUMN in file.read()
    except OSError as error:
        raise BatchError(f"cannot read {shown(path)}: {error.strerror or error}") from error


def _is_own_folder(path: Path) -> bool:
    try:
        if not os.listdir(path):  # left by a run that was stopped
            return True
        with open_regular_file(path / DATA_FILE, StorageError) as file:
            return file.read(len(DATA_BEGINNING)) == DATA_BEGINNING.encode()
    except (OSError, StorageError):
        return False


def require_replaceable_outputs(output: Path, paths: Iterable[Path]) -> None:
    """Check before the run that its last step will not replace a file that no batch wrote.

    Raises:
        BatchError: the message names the file.
        StorageError: a path is a link that leads out of the output folder.
    """
    for path in paths:
        require_inside(path, output)
        if os.path.lexists(path) and not is_own_combined_output(path):
            raise BatchError(
                f"{shown(path)} was not written by sspsam: move the file, or choose another folder, so that it is not "
                "replaced"
            )
