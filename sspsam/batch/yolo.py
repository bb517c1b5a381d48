"""Results of a batch as a folder of YOLO labels; see `sspsam.segmentation.exports.yolo` for its content."""

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Final

from sspsam.batch.job_files import require_inside
from sspsam.batch.manifest import Task
from sspsam.batch.naming import output_stems
from sspsam.batch.records import Line
from sspsam.batch.result_lines import category_of, result_of
from sspsam.errors import BatchError
from sspsam.segmentation.exports.images import Instances
from sspsam.segmentation.exports.yolo import (
    DATA_FILE,
    LABELS_FOLDER,
    data_file,
    label_path,
    shared_file_message,
    yolo_rows,
)
from sspsam.utils.files import make_directory, replace_file, storage_errors
from sspsam.utils.paths import shown

_MAX_NAME_BYTES: Final = 255  # of a file on most file systems


def require_label_files(stems: Mapping[str, str]) -> None:
    """Check that YOLO would find a file of labels of its own for each image.

    Args:
        stems: output stem of each image.

    Raises:
        BatchError: two images would share a file, or an image lies outside of the folder of the list.
    """
    images: dict[str, str] = {}
    for image, stem in stems.items():
        try:
            label_path(image)
        except ValueError:
            raise BatchError(
                "the format yolo needs names of images that are relative to the folder of their list and stay in it, "
                f"since labels are found by these names, and {shown(image)} is not such a name: put the list beside "
                "the images and name them from there, or leave out the format yolo"
            ) from None
        path = _label_path(image, stem)
        other = images.setdefault(path.casefold(), image)
        if other != image:
            raise BatchError(f"{shared_file_message(other, image, path)}, or leave out the format yolo")


def write_yolo_folder(
    folder: Path,
    lines: Iterable[Line],
    tasks: Sequence[Task],
    stems: Mapping[str, str],
    instances: Instances,
    temporary: Path,
) -> None:
    """Write `data.yaml` and the folder of labels; other files in the folder, such as images, stay.

    The numbers of the categories come from the manifest of the whole batch, so that the labels of all shards fit.

    Args:
        folder: to write into; created if missing.
        lines: of `results.jsonl`, grouped by image; iterated over once.
        tasks: all tasks of the batch, other shards' tasks included.
        stems: output stem of each image.
        instances: division of a mask into rows.
        temporary: folder on the same file system for incomplete files.

    Raises:
        StorageError: a file cannot be written.
    """
    categories: dict[str, int] = {}
    for name in (name for task in tasks for name in task.categories):
        categories.setdefault(name, len(categories))
    new_labels, old_labels = temporary / LABELS_FOLDER, temporary / f"old-{LABELS_FOLDER}"
    make_directory(new_labels)
    for image, group in groupby(lines, key=lambda line: str(line["image"])):
        rows = [
            yolo_rows(result_of(line), categories.setdefault(category_of(line), len(categories)), instances)
            for line in group
        ]
        stem = stems.get(image) or output_stems([image])[0]  # an image that is no longer in the input
        path = new_labels / _label_path(image, stem)
        make_directory(path.parent)
        with storage_errors(path):
            path.write_text("".join(rows))
    make_directory(folder)
    labels = folder / LABELS_FOLDER
    for path in (labels, folder / DATA_FILE):
        require_inside(path, folder.parent)
    # first of all, because the folder is recognised by this file
    replace_file(folder / DATA_FILE, data_file(categories).encode(errors="backslashreplace"), within=temporary)
    with storage_errors(labels):
        if os.path.lexists(labels):
            labels.rename(old_labels)
        new_labels.rename(labels)
    shutil.rmtree(old_labels, ignore_errors=True)


def _label_path(image: str, stem: str) -> str:
    """Return the path of an image's text file, by which YOLO finds it: the path of the image with another suffix.

    Where the file would have too long a name, it is made of the output stem.
    """
    path = label_path(image)
    if all(len(os.fsencode(name)) <= _MAX_NAME_BYTES for name in path.split("/")):
        return path
    return f"{stem.removesuffix(PurePosixPath(image).suffix)}.txt"
