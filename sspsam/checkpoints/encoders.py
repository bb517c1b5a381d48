"""The image encoders in the files of a checkpoint: their digest, and the local store that keeps them once.

    <store>/<digest>.safetensors       the tensors of one pair of image encoders, in float32
    <store>/<digest>.users.json        directories of checkpoints outside of the cache that name them

A digest is computed from the tensors, or read from this user's own record of a file that has not changed since. What a
checkpoint claims about its encoders only selects candidates.
"""

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from filelock import FileLock

from sspsam.checkpoints.digests import FileState, file_state, record_digest, recorded_digest, require_unchanged
from sspsam.checkpoints.hub_cache import names_in
from sspsam.checkpoints.hub_options import HubOptions
from sspsam.checkpoints.tensor_files import encoders_sha256
from sspsam.config import ModelConfig
from sspsam.errors import CheckpointError, EncodersMissingError, StorageError
from sspsam.utils.files import FileVersion, replace_file
from sspsam.utils.paths import open_regular_file, shown

ENCODERS_NAME: Final = "encoders.safetensors"  # beside the weights of a checkpoint
ENCODERS_PREFIX: Final = "encoders:"  # of the names of image encoders in the list of the cache
SHOWN_DIGITS: Final = 16  # of their digests there
_FILE_NAME: Final = re.compile(r"[0-9a-f]{64}\.safetensors")
_MAX_USERS_BYTES: Final = 1 << 20
_LOCK_SECONDS: Final = 1  # that a note waits for another process
_MAX_CONFIG_BYTES: Final = 1 << 20

CONVERTED: Final = "sspsam-converted"  # folder of the local store in the cache of `huggingface_hub`

EncoderFiles = Callable[[Path, ModelConfig], Iterable[Path]]
"""Given the directory and the configuration of a checkpoint, the files that may hold its image encoders."""


def encoder_store(options: HubOptions) -> Path:
    """Return the folder of a cache that keeps image encoders once."""
    return options.cache / CONVERTED / "encoders"


def encoders_in(store: Path) -> list[str]:
    """Return the digests of the image encoders in a store."""
    return [name[: -len(".safetensors")] for name in names_in(store) if _FILE_NAME.fullmatch(name)]


def stored_encoders(store: Path, digest: str) -> Path:
    """Return the path of image encoders in a store, whether they are there or not."""
    return store / f"{digest}.safetensors"


def encoder_digest(path: Path, state: FileState, *, again: bool = False) -> str:
    """Return the digest of the image encoders in a file, recorded or computed.

    Args:
        path: of a safetensors file.
        state: of the file.
        again: compute it even if it is recorded.

    Raises:
        CheckpointError: the file cannot be read, or changed meanwhile.
    """
    recorded = None if again else recorded_digest(path, state, "encoders")
    if recorded is not None:
        return recorded
    digest = encoders_sha256(path)
    require_unchanged(path, state)
    record_digest(path, state, digest, "encoders")
    return digest


def find_encoders(directory: Path, config: ModelConfig, files: Iterable[Path], *, again: bool = False) -> FileVersion:
    """Find the image encoders that a checkpoint names; the content of the file is checked, not its name.

    Args:
        directory: of the checkpoint.
        config: names the encoders.
        files: candidates, the first one that has the digest is used.
        again: compute digests even if they are recorded.

    Raises:
        EncodersMissingError: no candidate has them.
    """
    encoders = config.encoders
    if encoders is None:
        raise ValueError("the configuration names no image encoders")
    others = []
    for path in files:
        try:
            state = file_state(path)
            if encoder_digest(path, state, again=again) == encoders.sha256:
                return FileVersion(path, state)
        except (OSError, CheckpointError) as error:
            others.append(f"{shown(path)} cannot be used: {error}")
        else:
            others.append(f"{shown(path)} holds other encoders")
    found = f" ({'; '.join(others[:3])})" if others else ""
    raise EncodersMissingError(
        f"{shown(directory)} does not hold its image encoders but names them: SHA-256 {encoders.sha256}. This computer "
        f"does not have them{found}. Download a checkpoint that has them (this one was saved from "
        f"{shown(encoders.origin)}), or copy {encoders.sha256}.safetensors from the computer where it was saved "
        f"into that folder as {ENCODERS_NAME}."
    )


def holds_encoders(path: Path, digest: str) -> bool:
    """True if a file is there and holds these image encoders."""
    try:
        return encoder_digest(path, file_state(path)) == digest
    except (OSError, CheckpointError):
        return False


def note_user_of(encoders: Path, directory: Path) -> None:
    """Note that a checkpoint was loaded with image encoders of a store; other files of encoders are not noted.

    Args:
        encoders: file that its image encoders were read from.
        directory: of the checkpoint, which may be a copy of the one that was written.
    """
    if encoders.parent.parent.name == CONVERTED and _FILE_NAME.fullmatch(encoders.name):
        note_user(encoders.parent, encoders.stem, directory)


def note_user(store: Path, digest: str, directory: Path) -> None:
    """Note that a checkpoint names image encoders of the store, so that they are kept.

    Nothing is written for a checkpoint of the cache itself, for one that is noted already, and where the store cannot
    be written.

    Args:
        store: with the image encoders.
        digest: of these.
        directory: of the checkpoint.
    """
    directory, path = Path(os.path.realpath(directory)), _users_path(store, digest)
    if directory.is_relative_to(os.path.realpath(store.parent)) or directory in _noted_users(store, digest):
        return
    with (
        contextlib.suppress(OSError, StorageError, NotImplementedError),
        FileLock(f"{path}.lock", timeout=_LOCK_SECONDS),
    ):
        users = [*users_of(store, digest), directory]
        replace_file(path, json.dumps([os.fspath(user) for user in users]).encode())


def users_of(store: Path, digest: str) -> list[Path]:
    """Return the noted directories whose checkpoint still names these image encoders."""
    return [user for user in _noted_users(store, digest) if _names(user, digest)]


def _noted_users(store: Path, digest: str) -> list[Path]:
    try:
        with open_regular_file(_users_path(store, digest), CheckpointError) as file:
            noted = json.loads(file.read(_MAX_USERS_BYTES))
    except (OSError, ValueError, RecursionError):
        return []
    return [Path(user) for user in noted if isinstance(user, str)] if isinstance(noted, list) else []


def _names(directory: Path, digest: str) -> bool:
    try:
        with open_regular_file(directory / "config.json", CheckpointError) as file:
            return digest.encode() in file.read(_MAX_CONFIG_BYTES)
    except (OSError, ValueError):
        return False


def remove_encoders(store: Path, digest: str) -> list[Path]:
    """Delete image encoders from a store; return the deleted files."""
    deleted = [path for path in (stored_encoders(store, digest), _users_path(store, digest)) if os.path.lexists(path)]
    for path in deleted:
        path.unlink(missing_ok=True)
    return deleted


def _users_path(store: Path, digest: str) -> Path:
    return store / f"{digest}.users.json"
