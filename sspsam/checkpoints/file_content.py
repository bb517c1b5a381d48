"""Recognition of files that stand in the place of a checkpoint's files: pointers, web pages, empty files."""

from pathlib import Path
from typing import Final

from sspsam.errors import CheckpointError
from sspsam.utils.paths import open_regular_file, shown

_HEAD_BYTES: Final = 512
_LFS_POINTER: Final = (b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/")
_WEB_PAGE: Final = (b"<!doctype html", b"<html", b"<head", b"<body", b"<?xml", b"<error")


def require_utf8_name(path: Path) -> None:
    """Refuse a path that PyTorch and safetensors cannot open, although the operating system can.

    Raises:
        CheckpointError: the path has bytes that are not UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise CheckpointError(
            f"{shown(path)} has a name that is not UTF-8, which PyTorch and safetensors cannot open; rename it"
        ) from None


def foreign_content(path: Path) -> str:
    """Describe the content of a file that is none of a checkpoint's files; empty if nothing is recognised.

    Raises:
        CheckpointError: the file is not a regular one.
        OSError: the file cannot be read.
    """
    with open_regular_file(path, CheckpointError) as file:
        return foreign_content_of(file.read(_HEAD_BYTES))


def foreign_content_of(head: bytes) -> str:
    """Describe the content of a file by its first bytes, as `foreign_content`."""
    if not head:
        return "is an empty file; a download or a copy of it was not finished"
    if head.startswith(_LFS_POINTER):
        return "is a Git LFS pointer, not the file itself; fetch the file with: git lfs pull"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(_WEB_PAGE):
        return "is an HTML or XML page, perhaps of a login or of an error, saved in the place of the file"
    if not head.strip(b"\0"):
        return "holds only zeros; a download or a copy of it was not finished"
    return ""
