"""From the name of a checkpoint to its local files; what is missing is downloaded and converted.

A name is one of:

- a directory, or a `.safetensors` file with its `config.json` beside it;
- `owner/name[/folder]`: a Hub repository in the library's own format;
- `ssp-sam-336-refcoco` and so on: a published checkpoint;
- `owner/name:path/to/checkpoint.pth`: any file in the authors' format on the Hub;
- `shapes`: the model that is bundled with the package.

A path that exists takes precedence over every other kind of name, except that the string `"shapes"` is always the
bundled model; `"./shapes"` and `Path("shapes")` are paths.
"""

import os
import shlex
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from sspsam._version import __version__
from sspsam.checkpoints.bundled import bundled_directory
from sspsam.checkpoints.converted import (
    conversions_of,
    convert_once,
    directory_of,
    is_converted,
    note_source,
    noted_source,
)
from sspsam.checkpoints.directory import CONFIG_NAME, WEIGHTS_NAME
from sspsam.checkpoints.download import fetch_file, fetch_optional_file, list_files
from sspsam.checkpoints.hub_cache import commit_of_file
from sspsam.checkpoints.hub_errors import UNREACHABLE
from sspsam.checkpoints.hub_options import REPOSITORY_VARIABLE, HubOptions, Listing
from sspsam.checkpoints.names import (
    AUTHORS_REPOSITORY,
    BUNDLED,
    AuthorsCheckpoint,
    Name,
    Published,
    Repository,
    RepositoryFile,
    Source,
    is_plain_path,
    missing_name_message,
    name_of_file,
    parse_name,
    unknown_name_message,
)
from sspsam.config import CALIBRATION_NAME
from sspsam.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    ConfigError,
    DigestMismatchError,
    HubError,
    HubFileMissingError,
    HubOfflineError,
    RepositoryMissingError,
    RevisionMissingError,
    SSPSAMError,
    StorageError,
)
from sspsam.messages import message_of
from sspsam.utils.paths import kind_name, shown

_MAX_LISTED: Final = 30  # files in an error
_PICKLE_SUFFIXES: Final = (".pth", ".pt", ".ckpt", ".bin")


