"""Files from the Hugging Face Hub through `huggingface_hub`, and what can go wrong in words that help.

Environment variables mean what they mean everywhere: `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`, `HF_HUB_OFFLINE`,
`HF_TOKEN`, `HTTPS_PROXY`. Nothing here opens a socket for a file of a pinned commit that is in the cache.
"""

import errno
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from sspsam.errors import (
    DownloadError,
    HubAuthenticationError,
    HubConnectionError,
    HubError,
    HubFileMissingError,
    HubForbiddenError,
    HubGatedError,
    HubOfflineError,
    HubServerError,
    NoSpaceError,
    ReadOnlyError,
    RepositoryMissingError,
    RevisionMissingError,
    SSPSAMError,
)
from sspsam.names import AUTHORS_REPOSITORY

_TRANSPORT: Final = {"ConnectError", "TimeoutException", "ProxyError", "NetworkError", "TransportError"}
_BROKEN: Final = {"RemoteProtocolError", "ReadError", "ReadTimeout", "WriteError"}
UNREACHABLE: Final = (HubConnectionError, HubServerError, DownloadError)  # then what is in the cache must do
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_TOKEN: Final = re.compile(r"[!-~]+")


@dataclass(frozen=True)
class HubOptions:
    """How to ask the Hub; see `SSPSAMPredictor.from_pretrained`."""

    revision: str | None = None
    cache_dir: Path | None = None
    local_files_only: bool = False
    token: str | bool | None = None

    def __post_init__(self) -> None:
        revision = self.revision or None
        if revision and _COMMIT.fullmatch(revision.lower()):
            revision = revision.lower()
        object.__setattr__(self, "revision", revision)
        if self.cache_dir is not None:
            object.__setattr__(self, "cache_dir", Path(os.path.expanduser(self.cache_dir)).absolute())
        if isinstance(self.token, str):
            token = self.token.strip()
            if token and not _TOKEN.fullmatch(token):
                raise HubAuthenticationError("the token has characters that no token has. Run: hf auth login")
            object.__setattr__(self, "token", token or False)

    @property
    def commit(self) -> str | None:
        """The revision, if it is a whole commit."""
        return self.revision if self.revision and _COMMIT.fullmatch(self.revision) else None

    @property
    def cache(self) -> Path:
        """The folder of `huggingface_hub`'s cache."""
        from huggingface_hub import constants

        return self.cache_dir or Path(constants.HF_HUB_CACHE)

    @property
    def offline(self) -> bool:
        """Whether the network must not be used."""
        from huggingface_hub import constants

        return self.local_files_only or constants.HF_HUB_OFFLINE

    def command(self, verb: str, name: str) -> str:
        """The command that does `verb` to `name` with the same cache and revision."""
        words = ["sspsam", *verb.split(), name]
        if self.revision:
            words += ["--revision", self.revision]
        if self.cache_dir:
            words += ["--cache-dir", str(self.cache_dir)]
        return shlex.join(words)

    def elsewhere(self, name: str) -> str:
        """The command that fetches `name` into another cache."""
        return replace(self, cache_dir=Path("/a/larger/disk")).command("download", name)


@dataclass(frozen=True)
class Listing:
    """What a repository holds at one commit."""

    commit: str
    files: Mapping[str, str | None]  # path -> SHA-256 where the Hub knows it
    missing: SSPSAMError | None = None  # why the Hub could not be asked, and only what the cache holds is listed


def fetch_file(repository: str, path: str, options: HubOptions, command: str) -> Path:
    """A file of a repository, from the cache or the Hub.

    Args:
        repository: `owner/name`.
        path: in the repository.
        options: how to ask.
        command: to try it again, for an error.
    """
    try:
        return _download(repository, path, options, command)
    except (*UNREACHABLE, ReadOnlyError):  # a read-only cache must serve what it holds when a branch moves on
        if options.offline:
            raise
        try:
            return _download(repository, path, replace(options, local_files_only=True), command)
        except HubOfflineError:
            pass
        raise


def _download(repository: str, path: str, options: HubOptions, command: str) -> Path:
    import huggingface_hub

    with explained(repository, path, options, command):
        return Path(
            huggingface_hub.hf_hub_download(
                repository,
                path,
                revision=options.revision,
                cache_dir=options.cache_dir,
                local_files_only=options.local_files_only,
                token=options.token,
            )
        )


