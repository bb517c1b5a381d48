"""Which checkpoint a name means, and having it here.

A name is a directory; a `.safetensors` file with its `config.json` beside it; a Hub repository in the own format,
`owner/name[/folder]`; a published checkpoint, `ssp-sam-336-refcoco`; any authors' file on the Hub,
`owner/name:path/to/checkpoint.pth`; or `shapes`, the model that lies in the package. A path that exists is taken for a
path before any other name, but the string `"shapes"` is always the bundled model: `"./shapes"` or a `Path` is a path.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from sspsam._version import __version__
from sspsam.checkpoints import converted
from sspsam.checkpoints.download import fetch_file, list_files
from sspsam.checkpoints.format import CONFIG_NAME, WEIGHTS_NAME
from sspsam.checkpoints.hub_errors import UNREACHABLE
from sspsam.checkpoints.hub_options import HubOptions, Listing
from sspsam.checkpoints.names import (
    AUTHORS_REPOSITORY,
    BUNDLED,
    Published,
    Repository,
    RepositoryFile,
    Source,
    find_published,
    is_plain_path,
    missing_name_message,
    name_of_file,
    parse_name,
    unknown_name_message,
)
from sspsam.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    ConfigError,
    DigestMismatchError,
    HubError,
    HubFileMissingError,
    HubOfflineError,
    RevisionMissingError,
    SSPSAMError,
    StorageError,
    warn,
)

REPOSITORY_VARIABLE: Final = "SSPSAM_REPOSITORY"
BUNDLED_DIRECTORY: Final = Path(__file__).parents[1] / "bundled" / BUNDLED


@dataclass(frozen=True)
class Resolved:
    """A checkpoint that is here.

    Args:
        path: a directory with `config.json` and `model.safetensors`, or a `.safetensors` file beside its configuration.
        origin: where it comes from: `owner/name@commit[:path]`, the path itself, or the version it is bundled with.
        repair: the command that removes its files, if they are damaged, so that they are fetched again; empty for what
            is not in the cache.
        bundled: whether it came with the package.
    """

    path: Path
    origin: str
    repair: str = ""
    bundled: bool = False


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
        raise CheckpointNotFoundError(missing_name_message())
    if not isinstance(name_or_path, str | os.PathLike):
        raise TypeError(f"a checkpoint is named by a string or a path, not {type(name_or_path).__name__}")
    name = os.fspath(name_or_path)
    if name_or_path == BUNDLED:  # the string; a Path equals none
        return _bundled(options, repository)
    local = _local(name)
    if local is not None:
        return local
    if isinstance(name_or_path, os.PathLike):
        raise CheckpointNotFoundError(
            f"no directory {name[:200]}; make one with: sspsam convert CHECKPOINT.pth OUT_DIR"
        )
    meant = parse_name(name)
    if isinstance(meant, Repository):
        return _own_format(meant, options, name)
    if isinstance(meant, RepositoryFile):
        return _authors_file(meant, options, name, refresh)
    return _published(meant, options, repository or os.environ.get(REPOSITORY_VARIABLE), refresh)


@contextmanager
def repair_command_in_errors(found: Resolved) -> Iterator[None]:
    """To an error about damaged files of the cache, add the command that makes them good again."""
    try:
        yield
    except (CheckpointError, ConfigError) as error:
        if found.bundled:
            raise type(error)(f"{error} It came with the package: reinstall sspsam {__version__}.") from error
        if not found.repair:
            raise
        raise type(error)(f"{error} To have it fetched again, run: {found.repair}") from error


def _bundled(options: HubOptions, repository: str | None) -> Resolved:
    """The model that came with the package; never fetched, so nothing about the Hub can be asked of it."""
    for word, value in (("revision", options.revision), ("repository", repository)):
        if value:
            raise CheckpointNotFoundError(
                f"{BUNDLED!r} is bundled with sspsam {__version__} and not looked for on the Hub, so there is no "
                f"{word} {value!r} of it; leave the {word} away"
            )
    missing = [name for name in (CONFIG_NAME, WEIGHTS_NAME) if not (BUNDLED_DIRECTORY / name).is_file()]
    if missing:
        raise CheckpointNotFoundError(
            f"the bundled model {BUNDLED!r} is incomplete: {BUNDLED_DIRECTORY} has no {' and no '.join(missing)}. "
            f"Reinstall sspsam {__version__}."
        )
    if os.path.isfile(os.path.join(BUNDLED, CONFIG_NAME)):
        warn(f"{BUNDLED!r} is the bundled model; for the checkpoint in the directory of that name say './{BUNDLED}'")
    return Resolved(BUNDLED_DIRECTORY, f"bundled with sspsam {__version__}", bundled=True)


def _local(name: str) -> Resolved | None:
    """A directory, or weights in one; an error for any other file."""
    if os.path.isdir(name) and name:
        return Resolved(Path(name), name)
    if not os.path.isfile(name):
        return None
    path = Path(name)
    if path.suffix == ".safetensors":
        if not (path.parent / CONFIG_NAME).is_file():
            raise CheckpointNotFoundError(f"{path} has no {CONFIG_NAME} beside it, which says what model it is")
        return Resolved(path, name)
    if path.suffix in (".pth", ".pt", ".ckpt", ".bin"):
        raise CheckpointNotFoundError(
            f"{path} is a pickled checkpoint; convert it once with: sspsam convert {path} OUT_DIR"
        )
    raise CheckpointNotFoundError(f"{path} is a file, not a checkpoint directory with {CONFIG_NAME} and {WEIGHTS_NAME}")


def _own_format(meant: Repository, options: HubOptions, name: str) -> Resolved:
    """Both files of a repository, at one commit."""
    prefix = f"{meant.folder}/" if meant.folder else ""
    again = options.command("download", name)
    config = fetch_file(meant.repository, prefix + CONFIG_NAME, options, again)
    depth = len(prefix.split("/"))  # .../snapshots/<commit>/<folder>/config.json
    commit = config.parents[depth - 1].name
    # the same commit, whatever is pushed meanwhile; the cache answers for it without a network
    weights = fetch_file(meant.repository, prefix + WEIGHTS_NAME, replace(options, revision=commit), again)
    if weights.parent != config.parent:
        raise HubError(f"the cache holds the files of {name} in two places: {config.parent} and {weights.parent}")
    return Resolved(config.parent, f"{meant.repository}@{commit}", options.command("cache --delete", name))


def _published(meant: Published, options: HubOptions, own: str | None, refresh: bool) -> Resolved:
    """A published checkpoint: from the repository of converted ones, else from the authors'."""
    name = meant.name
    known = _known(AUTHORS_REPOSITORY, name, options, meant.is_best)
    if own and not (known and options.commit and converted.is_whole(known, options)):
        try:
            return _own_format(Repository(own, name), options, f"{own}/{name}")
        except (HubFileMissingError, RevisionMissingError):
            pass  # not converted there (yet); the authors' own repository follows
        except SSPSAMError as error:
            try:  # what is here of the authors' will do
                return _authors(meant, replace(options, local_files_only=True), refresh=False)
            except SSPSAMError:
                why = f"({own} is asked first because {REPOSITORY_VARIABLE} or repository= names it.)"
                raise type(error)(f"{error} {why}") from error
    return _authors(meant, options, refresh)


