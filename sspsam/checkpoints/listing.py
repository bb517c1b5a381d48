"""The local state of the published checkpoints, and maintenance: list, verify, delete."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from sspsam.checkpoints.bundled import bundled_gigabytes
from sspsam.checkpoints.converted import (
    conversions_of,
    delete_conversion,
    delete_unused_encoders,
    noted_source,
    noted_sources,
)
from sspsam.checkpoints.directory import CHECKPOINT_FILES, WEIGHTS_NAME, check_checkpoint
from sspsam.checkpoints.download import list_files
from sspsam.checkpoints.encoder_search import encoder_files
from sspsam.checkpoints.encoders import ENCODERS_PREFIX, encoder_digest
from sspsam.checkpoints.hub_cache import cached_snapshots, delete_cached_files, list_cache
from sspsam.checkpoints.hub_options import REPOSITORY_VARIABLE, HubOptions
from sspsam.checkpoints.names import (
    AUTHORS_LICENSE,
    AUTHORS_REPOSITORY,
    BUNDLED,
    BUNDLED_LICENSE,
    BUNDLED_PURPOSE,
    DATASETS,
    AuthorsCheckpoint,
    Name,
    Published,
    Repository,
    Source,
    name_of_file,
    parse_name,
    published_names,
    unknown_name_message,
)
from sspsam.checkpoints.resolve import repair_command_in_errors, resolve
from sspsam.config import CALIBRATION_NAME, ModelConfig
from sspsam.errors import CheckpointNotFoundError
from sspsam.utils.paths import shown

# of float32 weights; from the shapes of the published architectures
_GIGABYTES: Final[Mapping[str, float]] = MappingProxyType({"224": 3.2, "336": 4.3})


@dataclass(frozen=True)
class CheckpointEntry:
    """A row of the table of `sspsam models`.

    Args:
        name: of the checkpoint.
        purpose: what it is good for.
        gigabytes: size of its files; 0 for a bundled model of which a file is missing.
        license: of the weights.
        state: "ready", "downloaded" or "-" (neither); of the bundled model "bundled" or "missing".
    """

    name: str
    purpose: str
    gigabytes: float
    license: str
    state: str


def bundled() -> CheckpointEntry:
    """The row of the bundled model."""
    gigabytes = bundled_gigabytes()
    state = "missing" if gigabytes is None else "bundled"
    return CheckpointEntry(BUNDLED, BUNDLED_PURPOSE, gigabytes or 0.0, BUNDLED_LICENSE, state)


def published(options: HubOptions, *, remote: bool = False) -> list[CheckpointEntry]:
    """The rows of the published checkpoints.

    Args:
        options: the cache, and how to ask the Hub.
        remote: ask the Hub which checkpoints are published; otherwise the expected names, without a network.

    Raises:
        HubError: the Hub cannot be reached, or refuses.
    """
    names = published_names()
    if remote:
        listing = list_files(AUTHORS_REPOSITORY, options, "sspsam models --remote")
        if listing.hub_error:
            raise listing.hub_error
        names = sorted({name for name in map(name_of_file, listing.files) if name})
    return [_entry(name, options) for name in names]


def _entry(name: str, options: HubOptions) -> CheckpointEntry:
    checkpoint = parse_name(name)
    if not isinstance(checkpoint, Published):
        raise CheckpointNotFoundError(f"{name!r} is not a published name")
    dataset = DATASETS.get(checkpoint.dataset)
    purpose = dataset.purpose if dataset else f"trained on {checkpoint.dataset}"
    gigabytes = _GIGABYTES[checkpoint.variant]
    return CheckpointEntry(name, purpose, gigabytes, AUTHORS_LICENSE, _state(checkpoint, options))


def _state(checkpoint: Published, options: HubOptions) -> str:
    if any(checkpoint.is_stored_in(source.path) for source in conversions_of(AUTHORS_REPOSITORY, options)):
        return "ready"
    if _is_cached_from_converted_repository(checkpoint, options):
        return "ready"
    noted = noted_source(AUTHORS_REPOSITORY, checkpoint.name, options)
    cached = list_cache(AUTHORS_REPOSITORY, replace(options, revision=noted.commit) if noted else options)
    return "downloaded" if cached and checkpoint.find(cached.files) else "-"


def _is_cached_from_converted_repository(checkpoint: Published, options: HubOptions) -> bool:
    repository = os.environ.get(REPOSITORY_VARIABLE)
    cached = list_cache(repository, options) if repository else None
    return cached is not None and f"{checkpoint.name}/{WEIGHTS_NAME}" in cached.files


def verify(name: str, options: HubOptions) -> ModelConfig:
    """Check a checkpoint on the local disk: its structure and the SHA-256 of its weights; record that of its encoders.

    Returns:
        Its configuration.

    Raises:
        CheckpointNotFoundError, HubOfflineError: it is not on the local disk; nothing is downloaded.
        ConfigError, CheckpointError: it is damaged; the message names the file and the command that repairs it.
    """
    resolved = resolve(name, replace(options, local_files_only=True))
    with repair_command_in_errors(resolved):
        checked = check_checkpoint(resolved.path, verify=True, encoder_files=encoder_files(options))
        encoder_digest(checked.encoders.path, checked.encoders.state, again=True)
        return checked.config


def delete(name: str, options: HubOptions) -> list[Path]:
    """Delete the downloaded and converted files of a checkpoint from the cache.

    Args:
        name: a published name, `owner/name[/folder]`, `owner/name:path`, or `encoders:DIGEST` as the cache lists it.
        options: the cache; with a revision, only files of its commit are deleted.

    Returns:
        The deleted files and directories; empty if the cache has none.

    Raises:
        CheckpointNotFoundError: the name is a local path or the bundled model, which are not in the cache, or has none
            of the known forms.
        StorageError: a file cannot be deleted.
    """
    if name == BUNDLED:
        raise CheckpointNotFoundError(
            f"{BUNDLED!r} is bundled with sspsam and not in the cache; it is removed when sspsam is uninstalled"
        )
    if name.startswith(ENCODERS_PREFIX):
        return delete_unused_encoders(name, options)
    try:
        parsed = parse_name(name)
    except CheckpointNotFoundError:
        if os.path.exists(os.path.expanduser(name)):
            raise CheckpointNotFoundError(
                f"{shown(name)} is a file or directory of yours, not in the cache; delete it yourself"
            ) from None
        raise
    if options.revision and not options.commit:
        commit = _commit_of_branch(parsed, options)
        if commit is None:
            return []
        options = replace(options, revision=commit)
    if isinstance(parsed, Repository):
        return delete_cached_files(
            parsed.repository, set(map(parsed.path_of, (*CHECKPOINT_FILES, CALIBRATION_NAME))), options
        )
    deleted = _delete_authors_checkpoint(parsed, options)
    if not deleted and isinstance(parsed, Published) and not parsed.is_expected:
        raise CheckpointNotFoundError(f"{unknown_name_message(name)}. The cache holds no file of that name.")
    return deleted


def _delete_authors_checkpoint(checkpoint: AuthorsCheckpoint, options: HubOptions) -> list[Path]:
    sources = _sources(checkpoint, options)
    deleted = [path for source in sources for path in delete_conversion(source, options)]
    deleted += delete_cached_files(checkpoint.repository, {source.path for source in sources}, options)
    converted_repository = os.environ.get(REPOSITORY_VARIABLE)
    if converted_repository and isinstance(checkpoint, Published):
        folder = Repository(converted_repository, checkpoint.name)
        deleted += delete_cached_files(
            converted_repository, set(map(folder.path_of, (*CHECKPOINT_FILES, CALIBRATION_NAME))), options
        )
    return deleted


def _commit_of_branch(parsed: Name, options: HubOptions) -> str | None:
    """The commit that a branch or tag had when it was last used; None if it was not."""
    noted = None
    if not isinstance(parsed, Repository):
        noted = noted_source(parsed.repository, parsed.name, options)
    cached = list_cache(parsed.repository, options)
    return noted.commit if noted else cached.commit if cached else None


def _sources(checkpoint: AuthorsCheckpoint, options: HubOptions) -> list[Source]:
    """The sources in the cache that a name means, whether converted, noted or only downloaded; each one once."""
    noted = None
    if isinstance(checkpoint, Published):
        noted = noted_source(checkpoint.repository, checkpoint.name, options)
    candidates = [
        *conversions_of(checkpoint.repository, options),
        *noted_sources(checkpoint.repository, options),
        *_downloaded(checkpoint, options),
    ]
    sources: dict[tuple[str, str], Source] = {}
    for source in candidates:
        is_meant = checkpoint.is_stored_in(source.path) or source == noted
        if is_meant and options.commit in (None, source.commit):
            sources.setdefault((source.commit, source.path), source)
    return list(sources.values())


def _downloaded(checkpoint: AuthorsCheckpoint, options: HubOptions) -> Iterator[Source]:
    for commit, files in cached_snapshots(checkpoint.repository, options).items():
        path = checkpoint.find(files)
        if path is not None and checkpoint.is_certain(path):
            yield Source(checkpoint.repository, commit, path)
