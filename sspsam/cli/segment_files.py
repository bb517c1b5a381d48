"""Files of `sspsam segment`: their names, and the files that they must not replace."""

import os
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sspsam.cli.paths import STANDARD_INPUT
from sspsam.errors import ImageError, SSPSAMError, StorageError
from sspsam.utils.file_status import identity, status_of
from sspsam.utils.paths import shown

if TYPE_CHECKING:
    from sspsam.segmentation.exports.answer_files import AnswerFormat, NamedAnswer


class ResultFiles:
    """Names and writes the files of all results; never replaces an image of the same command.

    Args:
        folder: folder for the files; None: no files.
        formats: kinds of files.
        images: all images of the command.
        overwrite: whether to replace existing files.
    """

    def __init__(
        self, folder: Path | None, formats: "Sequence[AnswerFormat]", images: Sequence[Path], overwrite: bool
    ) -> None:
        from sspsam.batch.naming import flat_stems

        self.folder, self.formats, self.overwrite = folder, formats, overwrite
        self._stems = flat_stems(["stdin" if image == STANDARD_INPUT else image.name for image in images])
        self._images = {found for image in images if (found := _identity(image)) is not None}
        self._written: set[tuple[int, int]] = set()

    def paths(self, index: int, count: int) -> "list[dict[AnswerFormat, Path]]":
        """Return the paths of the files of each result of an image.

        Args:
            index: of the image.
            count: number of results.

        Raises:
            StorageError: one of the files must not be written.
        """
        from sspsam.segmentation.exports.answer_files import ANSWER_SUFFIXES

        if self.folder is None:
            return [{} for _ in range(count)]
        stem = self._stems[index]
        paths = [
            {kind: self.folder / f"{stem}-{number}{ANSWER_SUFFIXES[kind]}" for kind in self.formats}
            for number in range(1, count + 1)
        ]
        for path in (path for result_paths in paths for path in result_paths.values()):
            self._require_replaceable(path)
        return paths

    def write(self, paths: "Sequence[dict[AnswerFormat, Path]]", answers: "Sequence[NamedAnswer]") -> None:
        """Write the files of an image's results.

        Args:
            paths: from `paths`.
            answers: the results.

        Raises:
            StorageError: a file cannot be written.
            ImageError: a result has no image to draw on.
        """
        from sspsam.segmentation.exports.answer_files import answer_file
        from sspsam.utils.files import replace_file

        for answer_paths, answer in zip(paths, answers, strict=True):
            for kind, path in answer_paths.items():
                self._require_replaceable(path)
                replace_file(path, answer_file(kind, answer))
                self._written.update(filter(None, [_identity(path)]))

    def _require_replaceable(self, path: Path) -> None:
        """Raise a `StorageError` if something at the path must not be replaced."""
        try:
            status = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise StorageError(f"cannot write {shown(path)}: {error.strerror or error}") from error
        name, elsewhere = shown(path), "choose another folder with -o"
        if stat.S_ISLNK(status.st_mode):
            raise StorageError(f"{name} is a link, which is not replaced: remove it, or {elsewhere}")
        if not stat.S_ISREG(status.st_mode):
            raise StorageError(f"{name} exists and is not a regular file: {elsewhere}")
        if identity(status) in self._images:
            raise StorageError(f"{name} is one of the images, and an image is never replaced: {elsewhere}")
        if identity(status) in self._written:
            raise StorageError(f"{name} was written for another image by this command: {elsewhere}")
        if not self.overwrite:
            raise StorageError(f"{name} exists already: add --overwrite to replace it, or {elsewhere}")


def require_no_folder(image: Path) -> None:
    """Raise an `ImageError` that names `sspsam batch` if the path of an image is a folder."""
    status = None if image == STANDARD_INPUT else status_of(image, ImageError)
    if status is not None and stat.S_ISDIR(status.st_mode):
        raise ImageError(f"{shown(image)} is a folder: use sspsam batch for the images in a folder")


def _identity(path: Path) -> tuple[int, int] | None:
    if path == STANDARD_INPUT:
        with suppress(OSError, ValueError, AttributeError):  # closed, or no file
            return identity(os.fstat(sys.stdin.fileno()))
        return None
    with suppress(SSPSAMError):
        if (status := status_of(path, SSPSAMError)) is not None:
            return identity(status)
    return None
