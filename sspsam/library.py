"""What of the published checkpoints is here, and looking after it: listing, checking, deleting."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from sspsam import conversions, hub
from sspsam.checkpoint import CONFIG_NAME, WEIGHTS_NAME, load_checkpoint
from sspsam.config import ModelConfig
from sspsam.conversions import Source
from sspsam.errors import CheckpointNotFoundError
from sspsam.fetch import HubOptions, blob_of, list_cache, list_files, repository_folder, snapshot_files
from sspsam.names import (
    AUTHORS_LICENSE,
    AUTHORS_REPOSITORY,
    BUNDLED,
    BUNDLED_LICENSE,
    BUNDLED_PURPOSE,
    DATASETS,
    Name,
    Published,
    Repository,
    find_published,
    name_of_file,
    published_names,
    read_name,
)
from sspsam.storage import storage_error

_GIGABYTES = {"224": 3.2, "336": 4.3}  # float32 weights; from the shapes of the published architectures


@dataclass(frozen=True)
class Entry:
    """A checkpoint in the table of `sspsam models`."""

    name: str
    purpose: str
    gigabytes: float  # 0 if it is missing from the package
    license: str
    state: str  # "ready", "downloaded" or "-"; of the bundled one "bundled" or "missing"


def bundled() -> Entry:
    """The model that comes with the package."""
    try:
        gigabytes = sum((hub.BUNDLED_DIRECTORY / each).stat().st_size for each in _OWN_FILES) / 1e9
    except OSError:
        return Entry(BUNDLED, BUNDLED_PURPOSE, 0.0, BUNDLED_LICENSE, "missing")
    return Entry(BUNDLED, BUNDLED_PURPOSE, gigabytes, BUNDLED_LICENSE, "bundled")


def published(options: HubOptions, *, remote: bool = False) -> list[Entry]:
    """The published checkpoints.

    Args:
        options: where the cache is, and how to ask the Hub.
        remote: ask the Hub which there are; otherwise the names that are expected, without a network.
    """
    names = published_names()
    if remote:
        listing = list_files(AUTHORS_REPOSITORY, options, "sspsam models --remote")
        if listing.missing:
            raise listing.missing
        names = sorted({name for name in map(name_of_file, listing.files) if name})
    return [_entry(name, options) for name in names]


def _entry(name: str, options: HubOptions) -> Entry:
    meant = read_name(name)
    if not isinstance(meant, Published):
        raise CheckpointNotFoundError(f"{name!r} is no published name")
    dataset = DATASETS.get(meant.dataset)
    purpose = dataset.purpose if dataset else f"trained on {meant.dataset}"
    return Entry(name, purpose, _GIGABYTES[meant.variant], AUTHORS_LICENSE, _state(meant, options))


def _state(meant: Published, options: HubOptions) -> str:
    if any(_means(meant, source) for source in conversions.converted(AUTHORS_REPOSITORY, options)):
        return "ready"
    own = os.environ.get(hub.REPOSITORY_VARIABLE)
    held = list_cache(own, options) if own else None
    if held and f"{meant.name}/{WEIGHTS_NAME}" in held.files:
        return "ready"
    note = conversions.recall(AUTHORS_REPOSITORY, meant.name, options)
    listing = list_cache(AUTHORS_REPOSITORY, replace(options, revision=note.commit) if note else options)
    return "downloaded" if listing and find_published(meant, listing.files) else "-"


def verify(name: str, options: HubOptions) -> ModelConfig:
    """Check a checkpoint that is here: its structure and the SHA-256 of its weights.

    Raises:
        CheckpointNotFoundError, HubOfflineError: it is not here; nothing is fetched.
        ConfigError, CheckpointError: it is damaged; the message names the file and the command that repairs it.
    """
    found = hub.resolve(name, replace(options, local_files_only=True))
    with hub.repair_named(found):
        _, config = load_checkpoint(found.path, verify=True)
    return config


def delete(name: str, options: HubOptions) -> list[Path]:
    """Delete what is cached of a name: what was fetched and what was converted.

    Args:
        name: published, `owner/name[/folder]` or `owner/name:path`.
        options: the cache; with a revision that is a commit, only what belongs to it.

    Returns:
        What was deleted; empty if nothing was here.

    Raises:
        CheckpointNotFoundError: a local directory, which is yours to delete; the bundled model; or no name at all.
        StorageError: it cannot be deleted.
    """
    if name == BUNDLED:
        raise CheckpointNotFoundError(
            f"{BUNDLED!r} is bundled with sspsam and not in the cache; it goes when sspsam is uninstalled"
        )
    try:
        meant = read_name(name)
    except CheckpointNotFoundError:
        if os.path.exists(name):
            raise CheckpointNotFoundError(
                f"{name} is a file or directory of yours, not in the cache; delete it yourself"
            ) from None
        raise
    if options.revision and not options.commit:
        commit = _commit_of(meant, options)
        if commit is None:
            return []
        options = replace(options, revision=commit)
    if isinstance(meant, Repository):
        return _delete_files(meant.repository, {f"{_prefix(meant)}{each}" for each in _OWN_FILES}, options)
    repository = AUTHORS_REPOSITORY if isinstance(meant, Published) else meant.repository
    sources = list(_sources(meant, repository, options))
    deleted = [path for source in sources for path in conversions.forget(source, options)]
    deleted += _delete_files(repository, {source.path for source in sources}, options)
    own = os.environ.get(hub.REPOSITORY_VARIABLE)
    if own and isinstance(meant, Published):
        deleted += _delete_files(own, {f"{meant.name}/{each}" for each in _OWN_FILES}, options)
    return deleted


_OWN_FILES = (CONFIG_NAME, WEIGHTS_NAME)


def _prefix(meant: Repository) -> str:
    return f"{meant.folder}/" if meant.folder else ""


def _commit_of(meant: Name, options: HubOptions) -> str | None:
    """The commit that a branch or tag stood for when it was last used."""
    repository = AUTHORS_REPOSITORY if isinstance(meant, Published) else meant.repository
    name = meant.name if isinstance(meant, Published) else f"{repository}:{getattr(meant, 'path', '')}"
    note = conversions.recall(repository, name, options)
    listing = list_cache(repository, options)
    return note.commit if note else listing.commit if listing else None


def _means(meant: Name, source: Source) -> bool:
    if isinstance(meant, Published):
        return meant.is_best(source.path)
    return not isinstance(meant, Repository) and source.path == meant.path


def _sources(meant: Name, repository: str, options: HubOptions) -> Iterator[Source]:
    """All that a name stands for in the cache: converted, noted, or just fetched."""
    seen: set[tuple[str, str]] = set()
    noted = (source for _, source in conversions.remembered(repository, options))
    fetched = _fetched(meant, repository, options)
    known = conversions.recall(repository, meant.name, options) if isinstance(meant, Published) else None
    for source in (*conversions.converted(repository, options), *noted, *fetched):
        key = (source.commit, source.path)
        if (_means(meant, source) or source == known) and options.commit in (None, source.commit) and key not in seen:
            seen.add(key)
            yield source


def _fetched(meant: Name, repository: str, options: HubOptions) -> Iterator[Source]:
    for snapshot in (repository_folder(repository, options) / "snapshots").glob("*"):
        files = snapshot_files(snapshot)
        path = find_published(meant, files) if isinstance(meant, Published) else getattr(meant, "path", None)
        if path in files and (not isinstance(meant, Published) or "best" in path):
            yield Source(repository, snapshot.name, path)


def _delete_files(repository: str, paths: set[str], options: HubOptions) -> list[Path]:
    """Unlink files of a repository in the cache, and their blobs where no other file is the same blob."""
    folder = repository_folder(repository, options)
    snapshots = {path: snapshot_files(path) for path in (folder / "snapshots").glob("*")}
    deleted: list[Path] = []
    for snapshot, files in snapshots.items():
        if options.commit in (None, snapshot.name):
            deleted += [files[path] for path in sorted(paths) if path in files]
    kept = {blob_of(file) for files in snapshots.values() for file in files.values() if file not in deleted}
    for file in deleted:
        blob = blob_of(file)
        try:
            file.unlink(missing_ok=True)
            if blob is not None and blob not in kept and blob.parent == folder / "blobs":  # else it is somebody's own
                _unlink_blob(blob, options)
        except OSError as error:
            raise storage_error(file, error) from error
    return deleted


def _unlink_blob(blob: Path, options: HubOptions) -> None:
    """Unlink a blob, and what it links to in the store that repositories share, if no other uses that."""
    shared = blob.resolve() if blob.is_symlink() else None
    blob.unlink(missing_ok=True)
    if shared is not None and shared.parent.parent == options.cache.resolve() / "blobs":
        try:
            from huggingface_hub.utils._shared_blobs import sweep_shared_blob
        except ImportError:  # not public; without it the store keeps the file, as for any other program
            return
        sweep_shared_blob(shared, cache_dir=options.cache)
