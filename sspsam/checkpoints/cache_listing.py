"""The checkpoints in the local cache, with their sizes and the times of their last use."""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sspsam.checkpoints.converted import conversions_of, converted_repositories, directory_of
from sspsam.checkpoints.directory import CHECKPOINT_FILES, CONFIG_NAME, WEIGHTS_NAME
from sspsam.checkpoints.encoders import ENCODERS_PREFIX, SHOWN_DIGITS, encoder_store, encoders_in, stored_encoders
from sspsam.checkpoints.hub_cache import cached_repositories, cached_snapshots
from sspsam.checkpoints.hub_options import HubOptions
from sspsam.checkpoints.names import AUTHORS_REPOSITORY, name_of_file
from sspsam.errors import CheckpointError
from sspsam.utils.paths import open_regular_file

_MAX_CONFIG_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class CachedCheckpoint:
    """A checkpoint in the cache, as `sspsam cache` lists it.

    Args:
        name: by which `delete` finds it.
        state: "ready", which loads without a network; "downloaded", an authors' file that is converted on its next use,
            or was converted; or "shared", image encoders that ready checkpoints need.
        size: bytes on disk.
        last_used: seconds since 1970, of the last read or write that the file system has recorded.
        path: location of its file or folder.
    """

    name: str
    state: str
    size: int
    last_used: float
    path: Path


def cached_checkpoints(options: HubOptions) -> list[CachedCheckpoint]:
    """List the checkpoints in the cache, and at last the image encoders that they share.

    Models of other programs in the same cache are left out.

    Args:
        options: the cache.

    Raises:
        StorageError: this user may not read the cache.
    """
    found = [*_conversions(options), *_downloads(options)]
    found.sort(key=lambda checkpoint: (checkpoint.name, checkpoint.state, str(checkpoint.path)))
    return [*found, *_encoders(options)]


def _encoders(options: HubOptions) -> Iterator[CachedCheckpoint]:
    store = encoder_store(options)
    for digest in encoders_in(store):
        path = stored_encoders(store, digest)
        yield _checkpoint(ENCODERS_PREFIX + digest[:SHOWN_DIGITS], "shared", [path], path)


def _conversions(options: HubOptions) -> Iterator[CachedCheckpoint]:
    for repository in converted_repositories(options):
        for source in conversions_of(repository, options):
            directory = directory_of(source, options)
            files = [directory / name for name in CHECKPOINT_FILES]
            yield _checkpoint(_name(repository, source.path), "ready", files, directory)


def _downloads(options: HubOptions) -> Iterator[CachedCheckpoint]:
    with_conversions = set(converted_repositories(options))
    for repository in cached_repositories(options):
        for files in cached_snapshots(repository, options).values():
            for path, file in files.items():
                folder, _, name = path.rpartition("/")
                if name == WEIGHTS_NAME and _is_own_config(file.with_name(CONFIG_NAME)):
                    both = [file, file.with_name(CONFIG_NAME)]
                    yield _checkpoint(f"{repository}/{folder}".rstrip("/"), "ready", both, file.parent)
                elif name.endswith(".pth") and (repository == AUTHORS_REPOSITORY or repository in with_conversions):
                    yield _checkpoint(_name(repository, path), "downloaded", [file], file)


def _name(repository: str, path: str) -> str:
    """Return the published name of an authors' file, else its repository and path."""
    published = name_of_file(path) if repository == AUTHORS_REPOSITORY else None
    return published or f"{repository}:{path}"


def _checkpoint(name: str, state: str, files: list[Path], path: Path) -> CachedCheckpoint:
    size, last_used = 0, 0.0
    for file in files:
        with suppress(OSError):  # deleted meanwhile
            status = os.stat(file)
            size += status.st_size
            if file.name != CONFIG_NAME:  # which this listing reads, too
                last_used = max(last_used, status.st_atime, status.st_mtime)
    return CachedCheckpoint(name, state, size, last_used, path)


def _is_own_config(path: Path) -> bool:
    try:
        with open_regular_file(path, CheckpointError) as file:
            config = json.loads(file.read(_MAX_CONFIG_BYTES))
    except (OSError, ValueError, RecursionError, CheckpointError):
        return False
    return isinstance(config, dict) and {"architecture", "preprocessing", "weights_sha256"} <= config.keys()
