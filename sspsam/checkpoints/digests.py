"""SHA-256 of files, and a record of files whose digest was verified, so that each state of a file is hashed once.

The record of a file is `<cache home>/verified/<SHA-256 of its path>.json`: its digest, size, times, inode and device.
The digest of the image encoders in a file is recorded in the folder `encoders` beside `verified` in the same way.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from sspsam.errors import CheckpointError, DigestMismatchError
from sspsam.utils.files import make_directory, replace_file
from sspsam.utils.paths import open_regular_file, shown
from sspsam.utils.progress import progress

_BLOCK_BYTES: Final = 8 << 20
_MAX_RECORD_BYTES: Final = 1 << 16
FileState = dict[str, int]
RecordKind = Literal["verified", "encoders"]


def cache_home() -> Path:
    """Folder of sspsam's own records: `SSPSAM_HOME`, else `XDG_CACHE_HOME/sspsam`, else `~/.cache/sspsam`.

    Raises:
        RuntimeError: none of them is set and the user has no home directory.
    """
    home = os.environ.get("SSPSAM_HOME", "").strip()
    if home:
        return Path(os.path.expanduser(home))
    cache = os.environ.get("XDG_CACHE_HOME", "").strip()
    return Path(os.path.expanduser(cache) if cache else Path.home() / ".cache") / "sspsam"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with (
        open_regular_file(path, CheckpointError) as file,
        progress(f"checking {shown(path.name)}", os.fstat(file.fileno()).st_size) as advance,
    ):
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


def file_state(path: Path) -> FileState:
    """Return the status fields that identify one version of a file."""
    status = path.stat()
    return {
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
        "inode": status.st_ino,
        "device": status.st_dev,
    }


def require_unchanged(path: Path, state: FileState) -> None:
    """Raise a `CheckpointError` unless a file is still in the state in which its check began."""
    if file_state(path) != state:
        raise CheckpointError(f"{shown(path)} changed while it was being read; load it again")


def verify_digest(
    path: Path,
    state: FileState,
    expected: str,
    stated_in: str,
    verify: bool | None,
    compute: Callable[[Path], str] | None = None,
    recorded_as: str = "",
) -> None:
    """Compare the SHA-256 of a file with the expected one.

    Args:
        path: the file.
        state: of the file when its check began.
        expected: hexadecimal; empty where none is stated, and then every file fails.
        stated_in: name of the file that states `expected`, for the error.
        verify: None: unless a record says that the file was verified in this state. True: always. False: never.
        compute: returns the digest of `path`, where it depends on other files; None: the SHA-256 of the file.
        recorded_as: digest in the record, where it depends on other files; empty: `expected`.

    Raises:
        DigestMismatchError: another digest.
        CheckpointError: the file cannot be read, or changed meanwhile.
    """
    if verify is False or (verify is None and recorded_digest(path, state) == (recorded_as or expected)):
        return
    try:
        actual = (compute or sha256_of)(path)
    except OSError as error:
        raise CheckpointError(f"cannot read {shown(path)}: {error.strerror or error}") from error
    if actual != expected:
        raise DigestMismatchError(
            f"{shown(path)} is not the file that was saved: its SHA-256 is {actual}, {stated_in} states "
            f"{expected or 'none'}. The file was damaged or replaced; download or convert it again."
        )
    require_unchanged(path, state)
    record_digest(path, state, recorded_as or expected)


def record_digest(path: Path, state: FileState, digest: str, kind: RecordKind = "verified") -> None:
    """Record that a file, or the image encoders in it, had this digest in this state.

    Args:
        path: of the file.
        state: of the file before it was read.
        digest: SHA-256, hexadecimal.
        kind: `"verified"` for a digest of the file, `"encoders"` for one of the image encoders in it.
    """
    record = _record_path(path, kind)
    if record is None:
        return
    # without the record the next load hashes the file again; nothing else depends on it
    with contextlib.suppress(OSError):
        make_directory(record.parent)
        replace_file(record, json.dumps({"sha256": digest, **state}).encode())


def recorded_digest(path: Path, state: FileState, kind: RecordKind = "verified") -> str | None:
    """Return the digest that was recorded for a file in this state; None without a record."""
    record = _record_path(path, kind)
    try:
        if record is None:
            return None
        with open_regular_file(record, CheckpointError) as file:
            content = json.loads(file.read(_MAX_RECORD_BYTES))
    except (OSError, ValueError, RecursionError):  # a CheckpointError is a ValueError
        return None
    digest = content.pop("sha256", None) if isinstance(content, dict) else None
    return digest if isinstance(digest, str) and content == state else None


def _record_path(path: Path, kind: RecordKind) -> Path | None:
    try:
        home = cache_home()
    except RuntimeError:  # the user has no home directory
        return None
    name = hashlib.sha256(os.path.realpath(path).encode(errors="surrogateescape")).hexdigest()
    return home / kind / f"{name}.json"