def list_files(repository: str, options: HubOptions, command: str) -> Listing:
    """All files of a repository at a commit: asked of the Hub, or what the cache holds where that cannot be had."""
    try:
        if options.offline:
            raise HubOfflineError(_offline(repository, options, command))
        return _list_hub(repository, options, command)
    except (HubOfflineError, *UNREACHABLE) as error:
        cached = list_cache(repository, options)
        if cached is None:
            raise
        return replace(cached, missing=error)


def _list_hub(repository: str, options: HubOptions, command: str) -> Listing:
    import huggingface_hub
    from huggingface_hub.hf_api import RepoFile

    api = huggingface_hub.HfApi()
    with explained(repository, "", options, command):
        info = api.model_info(repository, revision=options.revision, files_metadata=True, token=options.token)
    if not info.sha or not _COMMIT.fullmatch(info.sha):
        raise HubError(f"the Hub names no commit of {repository}; is HF_ENDPOINT a Hub? To try again, run: {command}")
    files = {file.rfilename: file.lfs.sha256 if file.lfs else None for file in info.siblings or []}
    if not files:  # not every mirror lists them here
        with explained(repository, "", options, command):
            entries = list(api.list_repo_tree(repository, recursive=True, revision=info.sha, token=options.token))
        files = {e.path: e.lfs.sha256 if e.lfs else None for e in entries if isinstance(e, RepoFile)}
    return Listing(info.sha, files)


def list_cache(repository: str, options: HubOptions) -> Listing | None:
    """The files of a repository that the cache holds at the revision asked for; None: nothing."""
    folder = repository_folder(repository, options)
    try:
        commit = options.commit or (folder / "refs" / (options.revision or "main")).read_text().strip()
    except (OSError, ValueError):
        return None
    if not _COMMIT.fullmatch(commit):
        return None
    files = snapshot_files(folder / "snapshots" / commit)
    return Listing(commit, {name: digest_of_blob(path) for name, path in files.items()}) if files else None


def snapshot_files(snapshot: Path) -> dict[str, Path]:
    """The files below a folder of the cache, by their path in the repository; none if it cannot be read."""
    return {
        (Path(folder) / name).relative_to(snapshot).as_posix(): Path(folder) / name
        for folder, _, names in os.walk(snapshot)
        for name in names
    }


def repository_folder(repository: str, options: HubOptions) -> Path:
    """Where `huggingface_hub` keeps a repository."""
    return options.cache / ("models--" + repository.replace("/", "--"))


def blob_of(path: Path) -> Path | None:
    """What a file of a snapshot links to, one step; None for a cache without links."""
    try:
        return Path(os.path.normpath(path.parent / os.readlink(path)))
    except OSError:  # no link, or gone
        return None


def digest_of_blob(path: Path) -> str | None:
    """The SHA-256 that a cached large file must have: `huggingface_hub` names its blob by it. None: not known."""
    blob = blob_of(path)
    return blob.name if blob is not None and _SHA256.fullmatch(blob.name) else None


def _offline(repository: str, options: HubOptions, command: str) -> str:
    why = "local_files_only=True" if options.local_files_only else "HF_HUB_OFFLINE"
    return (
        f"{repository} is not in the cache {options.cache}, and the network must not be used ({why}). "
        f"Where there is a network, run: {command}"
    )


@contextmanager
def explained(repository: str, path: str, options: HubOptions, command: str) -> Iterator[None]:
    """Whatever `huggingface_hub` raises becomes the error of ours that says what to do.

    Args:
        repository: asked for.
        path: in it; empty for the whole.
        options: how it was asked for.
        command: to try it again.
    """
    try:
        yield
    except SSPSAMError:
        raise
    except Exception as error:  # its transport raises kinds of a package that we do not import
        for cause in _chain(error):
            explanation = _explain(cause, repository, path, options, command)
            if explanation is not None:
                raise explanation from error
        raise _explain_rest(error, repository, path, options, command) from error


