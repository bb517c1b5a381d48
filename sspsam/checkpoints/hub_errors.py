"""Errors of `huggingface_hub` and of its transport as errors of sspsam that say what to do."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sspsam.checkpoints.hub_options import HubOptions
from sspsam.checkpoints.names import AUTHORS_REPOSITORY
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
UNREACHABLE: Final = (HubConnectionError, HubServerError, DownloadError)  # then what is in the cache must do


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
        return HubOfflineError(offline_message(repository, options, command))
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
        return HubOfflineError(offline_message(repository, options, command))
    what = f"{path} of {repository}" if path else repository
    if isinstance(error, OSError):
        return DownloadError(f"the download of {what} broke off: {error} To try again, run: {command}")
    return HubError(f"cannot fetch {what}: {type(error).__name__}: {error}. To try again, run: {command}")


def offline_message(repository: str, options: HubOptions, command: str) -> str:
    why = "local_files_only=True" if options.local_files_only else "HF_HUB_OFFLINE"
    return (
        f"{repository} is not in the cache {options.cache}, and the network must not be used ({why}). "
        f"Where there is a network, run: {command}"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
