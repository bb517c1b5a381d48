"""Files from the Hugging Face Hub through `huggingface_hub`, and what can go wrong in words that help.

Environment variables mean what they mean everywhere: `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`, `HF_HUB_OFFLINE`,
`HF_TOKEN`, `HTTPS_PROXY`. Nothing here opens a socket for a file of a pinned commit that is in the cache.
"""

import errno
import os
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

_TRANSPORT: Final = {"ConnectError", "TimeoutException", "ProxyError", "NetworkError", "TransportError"}
_BROKEN: Final = {"RemoteProtocolError", "ReadError", "ReadTimeout", "WriteError"}
_UNREACHABLE: Final = (HubConnectionError, HubServerError, DownloadError)  # then what is in the cache must do
_SHA256_DIGITS: Final = 64


@dataclass(frozen=True)
class HubOptions:
    """How to ask the Hub; see `SSPSAMPredictor.from_pretrained`."""

    revision: str | None = None
    cache_dir: Path | None = None
    local_files_only: bool = False
    token: str | bool | None = None

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


@dataclass(frozen=True)
class Listing:
    """What a repository holds at one commit."""

    commit: str
    files: Mapping[str, str | None]  # path -> SHA-256 where the Hub knows it


def fetch_file(repository: str, path: str, options: HubOptions, name: str) -> Path:
    """A file of a repository, from the cache or the Hub.

    Args:
        repository: `owner/name`.
        path: in the repository.
        options: how to ask.
        name: how the user named the checkpoint, for the command in an error.
    """
    try:
        return _download(repository, path, options, name)
    except _UNREACHABLE:
        if options.offline:
            raise
        try:
            return _download(repository, path, replace(options, local_files_only=True), name)
        except HubOfflineError:
            pass
        raise


def _download(repository: str, path: str, options: HubOptions, name: str) -> Path:
    import huggingface_hub

    with explained(repository, path, options, name):
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


def list_files(repository: str, options: HubOptions, name: str) -> Listing:
    """All files of a repository at a commit: asked of the Hub, or what the cache holds where that cannot be had."""
    if options.offline:
        cached = list_cache(repository, options)
        if cached is None:
            raise HubOfflineError(_offline(repository, options, name))
        return cached
    try:
        return _list_hub(repository, options, name)
    except _UNREACHABLE:
        cached = list_cache(repository, options)
        if cached is None:
            raise
        return cached


def _list_hub(repository: str, options: HubOptions, name: str) -> Listing:
    import huggingface_hub

    with explained(repository, "", options, name):
        info = huggingface_hub.HfApi().model_info(
            repository, revision=options.revision, files_metadata=True, token=options.token
        )
    if not info.sha:
        raise HubError(f"the Hub names no commit of {repository}; is HF_ENDPOINT a Hub? Try: sspsam download {name}")
    digests = {file.rfilename: file.lfs.sha256 if file.lfs else None for file in info.siblings or []}
    return Listing(info.sha, digests)


def list_cache(repository: str, options: HubOptions) -> Listing | None:
    """The files of a repository that the cache holds at the revision asked for; None: nothing."""
    folder = repository_folder(repository, options)
    revision = options.revision or "main"
    try:
        commit = (folder / "refs" / revision).read_text().strip()
    except (OSError, UnicodeDecodeError):
        commit = revision
    snapshot = folder / "snapshots" / commit
    if not commit or not snapshot.is_dir():
        return None
    files = {path.relative_to(snapshot).as_posix(): path for path in snapshot.rglob("*") if path.is_file()}
    return Listing(commit, {name: digest_of_blob(path) for name, path in files.items()})


def repository_folder(repository: str, options: HubOptions) -> Path:
    """Where `huggingface_hub` keeps a repository."""
    return options.cache / ("models--" + repository.replace("/", "--"))


def digest_of_blob(path: Path) -> str | None:
    """The SHA-256 that a cached large file must have: `huggingface_hub` names its blob by it. None: not known."""
    blob = path.resolve().name
    return blob if len(blob) == _SHA256_DIGITS and all(digit in "0123456789abcdef" for digit in blob) else None


