"""Checkpoints from the Hub that were converted here: kept beside their source, made once, found again without asking.

    <root>/<owner>--<name>/<commit>/<path, readable and hashed>/   config.json, model.safetensors, source.json
    <root>/<owner>--<name>/names/<name, readable and hashed>.json   which commit and path a name was resolved to

`root` is `sspsam-converted` in the cache of `huggingface_hub`. The files in it are read as data that anything may have
happened to: a note that does not fit its place counts as none.
"""

import contextlib
import glob
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
from sspsam.checkpoints.directory import CONFIG_NAME, WEIGHTS_NAME
from sspsam.checkpoints.hub_cache import digest_of_blob
from sspsam.checkpoints.hub_options import HubOptions
from sspsam.checkpoints.names import Source, is_plain_path
from sspsam.errors import DigestMismatchError, SSPSAMError
from sspsam.utils.files import make_directory, replace_file, storage_error

_SOURCE_NAME: Final = "source.json"
_NAMES: Final = "names"


def directory_of(source: Source, options: HubOptions) -> Path:
    """Where the conversion of a source is kept, made or not."""
    return _repository(source.repository, options) / source.commit / _file_name(source.path)


def is_whole(source: Source, options: HubOptions) -> bool:
    """Whether the conversion was finished: it takes its place by one renaming, so it is whole or not there."""
    directory = directory_of(source, options)
    note = _read(directory / _SOURCE_NAME, source.repository)
    return (
        note is not None
        and (note.commit, note.path) == (source.commit, source.path)
        and all(os.path.isfile(directory / name) for name in (CONFIG_NAME, WEIGHTS_NAME))
    )


def recall(repository: str, name: str, options: HubOptions) -> Source | None:
    """What a name was resolved to before; its conversion may be there or not."""
    return _read(_note(repository, name, options), repository)


def remember(name: str, source: Source, options: HubOptions) -> None:
    """Note what a name was resolved to; a cache that cannot be written costs the next load a question, no more."""
    if recall(source.repository, name, options) != source:
        note = _note(source.repository, name, options)
        with contextlib.suppress(OSError):
            make_directory(note.parent)
            replace_file(note, json.dumps(asdict(source)).encode())


def conversions_of(repository: str, options: HubOptions) -> Iterator[Source]:
    """Every conversion that is kept of a repository."""
    for note in sorted(_repository(repository, options).glob(f"*/*/{_SOURCE_NAME}")):
        source = _read(note, repository)
        if source is not None and directory_of(source, options) == note.parent:
            yield source


def remembered(repository: str, options: HubOptions) -> Iterator[tuple[Path, Source]]:
    """Every note about a name of a repository."""
    for note in sorted((_repository(repository, options) / _NAMES).glob("*.json")):
        source = _read(note, repository)
        if source is not None:
            yield note, source


def forget(source: Source, options: HubOptions) -> list[Path]:
    """Delete a conversion and the notes that lead to it; returns what was deleted."""
    directory = directory_of(source, options)
    notes = [
        note for note, other in remembered(source.repository, options) if directory_of(other, options) == directory
    ]
    deleted = [path for path in (directory, *notes) if path.exists()]
    try:
        if directory.parent.exists():
            with FileLock(_lock(directory)):  # also where there is nothing yet: one may be about to take its place
                if directory.exists():
                    shutil.rmtree(directory)
        for note in notes:
            note.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(directory, error) from error
    return deleted


def convert_once(source: Source, fetch: Callable[[], Path], options: HubOptions) -> Path:
    """The directory of a converted source; of several processes that ask at once, one converts and the others wait.

    Args:
        source: what to convert; its digest is checked where it is known.
        fetch: gives the `.pth` file; called only if there is something to convert.
        options: where to keep it.

    Raises:
        DigestMismatchError: the file is not the one that the Hub announced.
        CheckpointError, UnsafeCheckpointError, StorageError: as `convert_checkpoint`.
    """
    directory = directory_of(source, options)
    if is_whole(source, options):
        return directory
    checkpoint = fetch()
    make_directory(directory.parent)
    try:
        with FileLock(_lock(directory)):
            if not is_whole(source, options):
                _convert(source, checkpoint, directory)
    except OSError as error:
        raise error if isinstance(error, SSPSAMError) else storage_error(directory, error) from error
    return directory


def _convert(source: Source, checkpoint: Path, directory: Path) -> None:
    """With the lock held: whatever lies beside the directory was left by a process that was killed."""
    for stale in directory.parent.glob(glob.escape(directory.name) + ".*.tmp"):
        shutil.rmtree(stale, ignore_errors=True)
    shutil.rmtree(directory, ignore_errors=True)
    announced, digest = source.sha256 or digest_of_blob(checkpoint), sha256_of(checkpoint)
    if announced not in (None, digest):
        raise DigestMismatchError(f"{checkpoint} is damaged: its SHA-256 is {digest}, the Hub announced {announced}.")
    source = Source(source.repository, source.commit, source.path, digest)
    temporary = directory.with_name(f"{directory.name}.{os.getpid()}.tmp")
    try:
        convert_in_subprocess(checkpoint, temporary, source)
        replace_file(temporary / _SOURCE_NAME, json.dumps(asdict(source), indent=2).encode())
        os.replace(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read(note: Path, repository: str) -> Source | None:
    """A note, if it is about this repository and can be meant: its parts become the names of directories."""
    try:
        found = json.loads(note.read_bytes())
        source = Source(found["repository"], found["commit"], found["path"], found["sha256"])
        sound = (
            source.repository == repository
            and re.fullmatch(r"[0-9a-f]{40}", source.commit) is not None
            and isinstance(source.path, str)
            and len(source.path) < 4096
            and is_plain_path(source.path)
            and (source.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", source.sha256) is not None)
        )
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return source if sound else None


def _repository(repository: str, options: HubOptions) -> Path:
    return options.cache / "sspsam-converted" / repository.replace("/", "--")


def _note(repository: str, name: str, options: HubOptions) -> Path:
    return _repository(repository, options) / _NAMES / (_file_name(f"{name}@{options.revision or 'main'}") + ".json")


def _file_name(text: str) -> str:
    """A name that a person can read and no other text has, also where file names are short or know no case."""
    return re.sub(r"[^\w.+@-]", "_", text)[-60:] + "-" + hashlib.sha256(text.encode()).hexdigest()[:12]


def _lock(directory: Path) -> Path:
    return directory.with_name(directory.name + ".lock")