@dataclass(frozen=True)
class Resolved:
    """A checkpoint on the local disk.

    Args:
        path: a directory with `config.json` and `model.safetensors`, or a `.safetensors` file beside its configuration.
        origin: `owner/name@commit[:path]`, the local path as the caller gave it, or the version that it is bundled
            with.
        repair: the command that deletes its files if they are damaged, so that they are downloaded again; empty for
            files that are not in the cache.
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
    """Find a checkpoint by its name; download and convert it if it is not on the local disk.

    Args:
        name_or_path: one of the kinds of names in the docstring of this module.
        options: revision, cache, token, and whether the network may be used.
        repository: a Hub repository that holds converted checkpoints in folders of their published names, searched
            first for published names; None: the environment variable `SSPSAM_REPOSITORY`, else none.
        refresh: ask the Hub for the current commit of an unpinned name instead of using the noted one.

    Raises:
        CheckpointNotFoundError: no checkpoint has this name.
        HubError: the Hub cannot be reached, or refuses; each cause has a class of its own.
        CheckpointError, StorageError: the downloaded file cannot be converted or stored.
    """
    if name_or_path == BUNDLED:  # only the string; a Path does not equal it
        return Resolved(bundled_directory(options, repository), f"bundled with sspsam {__version__}", bundled=True)
    local_or_parsed = _local_or_parsed(name_or_path)
    if isinstance(local_or_parsed, Resolved):
        return local_or_parsed
    if isinstance(local_or_parsed, Repository):
        return _from_repository(local_or_parsed, options, str(name_or_path))
    if isinstance(local_or_parsed, RepositoryFile):
        return _from_authors_file(local_or_parsed, options, refresh)
    return _published(local_or_parsed, options, repository or os.environ.get(REPOSITORY_VARIABLE), refresh)


def check_name(name_or_path: str | os.PathLike[str] | None) -> None:
    """Raise the error of `resolve` for a name that is neither a local checkpoint nor of a known form.

    Nothing is downloaded, and PyTorch is not imported, so a command can answer at once.

    Raises:
        CheckpointNotFoundError: as `resolve`.
    """
    if name_or_path != BUNDLED:
        _local_or_parsed(name_or_path)


def _local_or_parsed(name_or_path: str | os.PathLike[str] | None) -> Resolved | Name:
    """A local checkpoint, or the parsed name of one on the Hub."""
    if name_or_path is None:
        raise CheckpointNotFoundError(missing_name_message())
    if not isinstance(name_or_path, str | os.PathLike):
        raise TypeError(f"a checkpoint is named by a string or a path, not {kind_name(name_or_path)}")
    name = os.fspath(name_or_path)
    local = _local(name)
    if local is not None:
        return local
    if isinstance(name_or_path, os.PathLike):
        raise CheckpointNotFoundError(
            f"no directory {shown(name)}; make one with: sspsam convert CHECKPOINT.pth OUT_DIR"
        )
    return parse_name(name)


@contextmanager
def repair_command_in_errors(resolved: Resolved) -> Iterator[None]:
    """Add to an error about a damaged checkpoint the command that repairs it."""
    try:
        yield
    except (CheckpointError, ConfigError) as error:
        if resolved.bundled:
            came = f" It came with the package: reinstall sspsam {__version__}."
            raise error.with_message(message_of(error), came) from error
        if not resolved.repair:
            raise
        again = f" To have it downloaded again, run: {resolved.repair}"
        raise error.with_message(message_of(error), again) from error


def _local(name: str) -> Resolved | None:
    """A directory, or a weights file; None if there is no such path, an error for any other file."""
    path = Path(os.path.expanduser(name))
    _require_reachable(path, name)
    if os.path.isdir(path) and name:
        return Resolved(path, name)
    if not os.path.isfile(path):
        return None
    if path.suffix == ".safetensors":
        if not os.path.isfile(path.parent / CONFIG_NAME):
            raise CheckpointNotFoundError(f"{shown(path)} has no {CONFIG_NAME} beside it, which describes the model")
        return Resolved(path, name)
    if path.suffix in _PICKLE_SUFFIXES:
        raise CheckpointNotFoundError(
            f"{shown(path)} is a pickled checkpoint; convert it once with: "
            f"sspsam convert {shlex.quote(str(path))} OUT_DIR"
        )
    raise CheckpointNotFoundError(
        f"{shown(path)} is a file, not a checkpoint directory with {CONFIG_NAME} and {WEIGHTS_NAME}"
    )


def _require_reachable(path: Path, name: str) -> None:
    """Refuse a name that can only be a path and lies in a folder that this user may not enter."""
    if not path.is_absolute() and not name.startswith("."):
        return  # perhaps the name of a repository, in a current folder that cannot be read
    try:
        os.stat(path)
    except PermissionError as error:
        raise CheckpointNotFoundError(f"cannot read {shown(name)}: {error.strerror or error}") from error
    except (OSError, ValueError):  # missing
        pass


def _from_repository(checkpoint: Repository, options: HubOptions, name: str) -> Resolved:
    """A checkpoint in the library's own format: both files at one commit."""
    retry = options.command("download", name)
    config_path = checkpoint.path_of(CONFIG_NAME)
    config = fetch_file(checkpoint.repository, config_path, options, retry)
    commit = commit_of_file(config, config_path)
    # pinned: a push between the two downloads must not mix commits, and the cache answers without a network
    pinned = replace(options, revision=commit)
    weights = fetch_file(checkpoint.repository, checkpoint.path_of(WEIGHTS_NAME), pinned, retry)
    if weights.parent != config.parent:
        places = f"{shown(config.parent)} and {shown(weights.parent)}"
        raise HubError(f"the cache holds the files of {shown(name)} in two places: {places}")
    fetch_optional_file(checkpoint.repository, checkpoint.path_of(CALIBRATION_NAME), pinned, retry)
    return Resolved(config.parent, f"{checkpoint.repository}@{commit}", options.command("cache --delete", name))


def _published(checkpoint: Published, options: HubOptions, repository: str | None, refresh: bool) -> Resolved:
    """A published checkpoint: from a repository of converted ones if one is given, else from the authors'."""
    noted = _noted_source(checkpoint, options)
    if not repository or (noted and options.commit and is_converted(noted, options)):
        return _from_authors_file(checkpoint, options, refresh)
    folder = Repository(repository, checkpoint.name)
    named = f"{shown(repository)}, which {REPOSITORY_VARIABLE} or repository= names,"
    try:
        return _from_repository(folder, options, f"{repository}/{checkpoint.name}")
    except (HubFileMissingError, RevisionMissingError):  # not in that repository
        try:
            return _from_authors_file(checkpoint, options, refresh)
        except CheckpointNotFoundError as error:
            if type(error) is not CheckpointNotFoundError:  # not about the name, but the repository or the revision
                raise
            raise CheckpointNotFoundError(f"{error} {named} was asked first and does not have it either.") from error
    except SSPSAMError as error:
        try:
            return _from_authors_file(checkpoint, replace(options, local_files_only=True), refresh=False)
        except SSPSAMError:
            if not checkpoint.is_expected:
                not_asked = f"{named} could not be asked for it: {_first_sentence(error)}."
                raise CheckpointNotFoundError(f"{unknown_name_message(checkpoint.name)}. {not_asked}") from error
            raise error.with_message(message_of(error), f" ({named} is searched first.)") from error


