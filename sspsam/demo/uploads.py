"""Images that a visitor gives: files that the page uploaded, and base64 text; never a path or a URL of the visitor."""

import base64
import binascii
import os
import re
from pathlib import Path
from typing import Final

from sspsam.demo.answering import check_bytes
from sspsam.demo.files import file_name
from sspsam.demo.limits import Limits
from sspsam.errors import ImageError

_DATA_URL: Final = re.compile(r"data:image/[\w.+-]{1,40};base64,", re.IGNORECASE)


def uploaded_image(payload: object, folder: Path, limits: Limits) -> tuple[bytes, str]:
    """Return content and name of a file that was uploaded to the page's folder.

    Args:
        payload: that of Gradio's image component: a dictionary with the path of the file.
        folder: of uploaded files, resolved; no other file is opened.
        limits: of the number of bytes.

    Raises:
        ImageError: there is no such file in the folder, or it is too large.
    """
    if not isinstance(payload, dict) or not payload.get("path"):
        raise ImageError("There is no image yet: drop one on the left, draw a scene, or pick an example.")
    path = path_inside(payload["path"], folder)
    if path is None:
        raise ImageError("The image is no longer on the server: choose it again.")
    check_bytes(path.stat().st_size, limits)
    return path.read_bytes(), file_name(payload.get("orig_name") or path.name)


def path_inside(name: object, folder: Path) -> Path | None:
    """Return the path of an existing file if it is inside a folder, also after links are followed; else None."""
    if not isinstance(name, str) or "\0" in name:
        return None
    try:
        path = Path(name).resolve()
        return path if path.is_relative_to(folder) and os.path.isfile(path) else None
    except (OSError, RuntimeError, ValueError):  # a name that is too long, or links in a circle
        return None


def base64_image(text: str, limits: Limits) -> bytes:
    """Return the bytes of an image in base64, with or without the beginning of a `data:` URL.

    Raises:
        ImageError: no base64, or too large.
    """
    body = text[match.end() :] if (match := _DATA_URL.match(text)) else text
    check_bytes(len(body) * 3 // 4, limits)
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(
            "The image must be the content of an image file in base64; paths and URLs are not opened."
        ) from error
