"""Recognition of files that stand in the place of a checkpoint's files, and of names that libraries cannot open."""

from pathlib import Path

from sspsam.errors import CheckpointError
from sspsam.utils.file_kinds import HEAD_BYTES, foreign_kind
from sspsam.utils.paths import open_regular_file, shown


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


def foreign_content(path: Path, expected: str) -> str:
    """Describe the content of a file that is none of a checkpoint's files; see `foreign_kind`.

    Raises:
        CheckpointError: the file is not a regular one.
        OSError: the file cannot be read.
    """
    with open_regular_file(path, CheckpointError) as file:
        return foreign_kind(file.read(HEAD_BYTES), expected)
