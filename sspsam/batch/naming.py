"""What files are called: the input tree mirrored, without collisions on any file system.

`sub/a.jpg` becomes `sub/a.jpg-1.png` for the first expression. A name keeps its ending, so that `a.jpg` and `a.png`
stay apart. Where a part of a path is not fit to be a name everywhere, where it is too long, or where another picture's
path differs in case or Unicode form alone, the name gets twelve hexadecimal digits of the SHA-256 of the path:
`a.jpg~0f3a...-1.png`. An expression is never part of a name.
"""

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Final

_LONGEST: Final = 200  # bytes; file systems allow 255, of which number and ending need some
_UNFIT: Final = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"|?*\\\ud800-\udfff]|^\.+$|^ +|[. ]+$')
_MASK: Final = re.compile(r"-\d+(\.overlay)?\.png$", re.IGNORECASE)
_RESERVED: Final = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # on Windows
_OURS: Final = re.compile(
    r"(results|errors|job|coco)\b.*\.(jsonl?|parquet)|\.sspsam-tmp.*", re.IGNORECASE
)  # folders too


def stems_of(images: Sequence[str]) -> list[str]:
    """For each picture the path below the output folder that its files begin with.

    Args:
        images: paths of pictures, all different, with `/`.
    """
    plain = [_plain(image) for image in images]
    taken = Counter(_folded(stem) for stem in plain)
    # what is a folder for one picture cannot be a file for another
    taken.update({_folded(str(folder)) for stem in plain for folder in PurePosixPath(stem).parents})
    return [
        stem if taken[_folded(stem)] == 1 and _is_fit(image) else _marked(stem, image)
        for stem, image in zip(plain, images, strict=True)
    ]


def _parts(image: str) -> Iterable[str]:
    """The names in a path; a drive or root is none of them."""
    return [part for part in image.split("/") if part not in ("", ".")]


def _is_fit(image: str) -> bool:
    return _plain(image) == image


def _fit(part: str) -> str:
    """A name that every file system takes."""
    fit = _UNFIT.sub("_", part)
    if _RESERVED.fullmatch(fit) or _OURS.fullmatch(fit):
        fit = "_" + fit
    return _shortened(fit, _LONGEST)


def _shortened(name: str, length: int) -> str:
    return name.encode(errors="replace")[:length].decode(errors="ignore")


def _plain(image: str) -> str:
    *folders, name = [_fit(part) for part in _parts(image)] or ["_"]
    # no folder may have the name of a file that is made beside it
    return "/".join((*(f"{part}_" if _MASK.search(part) else part for part in folders), name))


def _folded(stem: str) -> str:
    """The same for paths that some file system takes for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFKD", stem).casefold())


def _marked(stem: str, image: str) -> str:
    folder, _, name = stem.rpartition("/")
    digest = hashlib.sha256(os.fsencode(image)).hexdigest()[:12]
    marked = f"{_shortened(name, _LONGEST - 40)}~{digest}"
    return f"{folder}/{marked}" if folder else marked
