"""File names in the output folder: they mirror the input tree, without collisions on any file system.

The first mask of `sub/a.jpg` is `sub/a.jpg-1.png`. The stem keeps the image's suffix, so that `a.jpg` and `a.png` get
different names. Twelve hexadecimal digits of the SHA-256 of the image's path are appended, as in
`a.jpg~0f3a...-1.png`, where a component of the path is too long or not a valid name on every file system, and where
two paths differ only in case or Unicode normalization. Expressions are never part of a name.
"""

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Final

_MAX_BYTES: Final = 200  # of a component; file systems allow 255, and number and suffix are appended
_DIGEST_BYTES: Final = 40  # of the maximum, reserved for `~` and the digest
_INVALID: Final = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"|?*\\\ud800-\udfff]|^\.+$|^ +|[. ]+$')
# names of the files about one answer; see `sspsam.segmentation.exports.answer_files`
ANSWER_FILE: Final = re.compile(r"(.+)-\d+((\.overlay|\.cutout)?\.png|(\.polygons)?\.json)", re.DOTALL | re.IGNORECASE)
_RESERVED_ON_WINDOWS: Final = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_RECORD_FILE: Final = re.compile(  # files and folders that a run itself writes into the output folder
    r"(results|errors|job|coco)\b.*\.(jsonl?|parquet)|\.sspsam-tmp.*|yolo(\.\d+-of-\d+)?", re.IGNORECASE
)


def output_stems(images: Sequence[str]) -> list[str]:
    """Return for each image the path, relative to the output folder, with which the names of its files begin.

    Args:
        images: paths of images, all different, separated by `/`.
    """
    valid_paths = [_valid_path(image) for image in images]
    uses = Counter(_collision_key(path) for path in valid_paths)
    # a path that is a folder for one image cannot be a file for another
    uses.update({_collision_key(str(folder)) for path in valid_paths for folder in PurePosixPath(path).parents})
    return [
        path if uses[_collision_key(path)] == 1 and path == image else _with_digest(path, image)
        for path, image in zip(valid_paths, images, strict=True)
    ]


def flat_stems(names: Sequence[str]) -> list[str]:
    """Return for each image the name with which the names of its files begin, for images from anywhere in one folder.

    Images of equal names, compared without case and Unicode form, get `~2`, `~3` and so on, in their order.

    Args:
        names: file names of images, with their suffixes and without folders.
    """
    stems: list[str] = []
    used: set[str] = set()
    for name in names:
        stem = candidate = _valid_name(name or "_")
        number = 1
        while _collision_key(candidate) in used:
            number += 1
            candidate = f"{stem}~{number}"
        used.add(_collision_key(candidate))
        stems.append(candidate)
    return stems


def _valid_path(image: str) -> str:
    """Return the path with every component replaced by a name that is valid on every file system."""
    components = [component for component in image.split("/") if component not in ("", ".")]
    *folders, name = [_valid_name(component) for component in components] or ["_"]
    # a folder must not have the name of a file about an answer that is written beside it
    return "/".join((*(f"{folder}_" if ANSWER_FILE.fullmatch(folder) else folder for folder in folders), name))


def _valid_name(component: str) -> str:
    name = _INVALID.sub("_", component)
    if _RESERVED_ON_WINDOWS.fullmatch(name) or _RECORD_FILE.fullmatch(name):
        name = "_" + name
    return _truncated(name, _MAX_BYTES)


def _truncated(name: str, max_bytes: int) -> str:
    """Cut a name to a number of UTF-8 bytes, between characters."""
    return name.encode(errors="replace")[:max_bytes].decode(errors="ignore")


def _collision_key(path: str) -> str:
    """Return a key that is equal for paths which some file system treats as the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFKD", path).casefold())


def _with_digest(path: str, image: str) -> str:
    folder, _, name = path.rpartition("/")
    try:
        encoded = os.fsencode(image)
    except UnicodeEncodeError:  # the name of no file; its image fails, but needs a stem
        encoded = image.encode("utf-8", "surrogatepass")
    digest = hashlib.sha256(encoded).hexdigest()[:12]
    unique_name = f"{_truncated(name, _MAX_BYTES - _DIGEST_BYTES)}~{digest}"
    return f"{folder}/{unique_name}" if folder else unique_name
