"""Image files of a folder, found by their names or their first bytes."""

import fnmatch
import os
import stat
from collections.abc import Iterator, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sspsam.batch.job_files import has_files_of, is_batch_folder, is_job_name
from sspsam.errors import ImageError
from sspsam.utils.file_status import identity
from sspsam.utils.paths import open_regular_file, shown

IMAGE_SUFFIXES: Final = frozenset(
    (
        *(".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
        *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".tga", ".tif", ".tiff", ".webp"),
    )
)
# first bytes of JPEG, PNG, GIF and TIFF files, for files without a known suffix
_SIGNATURES: Final = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\x00", b"MM\x00*")
# a raw photograph has the signature of TIFF and contains a small preview, which is not the photograph
_RAW_SUFFIXES: Final = frozenset(
    (".3fr", ".arw", ".cr2", ".dng", ".erf", ".iiq", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".srw")
)
# folders that operating systems and network storage create everywhere, case-folded
_SYSTEM_FOLDERS: Final = frozenset(
    (
        *("$recycle.bin", "recycler", "system volume information", "lost+found", "lost.dir", "found.000"),
        *("__macosx", "@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),
        *("network trash folder", "temporary items", "thumbs", "_thumb", "_thumbs", "thumbnails", "_thumbnails"),
    )
)


@dataclass(frozen=True)
class FoundFile:
    """A file below the folder of a batch, an unreadable folder, or the output folder of an earlier batch.

    Args:
        path: location of the file or folder.
        problem: reason why the file or folder cannot be read.
        is_output: whether this is the output folder of an earlier batch, whose files are not listed.
    """

    path: Path
    problem: str | None = None
    is_output: bool = False


def list_files(folder: Path, excluded: Set[tuple[int, int]]) -> Iterator[FoundFile]:
    """Yield all files below a folder.

    Hidden files, system folders, links to folders, and the output folders of earlier batches below the folder are
    skipped.

    Args:
        folder: folder to walk.
        excluded: identities of further folders to skip.
    """
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        yield FoundFile(folder, f"cannot read the folder {shown(folder.absolute())}: {error.strerror or error}")
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue  # for example the thumbnails of a file manager
        path = folder / entry.name
        try:
            is_folder = entry.is_dir(follow_symlinks=False)
            if is_folder and entry.name.casefold() in _SYSTEM_FOLDERS:
                continue  # before the folder is looked at: many of them cannot be read
            is_link_to_folder = not is_folder and entry.is_dir()  # it may lead out of the tree, or form a cycle
            is_excluded = is_folder and identity(path.stat()) in excluded
        except OSError as error:  # for example a link to itself
            yield FoundFile(path, f"cannot read {shown(path.absolute())}: {error.strerror or error}")
            continue
        if not is_folder and not is_link_to_folder:
            yield FoundFile(path)
        elif is_folder and not is_excluded:
            yield from _files_unless_output(path, excluded)


def is_output_folder(folder: Path) -> bool:
    """Return whether a folder is the output of a batch, by its job file."""
    job_names = []
    with suppress(OSError):  # `list_files` reports it
        job_names = [entry.name for entry in os.scandir(folder) if is_job_name(entry.name)]
    return is_batch_folder(folder, job_names)


def output_folder_with(folder: Path) -> Path | None:
    """Return the output folder of a batch that wrote files into a folder below it, or None."""
    for parent in Path(os.path.realpath(folder)).parents:
        if is_output_folder(parent):
            below = Path(os.path.realpath(folder)).relative_to(parent).as_posix()
            return parent if has_files_of(parent, below) else None
    return None


def _files_unless_output(folder: Path, excluded: Set[tuple[int, int]]) -> Iterator[FoundFile]:
    if is_output_folder(folder):
        yield FoundFile(folder, is_output=True)
    else:
        yield from list_files(folder, excluded)


def matches(path: Path, image: str, glob: str | None) -> bool:
    """Return whether a file belongs to the batch.

    Args:
        path: location of the file.
        image: path relative to the folder of the batch, with `/`.
        glob: pattern as in `build_manifest`; None: the file has the suffix or the first bytes of an image.
    """
    if glob is not None:
        pattern = glob.removeprefix("./")
        name = image if "/" in pattern else path.name
        # `**/` also matches no folder at all
        return any(fnmatch.fnmatchcase(name, variant) for variant in (pattern, pattern.replace("**/", "")))
    suffix = path.suffix.lower()
    return suffix in IMAGE_SUFFIXES or (suffix not in _RAW_SUFFIXES and _has_image_signature(path))


def _has_image_signature(path: Path) -> bool:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would block until another process writes
            return False
        with open_regular_file(path, ImageError) as file:
            head = file.read(18)
    except (OSError, ImageError):
        return False
    # many texts begin with the letters "BM"; the reserved bytes of a BMP header are zero
    is_bitmap = head[:2] == b"BM" and head[6:10] == bytes(4)
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return head.startswith(_SIGNATURES) or is_bitmap or is_webp
