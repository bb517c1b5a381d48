"""Files of `sspsam segment`: their names, and the files that they must not replace."""

import json
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sspsam.errors import ImageError, SSPSAMError, StorageError
from sspsam.utils.file_status import identity, status_of
from sspsam.utils.paths import shown

if TYPE_CHECKING:
    from sspsam.segmentation.result import Segmentation

OUTPUT_FORMATS: Final = ("mask", "overlay", "json")


class ResultFiles:
    """Names and writes the files of all results; never replaces an image of the same command.

    Args:
        folder: folder for the files; None: no files.
        output_format: one of `OUTPUT_FORMATS`.
        images: all images of the command.
        overwrite: whether to replace existing files.
    """

    def __init__(self, folder: Path | None, output_format: str, images: Sequence[Path], overwrite: bool) -> None:
        self.folder, self.output_format, self.overwrite = folder, output_format, overwrite
        self._used_stems: set[str] = set()  # case-folded
        self._images = {found for image in images if (found := _identity(image)) is not None}
        self._written: set[tuple[int, int]] = set()

    def paths(self, image: Path, count: int) -> list[Path | None]:
        """Return the path of each result's file.

        Args:
            image: path of the image.
            count: number of results.

        Raises:
            StorageError: one of the files must not be written.
        """
        if self.folder is None:
            return [None] * count
        stem, suffix = self._unused_stem(image), ".json" if self.output_format == "json" else ".png"
        paths = [self.folder / f"{stem}-{number}{suffix}" for number in range(1, count + 1)]
        for path in paths:
            self._require_replaceable(path)
        return [*paths]

    def write(self, image: Path, paths: Sequence[Path | None], results: "Sequence[Segmentation]") -> None:
        """Write the files of an image's results and reserve their names.

        Raises:
            StorageError: a file cannot be written.
        """
        from sspsam.utils.files import replace_file

        self._used_stems.add(self._unused_stem(image).casefold())
        for path, result in zip(paths, results, strict=True):
            if path is not None:
                self._require_replaceable(path)
                replace_file(path, self._content(result))
                self._written.update(filter(None, [_identity(path)]))

    def _content(self, result: "Segmentation") -> bytes:
        from sspsam.segmentation.result import mask_image, png_bytes

        if self.output_format == "json":
            return json.dumps(result.to_dict()).encode()
        return png_bytes(mask_image(result.mask) if self.output_format == "mask" else result.overlay())

    def _unused_stem(self, image: Path) -> str:
        """Return a stem that no other image of this run has, so that `a.jpg` and `b/A.png` do not overwrite each other.

        Stems are compared without case, because some file systems ignore case.
        """
        # file systems allow 255 bytes; cut between characters
        short = image.stem.encode(errors="surrogateescape")[:200].decode(errors="ignore")
        stem, number = short, 1
        while stem.casefold() in self._used_stems:
            number += 1
            stem = f"{short}~{number}"
        return stem

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
    status = status_of(image, ImageError)
    if status is not None and stat.S_ISDIR(status.st_mode):
        raise ImageError(f"{shown(image)} is a folder: use sspsam batch for the images in a folder")


def _identity(path: Path) -> tuple[int, int] | None:
    with suppress(SSPSAMError):
        if (status := status_of(path, SSPSAMError)) is not None:
            return identity(status)
    return None
