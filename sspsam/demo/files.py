"""Files that a visitor downloads: masks, cut-outs and a COCO file, with the library's own exports."""

import json
import os
import re
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sspsam.segmentation.exports.answer_files import NamedAnswer, answer_file
from sspsam.segmentation.exports.coco import to_coco
from sspsam.segmentation.result import Segmentation

_NO_NAME: Final = re.compile(r"[^A-Za-z0-9]+")
_MOST_CHARACTERS: Final = 40  # of a name
_ARCHIVE: Final = "all-files.zip"


def write_files(folder: Path, image_name: str, results: Sequence[Segmentation]) -> list[Path]:
    """Write a mask for each answer, a cut-out for each target, a COCO file, and an archive of them all.

    Args:
        folder: in which a new folder is made.
        image_name: file name of the image in the COCO file; files are named after the expressions.
        results: answers about one image.

    Returns:
        The files, the archive last.
    """
    place = Path(tempfile.mkdtemp(prefix="answers-", dir=folder))
    stem = _plain(Path(image_name).stem) or "image"
    contents: dict[str, bytes] = {}
    for number, result in enumerate(results, 1):
        answer = NamedAnswer(image_name, None, result)
        name = f"{number}-{_plain(result.text) or 'expression'}"
        contents[f"{name}.mask.png"] = answer_file("mask", answer)
        if result.mask_box is not None:
            contents[f"{name}.cutout.png"] = answer_file("cutout", answer)
    contents[f"{stem}.coco.json"] = (json.dumps(to_coco({image_name: list(results)})) + "\n").encode()
    paths = [place / name for name in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        path.write_bytes(content)
    with zipfile.ZipFile(place / _ARCHIVE, "w", zipfile.ZIP_STORED) as archive:  # PNG files do not get smaller
        for path in paths:
            archive.write(path, path.name)
    return [*paths, place / _ARCHIVE]


def file_name(name: object) -> str:
    """Return the name of an uploaded file without folders, for files that mention it; any client may send any name."""
    base = os.path.basename(str(name or "").replace("\\", "/"))
    return "".join(character for character in base if character.isprintable())[:120] or "image.png"


def _plain(text: str) -> str:
    """Return a text as a part of a file name: letters of English, digits and hyphens."""
    return _NO_NAME.sub("-", text)[:_MOST_CHARACTERS].strip("-").lower()
