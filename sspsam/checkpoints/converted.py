"""The local store of converted checkpoints: each file of the Hub is converted once and found again without a network.

    <root>/<owner>--<name>/<commit>/<path, readable and hashed>/   config.json, model.safetensors, source.json
    <root>/encoders/<digest>.safetensors   the image encoders of conversions, see `sspsam.checkpoints.encoders`
    <root>/<owner>--<name>/names/<name, readable and hashed>.json   note: the commit and path that a name resolved to

`root` is the folder `sspsam-converted` in the cache of `huggingface_hub`. Its files are untrusted: a note or
`source.json` that does not fit its place is ignored.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Final

from filelock import FileLock

from sspsam.checkpoints.convert_process import convert_in_subprocess
from sspsam.checkpoints.digests import sha256_of
from sspsam.checkpoints.directory import CHECKPOINT_FILES, read_config
from sspsam.checkpoints.encoders import (
    CONVERTED,
    ENCODERS_PREFIX,
    SHOWN_DIGITS,
    encoder_store,
    encoders_in,
    remove_encoders,
    stored_encoders,
    users_of,
)
from sspsam.checkpoints.file_content import foreign_content
from sspsam.checkpoints.hub_cache import digest_of_blob, names_in, unreadable
from sspsam.checkpoints.hub_options import HubOptions, is_commit
from sspsam.checkpoints.names import Source, is_plain_path
from sspsam.errors import CheckpointError, DigestMismatchError, SSPSAMError, StorageError
from sspsam.utils.files import make_directory, replace_file, storage_error
from sspsam.utils.paths import open_regular_file, shown

_SOURCE_NAME: Final = "source.json"
_NAMES: Final = "names"
_MAX_PATH_LENGTH: Final = 4096
_MAX_SOURCE_BYTES: Final = 1 << 20
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def directory_of(source: Source, options: HubOptions) -> Path:
    """The directory of a source's conversion, whether it exists or not."""
    return _repository_folder(source.repository, options) / source.commit / _file_name(source.path)


def is_converted(source: Source, options: HubOptions) -> bool:
    """True if a source was converted; the directory appears by a rename, so it is complete or absent."""
    directory = directory_of(source, options)
    recorded = _read_source(directory / _SOURCE_NAME, source.repository)
    return (
        recorded is not None
        and (recorded.commit, recorded.path) == (source.commit, source.path)
        and all(os.path.isfile(directory / name) for name in CHECKPOINT_FILES)
        and _has_encoders(directory, options)
    )


def _has_encoders(directory: Path, options: HubOptions) -> bool:
    """True unless a conversion names image encoders that the store does not have."""
    digest = named_encoders(directory)
    return digest is None or os.path.isfile(stored_encoders(encoder_store(options), digest))


def named_encoders(directory: Path) -> str | None:
    """The digest of the image encoders that a checkpoint names; None if it holds them, or is damaged."""
    try:
        encoders = read_config(directory).encoders
    except SSPSAMError:
        return None
    return encoders.sha256 if encoders else None


def converted_repositories(options: HubOptions) -> Iterator[str]:
    """The names of all repositories from which the store has conversions or notes."""
    for name in names_in(options.cache / CONVERTED):
        owner, separator, repository = name.partition("--")
        if separator:
            yield f"{owner}/{repository}"


def conversions_of(repository: str, options: HubOptions) -> Iterator[Source]:
    """The source of every conversion in the store that comes from a repository."""
    folder = _repository_folder(repository, options)
    for commit in filter(is_commit, names_in(folder)):
        for name in names_in(folder / commit):
            directory = folder / commit / name
            source = _read_source(directory / _SOURCE_NAME, repository)
            if source is not None and directory_of(source, options) == directory:
                yield source


# notes: the source that a name resolved to


def noted_source(repository: str, name: str, options: HubOptions) -> Source | None:
    """The source that a name resolved to before, converted or not; None without a note."""
    return _read_source(_note_path(repository, name, options), repository)


def note_source(name: str, source: Source, options: HubOptions) -> None:
    """Note the source that a name resolved to.

    Where the cache is not writable, no note is kept, and the next load asks the Hub again.
    """
    if noted_source(source.repository, name, options) != source:
        note = _note_path(source.repository, name, options)
        with contextlib.suppress(OSError):
            make_directory(note.parent)
            replace_file(note, json.dumps(asdict(source)).encode())


def noted_sources(repository: str, options: HubOptions) -> Iterator[Source]:
    """The sources of all notes about names of a repository."""
    return (source for _, source in _notes(repository, options))


def _notes(repository: str, options: HubOptions) -> Iterator[tuple[Path, Source]]:
    folder = _repository_folder(repository, options) / _NAMES
    for name in names_in(folder):
        note = folder / name
        source = _read_source(note, repository) if name.endswith(".json") else None
        if source is not None:
            yield note, source


def _note_path(repository: str, name: str, options: HubOptions) -> Path:
    file_name = _file_name(f"{name}@{options.revision or 'main'}") + ".json"
    return _repository_folder(repository, options) / _NAMES / file_name


# converting and deleting


