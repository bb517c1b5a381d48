"""What of the published checkpoints is here, and looking after it: listing, checking, deleting."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sspsam import conversions, hub
from sspsam.checkpoint import CONFIG_NAME, WEIGHTS_NAME, load_checkpoint
from sspsam.config import ModelConfig
from sspsam.errors import CheckpointNotFoundError
from sspsam.fetch import HubOptions, list_cache, list_files, repository_folder
from sspsam.names import (
    AUTHORS_LICENSE,
    AUTHORS_REPOSITORY,
    DATASETS,
    VARIANTS,
    Name,
    Published,
    Repository,
    find_published,
    name_of_file,
    read_name,
)
from sspsam.storage import storage_error

_GIGABYTES = {"224": 3.2, "336": 4.3}  # float32 weights; from the shapes of the published architectures


@dataclass(frozen=True)
class Entry:
    """A published checkpoint in the table of `sspsam models`."""

    name: str
    purpose: str
    gigabytes: float
    license: str
    state: str  # "ready", "downloaded" or "-"


def published(options: HubOptions, *, remote: bool = False) -> list[Entry]:
    """The published checkpoints.

    Args:
        options: where the cache is, and how to ask the Hub.
        remote: ask the Hub which there are; otherwise the names that are expected, without a network.
    """
    if remote:
        files = list_files(AUTHORS_REPOSITORY, options, "ssp-sam").files
        names = sorted({name for name in map(name_of_file, files) if name})
    else:
        names = [Published(variant, dataset).name for variant in VARIANTS for dataset in DATASETS]
    return [_entry(name, options) for name in names]


def _entry(name: str, options: HubOptions) -> Entry:
    meant = read_name(name)
    if not isinstance(meant, Published):
        raise CheckpointNotFoundError(f"{name!r} is no published name")
    dataset = DATASETS.get(meant.dataset)
    purpose = dataset.purpose if dataset else f"trained on {meant.dataset}"
    return Entry(name, purpose, _GIGABYTES[meant.variant], AUTHORS_LICENSE, _state(meant, options))


def _state(meant: Published, options: HubOptions) -> str:
    if conversions.recall(AUTHORS_REPOSITORY, meant.name, options):
        return "ready"
    listing = list_cache(AUTHORS_REPOSITORY, options)
    return "downloaded" if listing and find_published(meant, listing.files) else "-"


def verify(name: str, options: HubOptions) -> ModelConfig:
    """Check a checkpoint that is here: its structure and the SHA-256 of its weights.

    Raises:
        CheckpointNotFoundError, HubOfflineError: it is not here; nothing is fetched.
        ConfigError, CheckpointError: it is damaged; the message names the file and the command that repairs it.
    """
    found = hub.resolve(name, HubOptions(options.revision, options.cache_dir, True, options.token))
    with hub.repair_named(found):
        _, config = load_checkpoint(found.directory, verify=True)
    return config


def delete(name: str, options: HubOptions) -> list[Path]:
    """Delete what is cached of a name: what was fetched and what was converted.

    Returns:
        What was deleted; empty if nothing was here.

    Raises:
        CheckpointNotFoundError: a local directory, which is yours to delete, or no name at all.
        StorageError: it cannot be deleted.
    """
    if Path(name).exists():
        raise CheckpointNotFoundError(f"{name} is a file or directory of yours, not in the cache; delete it yourself")
    meant = read_name(name)
    repository = AUTHORS_REPOSITORY if isinstance(meant, Published) else meant.repository
    fetched = list(_fetched(meant, repository, options))
    deleted = [] if isinstance(meant, Repository) else conversions.forget(repository, name, options)
    for path in fetched:
        try:
            blob = path.resolve()
            path.unlink()
            blob.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(path, error) from error
    folder = repository_folder(repository, options)
    if fetched and not any(path.is_file() for path in (folder / "snapshots").rglob("*")):
        shutil.rmtree(folder, ignore_errors=True)
    return deleted + fetched


def _fetched(meant: Name, repository: str, options: HubOptions) -> Iterator[Path]:
    """The files of a name in every snapshot that the cache holds."""
    for snapshot in (repository_folder(repository, options) / "snapshots").glob("*"):
        files = {path.relative_to(snapshot).as_posix(): path for path in snapshot.rglob("*") if not path.is_dir()}
        if isinstance(meant, Repository):
            folder = f"{meant.folder}/" if meant.folder else ""
            wanted = [folder + CONFIG_NAME, folder + WEIGHTS_NAME]
        elif isinstance(meant, Published):
            wanted = [find_published(meant, files) or ""]
        else:
            wanted = [meant.path]
        yield from (files[path] for path in wanted if path in files)
