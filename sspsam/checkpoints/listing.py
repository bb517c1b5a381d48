"""What of the published checkpoints is here, and looking after it: listing, checking, deleting."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from sspsam.checkpoints import converted
from sspsam.checkpoints.download import list_files
from sspsam.checkpoints.format import CONFIG_NAME, WEIGHTS_NAME, load_checkpoint
from sspsam.checkpoints.hub_cache import delete_cached_files, list_cache, repository_folder, snapshot_files
from sspsam.checkpoints.hub_options import HubOptions
from sspsam.checkpoints.names import (
    AUTHORS_LICENSE,
    AUTHORS_REPOSITORY,
    BUNDLED,
    BUNDLED_LICENSE,
    BUNDLED_PURPOSE,
    DATASETS,
    Name,
    Published,
    Repository,
    Source,
    find_published,
    name_of_file,
    parse_name,
    published_names,
)
from sspsam.checkpoints.resolve import BUNDLED_DIRECTORY, REPOSITORY_VARIABLE, repair_command_in_errors, resolve
from sspsam.config import ModelConfig
from sspsam.errors import CheckpointNotFoundError

_GIGABYTES = {"224": 3.2, "336": 4.3}  # float32 weights; from the shapes of the published architectures


@dataclass(frozen=True)
class CheckpointEntry:
    """A checkpoint in the table of `sspsam models`."""

    name: str
    purpose: str
    gigabytes: float  # 0 if it is missing from the package
    license: str
    state: str  # "ready", "downloaded" or "-"; of the bundled one "bundled" or "missing"


def bundled() -> CheckpointEntry:
    """The model that comes with the package."""
    try:
        gigabytes = sum((BUNDLED_DIRECTORY / each).stat().st_size for each in _OWN_FILES) / 1e9
    except OSError:
        return CheckpointEntry(BUNDLED, BUNDLED_PURPOSE, 0.0, BUNDLED_LICENSE, "missing")
    return CheckpointEntry(BUNDLED, BUNDLED_PURPOSE, gigabytes, BUNDLED_LICENSE, "bundled")


def published(options: HubOptions, *, remote: bool = False) -> list[CheckpointEntry]:
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


def _entry(name: str, options: HubOptions) -> CheckpointEntry:
    meant = parse_name(name)
    if not isinstance(meant, Published):
        raise CheckpointNotFoundError(f"{name!r} is no published name")
    dataset = DATASETS.get(meant.dataset)
    purpose = dataset.purpose if dataset else f"trained on {meant.dataset}"
    return CheckpointEntry(name, purpose, _GIGABYTES[meant.variant], AUTHORS_LICENSE, _state(meant, options))


def _state(meant: Published, options: HubOptions) -> str:
    if any(_means(meant, source) for source in converted.conversions_of(AUTHORS_REPOSITORY, options)):
        return "ready"
    own = os.environ.get(REPOSITORY_VARIABLE)
    held = list_cache(own, options) if own else None
    if held and f"{meant.name}/{WEIGHTS_NAME}" in held.files:
        return "ready"
    note = converted.recall(AUTHORS_REPOSITORY, meant.name, options)
    listing = list_cache(AUTHORS_REPOSITORY, replace(options, revision=note.commit) if note else options)
    return "downloaded" if listing and find_published(meant, listing.files) else "-"


def verify(name: str, options: HubOptions) -> ModelConfig:
    """Check a checkpoint that is here: its structure and the SHA-256 of its weights.

    Raises:
        CheckpointNotFoundError, HubOfflineError: it is not here; nothing is fetched.
        ConfigError, CheckpointError: it is damaged; the message names the file and the command that repairs it.
    """
    found = resolve(name, replace(options, local_files_only=True))
    with repair_command_in_errors(found):
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
        meant = parse_name(name)
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
        return delete_cached_files(meant.repository, {f"{_prefix(meant)}{each}" for each in _OWN_FILES}, options)
    repository = AUTHORS_REPOSITORY if isinstance(meant, Published) else meant.repository
    sources = list(_sources(meant, repository, options))
    deleted = [path for source in sources for path in converted.forget(source, options)]
    deleted += delete_cached_files(repository, {source.path for source in sources}, options)
    own = os.environ.get(REPOSITORY_VARIABLE)
    if own and isinstance(meant, Published):
        deleted += delete_cached_files(own, {f"{meant.name}/{each}" for each in _OWN_FILES}, options)
    return deleted


_OWN_FILES = (CONFIG_NAME, WEIGHTS_NAME)


def _prefix(meant: Repository) -> str:
    return f"{meant.folder}/" if meant.folder else ""


def _commit_of(meant: Name, options: HubOptions) -> str | None:
    """The commit that a branch or tag stood for when it was last used."""
    repository = AUTHORS_REPOSITORY if isinstance(meant, Published) else meant.repository
    name = meant.name if isinstance(meant, Published) else f"{repository}:{getattr(meant, 'path', '')}"
    note = converted.recall(repository, name, options)
    listing = list_cache(repository, options)
    return note.commit if note else listing.commit if listing else None


def _means(meant: Name, source: Source) -> bool:
    if isinstance(meant, Published):
        return meant.is_best(source.path)
    return not isinstance(meant, Repository) and source.path == meant.path


def _sources(meant: Name, repository: str, options: HubOptions) -> Iterator[Source]:
    """All that a name stands for in the cache: converted, noted, or just fetched."""
    seen: set[tuple[str, str]] = set()
    noted = (source for _, source in converted.remembered(repository, options))
    fetched = _fetched(meant, repository, options)
    known = converted.recall(repository, meant.name, options) if isinstance(meant, Published) else None
    for source in (*converted.conversions_of(repository, options), *noted, *fetched):
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