def _from_authors_file(checkpoint: AuthorsCheckpoint, options: HubOptions, refresh: bool) -> Resolved:
    """A checkpoint in the authors' format: downloaded and converted, if it is not yet."""
    source = _source_or_unknown_name(checkpoint, options, refresh)
    pinned = replace(options, revision=source.commit)
    retry = options.command("download", checkpoint.name)
    repair = options.command("cache --delete", checkpoint.name)
    # noted before the conversion, so that a kill in between does not lose the download
    note_source(checkpoint.name, source, options)
    try:
        convert_once(source, lambda: fetch_file(source.repository, source.path, pinned, retry), options)
    except DigestMismatchError as error:
        raise DigestMismatchError(f"{error} To have it downloaded again, run: {repair}") from error
    except StorageError as error:
        if isinstance(error, HubError) or retry in str(error):
            raise
        another_cache = options.command_with_another_cache(checkpoint.name)
        raise error.with_message(message_of(error), f" Or use another cache: {another_cache}") from error
    return Resolved(directory_of(source, options), str(source), repair)


def _source_or_unknown_name(checkpoint: AuthorsCheckpoint, options: HubOptions, refresh: bool) -> Source:
    """The file behind a name; a name that is not an expected one is an unknown name unless a listing has it."""
    try:
        return _source(checkpoint, options, refresh)
    except (HubError, RepositoryMissingError, RevisionMissingError) as error:
        if not isinstance(checkpoint, Published) or checkpoint.is_expected:
            raise
        # never the advice of `error`, which is to download the name
        raise CheckpointNotFoundError(
            f"{unknown_name_message(checkpoint.name)}. {AUTHORS_REPOSITORY} could not be asked for it: "
            f"{_first_sentence(error)}."
        ) from error


def _first_sentence(error: SSPSAMError) -> str:
    """The cause that a message of an error begins with, without the advice that follows."""
    return str(error).partition(". ")[0].removesuffix(".")


def _source(checkpoint: AuthorsCheckpoint, options: HubOptions, refresh: bool) -> Source:
    """The file behind a name: as noted before, else from the listing of its repository."""
    noted = _noted_source(checkpoint, options)
    if noted and not refresh:
        return noted
    try:
        listing = list_files(checkpoint.repository, options, options.command("download", checkpoint.name))
        path = _path_in(listing, checkpoint)
    except (HubOfflineError, *UNREACHABLE):
        if noted and is_converted(noted, options):
            return noted
        raise
    return Source(checkpoint.repository, listing.commit, path, listing.files[path])


def _path_in(listing: Listing, checkpoint: AuthorsCheckpoint) -> str:
    path = checkpoint.find(listing.files)
    if listing.hub_error is not None and (path is None or not checkpoint.is_certain(path)):
        raise listing.hub_error  # the cache may hold another file of the folder by chance
    if path is None:
        raise _not_listed(checkpoint, listing.files)
    return path


def _noted_source(checkpoint: AuthorsCheckpoint, options: HubOptions) -> Source | None:
    """The source that a name resolved to before; for a commit, also one converted under another revision."""
    noted = noted_source(checkpoint.repository, checkpoint.name, options)
    if noted is not None and options.commit in (None, noted.commit):
        return noted
    if not options.commit:
        return None
    conversions = conversions_of(checkpoint.repository, options)
    return next(
        (source for source in conversions if source.commit == options.commit and checkpoint.is_stored_in(source.path)),
        None,
    )


def _not_listed(checkpoint: AuthorsCheckpoint, files: Collection[str]) -> SSPSAMError:
    """The error for a repository without this checkpoint; it names what the repository has."""
    paths = sorted(path for path in files if path.endswith(".pth") and is_plain_path(path))
    if isinstance(checkpoint, RepositoryFile):
        return HubFileMissingError(
            f"{checkpoint.repository} has no file {checkpoint.path!r}; it holds {_listed(paths)}"
        )
    names = sorted({name for name in map(name_of_file, files) if name})
    unnamed = [path for path in paths if name_of_file(path) is None]
    return CheckpointNotFoundError(
        f"{unknown_name_message(checkpoint.name, names)}. {AUTHORS_REPOSITORY} holds {_listed([*names, *unnamed])}."
    )


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "no checkpoints"
    rest = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(map(shown, names[:_MAX_LISTED])) + rest
