"""Image files of a folder, found by their names or their first bytes."""

import fnmatch
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

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


def list_files(folder: Path, output: Path) -> Iterator[tuple[Path, str | None]]:
    """Yield all files below a folder; hidden files are skipped, and links to folders are not followed.

    Args:
        folder: folder to walk.
        output: folder to skip.

    Yields:
        The path of a file and None, or the path of an unreadable file or folder and the reason.
    """
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        yield folder, f"cannot read the folder {folder}: {error.strerror or error}"
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue  # for example the thumbnails of a file manager
        path = folder / entry.name
        try:
            is_folder = entry.is_dir(follow_symlinks=False)
            is_link_to_folder = not is_folder and entry.is_dir()  # it may lead out of the tree, or form a cycle
            is_output = is_folder and output.exists() and path.samefile(output)
        except OSError as error:  # for example a link to itself
            yield path, f"cannot read {path}: {error.strerror or error}"
            continue
        if not is_folder and not is_link_to_folder:
            yield path, None
        elif is_folder and not is_output:
            yield from list_files(path, output)


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
        with path.open("rb") as file:
            head = file.read(18)
    except OSError:
        return False
    # many texts begin with the letters "BM"; the reserved bytes of a BMP header are zero
    is_bitmap = head[:2] == b"BM" and head[6:10] == bytes(4)
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return head.startswith(_SIGNATURES) or is_bitmap or is_webp