def _explain(cause: BaseException, repository: str, path: str, options: HubOptions, command: str) -> SSPSAMError | None:
    """What one link of a chain of errors means; None: ask the next one."""
    from huggingface_hub import constants, errors

    response = getattr(cause, "response", None)
    status = getattr(response, "status_code", None)
    said = getattr(response, "headers", {}).get("X-Error-Message", "")
    revision = options.revision or "main"
    if isinstance(cause, errors.OfflineModeIsEnabled):
        return HubOfflineError(_offline(repository, options, command))
    if isinstance(cause, errors.GatedRepoError):
        page = f"{constants.ENDPOINT}/{repository}"
        return HubGatedError(f"{repository} is gated: accept its terms at {page}, then run: hf auth login")
    if isinstance(cause, errors.RevisionNotFoundError):
        newest = re.sub(r" --revision \S+", "", command)
        return RevisionMissingError(f"{repository} has no revision {revision!r}. For its newest, run: {newest}")
    if isinstance(cause, errors.RemoteEntryNotFoundError):
        page = f"{constants.ENDPOINT}/{repository}/tree/{revision}"
        look = "run: sspsam models --remote" if repository == AUTHORS_REPOSITORY else f"see {page}"
        return HubFileMissingError(
            f"{repository} has no file {path!r} at revision {revision!r}. For what it has, {look}"
        )
    if type(cause).__name__ in ("LocalProtocolError", "UnicodeEncodeError") or (
        status == 401 and "credentials" in said
    ):
        # never with the cause: it may quote the token
        return HubAuthenticationError(f"the token was not accepted for {repository}. Run: hf auth login")
    if isinstance(cause, errors.RepositoryNotFoundError) or status in (401, 404):  # so the Hub hides private ones, too
        return RepositoryMissingError(
            f"the Hub shows no repository {repository!r} (and there is no directory of that name). Check the name; if "
            "it is private, run: hf auth login"
        )
    if isinstance(cause, errors.HFValidationError):
        return RepositoryMissingError(f"{repository!r} is no name of a repository. For names, run: sspsam models")
    if status == 403:
        return HubForbiddenError(
            f"the Hub refuses access to {repository} with this token. With one that may, run: hf auth login"
        )
    if status is not None and (status >= 500 or status == 429):
        return HubServerError(f"the Hub has a fault ({status}) at {constants.ENDPOINT}. Later, run: {command}")
    if status is not None and status >= 400:
        return HubError(f"the Hub answered {status} for {repository}. To try again, run: {command}")
    if type(cause).__name__ in _BROKEN:
        what = path or "the list of files"
        return DownloadError(f"the connection broke off at {what} of {repository}. To try again, run: {command}")
    if any(kind.__name__ in _TRANSPORT for kind in type(cause).__mro__):
        return HubConnectionError(
            f"cannot reach the Hub at {constants.ENDPOINT} for {repository}: {cause or type(cause).__name__}. Check "
            f"the connection (behind a proxy, set HTTPS_PROXY; for a mirror, HF_ENDPOINT), then run: {command}"
        )
    return None


def _explain_rest(error: Exception, repository: str, path: str, options: HubOptions, command: str) -> SSPSAMError:
    """What is not the Hub's answer: the disk, the cache, or a download that broke off."""
    from huggingface_hub import errors

    cause = next((each for each in _chain(error) if isinstance(each, OSError) and each.errno), None)
    if cause is not None and cause.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
        # HF_HOME would not do where HF_HUB_CACHE is set
        return NoSpaceError(
            f"no space left in {options.cache}. Free some or choose another --cache-dir; run: {command}"
        )
    if cause is not None and cause.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
        where = f"{os.strerror(cause.errno)}: {cause.filename or options.cache}"
        return ReadOnlyError(
            f"the cache is not writable ({where}). Allow it or choose another --cache-dir; run: {command}"
        )
    if isinstance(error, errors.LocalEntryNotFoundError) and options.offline:
        return HubOfflineError(_offline(repository, options, command))
    what = f"{path} of {repository}" if path else repository
    if isinstance(error, OSError):
        return DownloadError(f"the download of {what} broke off: {error} To try again, run: {command}")
    return HubError(f"cannot fetch {what}: {type(error).__name__}: {error}. To try again, run: {command}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
