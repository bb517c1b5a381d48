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
_OUTPUT_IMAGE: Final = re.compile(r"-\d+(\.overlay)?\.png$", re.IGNORECASE)
_RESERVED_ON_WINDOWS: Final = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_RECORD_FILE: Final = re.compile(  # files and folders that a run itself writes into the output folder
    r"(results|errors|job|coco)\b.*\.(jsonl?|parquet)|\.sspsam-tmp.*", re.IGNORECASE
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


def _valid_path(image: str) -> str:
    """Return the path with every component replaced by a name that is valid on every file system."""
    components = [component for component in image.split("/") if component not in ("", ".")]
    *folders, name = [_valid_name(component) for component in components] or ["_"]
    # a folder must not have the name of a mask or overlay that is written beside it
    return "/".join((*(f"{folder}_" if _OUTPUT_IMAGE.search(folder) else folder for folder in folders), name))


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