def convert_once(source: Source, fetch: Callable[[], Path], options: HubOptions) -> Path:
    """Convert a source unless it is converted; of several processes at once, one converts and the others wait.

    Args:
        source: to convert; its digest is checked where it is known.
        fetch: returns the path of the `.pth` file; called only if there is something to convert.
        options: the cache that holds the store.

    Returns:
        The directory of the conversion.

    Raises:
        DigestMismatchError: the file is not the one that the Hub announced.
        CheckpointError, UnsafeCheckpointError, StorageError: as `convert_checkpoint`.
    """
    directory = directory_of(source, options)
    if is_converted(source, options):
        return directory
    checkpoint = fetch()
    make_directory(directory.parent)
    try:
        with FileLock(_lock_path(directory)):
            if not is_converted(source, options):
                _convert(source, checkpoint, directory, encoder_store(options))
    except OSError as error:
        raise error if isinstance(error, SSPSAMError) else storage_error(directory, error) from error
    return directory


def _convert(source: Source, checkpoint: Path, directory: Path, store: Path) -> None:
    """Convert into `directory`, whose lock the caller holds."""
    # with the lock held, temporary directories can only be those of processes that were killed
    for name in names_in(directory.parent):
        if name.startswith(f"{directory.name}.") and name.endswith(".tmp"):
            shutil.rmtree(directory.parent / name, ignore_errors=True)
    shutil.rmtree(directory, ignore_errors=True)
    try:
        announced, digest = source.sha256 or digest_of_blob(checkpoint), sha256_of(checkpoint)
        content = foreign_content(checkpoint, "zip")
    except PermissionError as error:
        raise unreadable(checkpoint, error) from error
    if announced not in (None, digest):
        problem = content or f"is damaged: its SHA-256 is {digest}, the Hub announced {announced}"
        raise DigestMismatchError(f"{shown(checkpoint)} {problem}.")
    source = Source(source.repository, source.commit, source.path, digest)
    temporary = directory.with_name(f"{directory.name}.{os.getpid()}.tmp")
    try:
        convert_in_subprocess(checkpoint, temporary, source, store)
        replace_file(temporary / _SOURCE_NAME, json.dumps(asdict(source), indent=2).encode())
        os.replace(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def delete_conversion(source: Source, options: HubOptions) -> list[Path]:
    """Delete a conversion, the notes that lead to it, and its image encoders unless another checkpoint needs them.

    Returns:
        The deleted directory and files.

    Raises:
        StorageError: they cannot be deleted.
    """
    directory = directory_of(source, options)
    notes = [note for note, noted in _notes(source.repository, options) if directory_of(noted, options) == directory]
    deleted = [path for path in (directory, *notes) if os.path.exists(path)]
    encoders = named_encoders(directory)
    try:
        if os.path.exists(directory.parent):
            with FileLock(_lock_path(directory)):  # another process may be about to finish this conversion
                if os.path.exists(directory):
                    shutil.rmtree(directory)
        for note in notes:
            note.unlink(missing_ok=True)
        if encoders and not users_of_encoders(encoders, options):
            deleted += remove_encoders(encoder_store(options), encoders)
    except OSError as error:
        raise storage_error(directory, error) from error
    return deleted


def delete_unused_encoders(name: str, options: HubOptions) -> list[Path]:
    """Delete the image encoders that `sspsam cache` lists under a name; return the deleted files.

    Raises:
        StorageError: a checkpoint needs them, or they cannot be deleted.
    """
    store, deleted = encoder_store(options), []
    digits = name.removeprefix(ENCODERS_PREFIX)
    for digest in encoders_in(store):
        if len(digits) < SHOWN_DIGITS or not digest.startswith(digits):
            continue
        users = users_of_encoders(digest, options)
        if users:
            raise StorageError(
                f"{len(users)} checkpoints need the image encoders {digest[:SHOWN_DIGITS]}, such as {shown(users[0])}: "
                "delete these first"
            )
        try:
            deleted += remove_encoders(store, digest)
        except OSError as error:
            raise storage_error(store, error) from error
    return deleted


def users_of_encoders(digest: str, options: HubOptions) -> list[Path]:
    """The directories of the conversions, and of the noted other checkpoints, that need image encoders of the store."""
    conversions = [
        directory_of(source, options)
        for repository in converted_repositories(options)
        for source in conversions_of(repository, options)
    ]
    users = [directory for directory in conversions if named_encoders(directory) == digest]
    return [*users, *users_of(encoder_store(options), digest)]


# the layout of the store


def _read_source(path: Path, repository: str) -> Source | None:
    """A source from JSON; None if it is damaged, about another repository, or unsafe as the name of a directory.

    Raises:
        StorageError: this user may not read the file.
    """
    try:
        with open_regular_file(path, CheckpointError) as file:
            entries = json.loads(file.read(_MAX_SOURCE_BYTES))
        source = Source(entries["repository"], entries["commit"], entries["path"], entries["sha256"])
        valid = (
            source.repository == repository
            and is_commit(source.commit)
            and isinstance(source.path, str)
            and len(source.path) < _MAX_PATH_LENGTH
            and is_plain_path(source.path)
            and (source.sha256 is None or _SHA256.fullmatch(source.sha256) is not None)
        )
    except PermissionError as error:
        raise unreadable(path, error) from error
    except (OSError, ValueError, TypeError, KeyError, RecursionError):  # a CheckpointError is a ValueError
        return None
    return source if valid else None


def _repository_folder(repository: str, options: HubOptions) -> Path:
    return options.cache / CONVERTED / repository.replace("/", "--")


def _file_name(text: str) -> str:
    """A readable file name that no other text has, also on file systems with short names or without case."""
    return re.sub(r"[^\w.+@-]", "_", text)[-60:] + "-" + hashlib.sha256(text.encode()).hexdigest()[:12]


def _lock_path(directory: Path) -> Path:
    return directory.with_name(directory.name + ".lock")