def _authors(meant: Published, options: HubOptions, refresh: bool) -> Resolved:
    def find(listing: Listing) -> str | None:
        path = find_published(meant, listing.files)
        # of a cache that may hold another file of the folder by chance, only the best will do
        return None if path and listing.missing and "best" not in path else path

    def missing(listing: Listing) -> SSPSAMError:
        return CheckpointNotFoundError(_not_published(meant, listing.files))

    source = _source(AUTHORS_REPOSITORY, meant.name, options, refresh, meant.is_best, find, missing)
    return _converted(source, options, meant.name)


def _authors_file(meant: RepositoryFile, options: HubOptions, name: str, refresh: bool) -> Resolved:
    def missing(listing: Listing) -> SSPSAMError:
        held = _some(_checkpoints(listing.files))
        return HubFileMissingError(f"{meant.repository} has no file {meant.path!r}; it holds {held}")

    def find(listing: Listing) -> str | None:
        return meant.path if meant.path in listing.files else None

    def fits(path: str) -> bool:
        return path == meant.path

    return _converted(_source(meant.repository, name, options, refresh, fits, find, missing), options, name)


def _source(
    repository: str,
    name: str,
    options: HubOptions,
    refresh: bool,
    fits: Callable[[str], bool],
    find: Callable[[Listing], str | None],
    missing: Callable[[Listing], SSPSAMError],
) -> Source:
    """What a name stands for: as it was resolved before, else by the listing of the repository."""
    known = _known(repository, name, options, fits)
    if known and not refresh:
        return known
    try:
        listing = list_files(repository, options, options.command("download", name))
        path = find(listing)
        if path is None:
            raise listing.missing or missing(listing)
    except (HubOfflineError, *UNREACHABLE):
        if known and converted.is_whole(known, options):
            return known
        raise
    return Source(repository, listing.commit, path, listing.files[path])


def _known(repository: str, name: str, options: HubOptions, fits: Callable[[str], bool]) -> Source | None:
    """What a name was resolved to before; for a commit, also what was converted of it under another revision."""
    known = converted.recall(repository, name, options)
    if known is not None and options.commit in (None, known.commit):
        return known
    if not options.commit:
        return None
    held = converted.conversions_of(repository, options)
    return next((source for source in held if source.commit == options.commit and fits(source.path)), None)


def _converted(source: Source, options: HubOptions, name: str) -> Resolved:
    pinned = replace(options, revision=source.commit)
    again = options.command("download", name)
    found = Resolved(converted.directory_of(source, options), str(source), options.command("cache --delete", name))
    converted.remember(name, source, options)  # before it is converted: what is fetched must not be lost to a kill
    try:
        converted.convert_once(source, lambda: fetch_file(source.repository, source.path, pinned, again), options)
    except DigestMismatchError as error:
        raise DigestMismatchError(f"{error} To have it fetched again, run: {found.repair}") from error
    except StorageError as error:
        if isinstance(error, HubError) or again in str(error):
            raise
        raise type(error)(f"{error} Or use another cache: {options.elsewhere(name)}") from error
    return found


def _not_published(meant: Published, files: Iterable[str]) -> str:
    names = sorted({each for each in map(name_of_file, files) if each})
    held = [*names, *(path for path in _checkpoints(files) if name_of_file(path) is None)]
    return f"{unknown_name_message(meant.name, names)}. {AUTHORS_REPOSITORY} holds {_some(held)}."


def _checkpoints(files: Iterable[str]) -> list[str]:
    return sorted(path for path in files if path.endswith(".pth") and is_plain_path(path))


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - 30} more" if len(names) > 30 else ""
    return ", ".join(names[:30]) + rest if names else "no checkpoints"
