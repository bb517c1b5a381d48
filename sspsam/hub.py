"""Which checkpoint a name means, and having it here.

A name is a directory; the `.safetensors` file in one; a Hub repository in the own format, `owner/name[/folder]`; a
published checkpoint, `ssp-sam-336-refcoco`; or any authors' file on the Hub, `owner/name:path/to/checkpoint.pth`.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from sspsam import conversions
from sspsam.checkpoint import CONFIG_NAME, WEIGHTS_NAME
from sspsam.conversions import Source
from sspsam.errors import CheckpointError, CheckpointNotFoundError, ConfigError, HubError, HubFileMissingError
from sspsam.fetch import HubOptions, Listing, fetch_file, list_files
from sspsam.names import (
    AUTHORS_REPOSITORY,
    BUNDLED,
    Published,
    Repository,
    RepositoryFile,
    find_published,
    name_of_file,
    no_name,
    read_name,
    unknown_name,
)

REPOSITORY_VARIABLE = "SSPSAM_REPOSITORY"


@dataclass(frozen=True)
class Resolved:
    """A checkpoint that is here.

    Args:
        directory: with `config.json` and `model.safetensors`.
        origin: where it comes from: `owner/name@commit[:path]`, or the directory itself.
        repair: the command that makes it good again if its files are damaged; empty for a local directory.
    """

    directory: Path
    origin: str
    repair: str = ""


def resolve(
    name_or_path: str | os.PathLike[str] | None,
    options: HubOptions = HubOptions(),  # noqa: B008  # frozen
    *,
    repository: str | None = None,
    refresh: bool = False,
) -> Resolved:
    """Find the checkpoint that a name means; fetch and convert it if it is not here.

    Args:
        name_or_path: see this module.
        options: revision, cache, token, and whether the network may be used.
        repository: a Hub repository that holds converted checkpoints in folders of their published names; None: the
            environment variable `SSPSAM_REPOSITORY`, else none. Published names are looked for there first.
        refresh: ask the Hub again what an unpinned name means.

    Raises:
        CheckpointNotFoundError: nothing of that name.
        HubError: the Hub cannot be reached, or refuses; each cause has a class of its own.
        CheckpointError, StorageError: what came cannot be converted or kept.
    """
    if name_or_path is None:
        raise CheckpointNotFoundError(no_name())
    if not isinstance(name_or_path, str | os.PathLike):
        raise TypeError(f"a checkpoint is named by a string or a path, not {type(name_or_path).__name__}")
    local = _local(Path(name_or_path)) if os.fspath(name_or_path) else None
    if local is not None:
        return local
    name = os.fspath(name_or_path)
    if name == BUNDLED:
        raise CheckpointNotFoundError("the bundled model 'shapes' is not part of this version of sspsam yet")
    if isinstance(name_or_path, os.PathLike):
        raise CheckpointNotFoundError(
            f"there is no directory {name}; make one with: sspsam convert CHECKPOINT.pth {name}"
        )
    meant = read_name(name)
    if isinstance(meant, Repository):
        return _own_format(meant, options, name)
    if isinstance(meant, RepositoryFile):
        return _authors_file(meant, options, name, refresh)
    return _published(meant, options, repository or os.environ.get(REPOSITORY_VARIABLE), refresh)


@contextmanager
def repair_named(found: Resolved) -> Iterator[None]:
    """To an error about damaged files of the cache, add the command that makes them good again."""
    try:
        yield
    except (CheckpointError, ConfigError) as error:
        if not found.repair:
            raise
        raise type(error)(f"{error} To have it fetched again, run: {found.repair}") from error


def _local(path: Path) -> Resolved | None:
    """A directory, or the weights in one; an error for any other file."""
    if path.is_dir():
        return Resolved(path, str(path))
    if not path.is_file():
        return None
    if path.name == WEIGHTS_NAME:
        return Resolved(path.parent, str(path.parent))
    if path.suffix in (".pth", ".pt", ".ckpt", ".bin"):
        raise CheckpointNotFoundError(
            f"{path} is a pickled checkpoint; convert it once with: sspsam convert {path} OUT_DIR"
        )
    raise CheckpointNotFoundError(f"{path} is a file, not a checkpoint directory with {CONFIG_NAME} and {WEIGHTS_NAME}")


def _own_format(meant: Repository, options: HubOptions, name: str) -> Resolved:
    """Both files of a repository, at one commit."""
    prefix = f"{meant.folder}/" if meant.folder else ""
    config = fetch_file(meant.repository, prefix + CONFIG_NAME, options, name)
    depth = len(prefix.split("/"))  # .../snapshots/<commit>/<folder>/config.json
    commit = config.parents[depth - 1].name
    # the same commit, whatever is pushed meanwhile; the cache answers for it without a network
    weights = fetch_file(meant.repository, prefix + WEIGHTS_NAME, replace(options, revision=commit), name)
    if weights.parent != config.parent:
        raise HubError(f"the cache holds the files of {name} in two places: {config.parent} and {weights.parent}")
    return Resolved(config.parent, f"{meant.repository}@{commit}", f"sspsam cache --delete {name}")


def _published(meant: Published, options: HubOptions, converted: str | None, refresh: bool) -> Resolved:
    if converted:
        try:
            return _own_format(Repository(converted, meant.name), options, meant.name)
        except HubFileMissingError:
            pass  # not converted there (yet); the authors' own repository follows
    known = None if refresh else conversions.recall(AUTHORS_REPOSITORY, meant.name, options)
    if known is None:
        listing = list_files(AUTHORS_REPOSITORY, options, meant.name)
        path = find_published(meant, listing.files)
        if path is None:
            raise CheckpointNotFoundError(_not_published(meant, listing))
        known = Source(AUTHORS_REPOSITORY, listing.commit, path, listing.files[path])
    return _converted(known, options, meant.name)


def _authors_file(meant: RepositoryFile, options: HubOptions, name: str, refresh: bool) -> Resolved:
    known = None if refresh else conversions.recall(meant.repository, name, options)
    if known is None:
        listing = list_files(meant.repository, options, name)
        if meant.path not in listing.files:
            raise HubFileMissingError(
                f"{meant.repository} has no file {meant.path!r}; it holds {_some(_checkpoints(listing.files))}"
            )
        known = Source(meant.repository, listing.commit, meant.path, listing.files[meant.path])
    return _converted(known, options, name)


def _converted(source: Source, options: HubOptions, name: str) -> Resolved:
    pinned = replace(options, revision=source.commit)
    found = Resolved(conversions.directory_of(source, options), str(source), f"sspsam cache --delete {name}")
    with repair_named(found):
        conversions.convert_once(source, lambda: fetch_file(source.repository, source.path, pinned, name), options)
    conversions.remember(name, source, options)
    return found


def _not_published(meant: Published, listing: Listing) -> str:
    names = sorted({each for each in map(name_of_file, listing.files) if each})
    held = _some(names or _checkpoints(listing.files))
    return f"{unknown_name(meant.name, names)} {AUTHORS_REPOSITORY} holds {held}"


def _checkpoints(files: Iterable[str]) -> list[str]:
    return sorted(path for path in files if path.endswith(".pth"))


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - 30} more" if len(names) > 30 else ""
    return ", ".join(names[:30]) + rest if names else "no checkpoints"