def _offline(repository: str, options: HubOptions, name: str) -> str:
    why = "local_files_only=True" if options.local_files_only else "HF_HUB_OFFLINE"
    return (
        f"{repository} is not in the cache {options.cache}, and the network must not be used ({why}). "
        f"Where there is a network, run: sspsam download {name}"
    )


@contextmanager
def explained(repository: str, path: str, options: HubOptions, name: str) -> Iterator[None]:
    """Whatever `huggingface_hub` raises becomes the error of ours that says what to do."""
    try:
        yield
    except SSPSAMError:
        raise
    except Exception as error:  # its transport raises kinds of a package that we do not import
        raise _explain(error, repository, path, options, name) from error


def _explain(error: Exception, repository: str, path: str, options: HubOptions, name: str) -> SSPSAMError:
    from huggingface_hub import constants, errors

    again = f"run: sspsam download {name}"
    revision = options.revision or "main"
    for cause in _chain(error):
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(cause, errors.OfflineModeIsEnabled):
            return HubOfflineError(_offline(repository, options, name))
        if isinstance(cause, errors.GatedRepoError):
            page = f"{constants.ENDPOINT}/{repository}"
            return HubGatedError(f"{repository} is gated: accept its terms at {page}, then run: hf auth login")
        if isinstance(cause, errors.RevisionNotFoundError):
            return RevisionMissingError(
                f"{repository} has no revision {revision!r}. For its newest, {again} --revision main"
            )
        if isinstance(cause, errors.RemoteEntryNotFoundError):
            return HubFileMissingError(
                f"{repository} has no file {path!r} at revision {revision!r}. For what it has: sspsam models --remote"
            )
        refused = getattr(getattr(cause, "response", None), "headers", {}).get("X-Error-Message", "")
        if status == 401 and "credentials" in refused:
            return HubAuthenticationError(f"the Hub did not accept the token for {repository}. Run: hf auth login")
        if isinstance(cause, errors.RepositoryNotFoundError) or status == 401:  # so it hides private ones, too
            return RepositoryMissingError(
                f"the Hub shows no repository {repository!r}. Check its name; if it is private, run: hf auth login"
            )
        if isinstance(cause, errors.HFValidationError):
            return RepositoryMissingError(f"{repository!r} is no name of a repository: {cause}. See: sspsam models")
        if status == 403:
            return HubForbiddenError(
                f"the Hub refuses access to {repository} with this token. With one that may read it, run: hf auth login"
            )
        if status is not None and (status >= 500 or status == 429):
            return HubServerError(f"the Hub has a fault ({status}) at {constants.ENDPOINT}. Later, {again}")
        if type(cause).__name__ in _BROKEN:
            return DownloadError(
                f"the connection broke off while fetching {path or 'the list'} of {repository}. To try again, {again}"
            )
        if any(kind.__name__ in _TRANSPORT for kind in type(cause).__mro__):
            return HubConnectionError(
                f"cannot reach the Hub at {constants.ENDPOINT} for {repository}: {cause or type(cause).__name__}. "
                f"Check the connection (behind a proxy, set HTTPS_PROXY; for a mirror, HF_ENDPOINT), then {again}"
            )
    return _explain_local(error, repository, path, options, name)


def _explain_local(error: Exception, repository: str, path: str, options: HubOptions, name: str) -> SSPSAMError:
    """What is not the Hub's answer: the disk, the cache, or a download that broke off."""
    from huggingface_hub import errors

    cause = next((each for each in _chain(error) if isinstance(each, OSError) and each.errno), None)
    elsewhere = f"or use another cache: HF_HOME=/a/larger/disk sspsam download {name}"
    if cause is not None and cause.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
        return NoSpaceError(f"no space left for {repository} in {options.cache}. Free some, {elsewhere}")
    if cause is not None and cause.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
        where = cause.filename or options.cache
        return ReadOnlyError(
            f"the cache cannot be written ({os.strerror(cause.errno)}: {where}). Allow it, {elsewhere}"
        )
    if isinstance(error, errors.LocalEntryNotFoundError) and options.offline:
        return HubOfflineError(_offline(repository, options, name))
    what = f"{path} of {repository}" if path else repository
    if isinstance(error, OSError):
        return DownloadError(f"the download of {what} broke off: {error}. Run: sspsam download {name}")
    return HubError(f"cannot fetch {what}: {type(error).__name__}: {error}. Run: sspsam download {name}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
