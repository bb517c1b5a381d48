"""Translation of the errors of `huggingface_hub` and of its HTTP package into sspsam's, each with the command to run.

An error of `huggingface_hub` often wraps the cause. The chain of causes is searched from the outside in, first for an
answer of the Hub, then for a failure of the connection, then for one of the disk.
"""

import errno
import os
import re
import ssl
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from sspsam.checkpoints.hub_cache import require_readable_cache
from sspsam.checkpoints.hub_options import HubOptions
from sspsam.checkpoints.names import AUTHORS_REPOSITORY
from sspsam.checkpoints.private_apis import http_error_kinds
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
    StorageError,
)
from sspsam.messages import message_of
from sspsam.utils.hub_environment import dead_certificate_file, proxy_variables
from sspsam.utils.paths import shown

UNREACHABLE: Final = (HubConnectionError, HubServerError, DownloadError)  # a file in the cache is used instead
_NO_SPACE: Final = (errno.ENOSPC, getattr(errno, "EDQUOT", None))  # Windows has no quota
_NOT_WRITABLE: Final = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


@contextmanager
def translated_errors(repository: str, path: str, options: HubOptions, command: str) -> Iterator[None]:
    """Translate every exception that `huggingface_hub` raises into an `SSPSAMError`.

    Args:
        repository: that is requested.
        path: of the requested file in it; empty for the repository as a whole.
        options: of the request.
        command: the command line that tries again.
    """
    try:
        yield
    except SSPSAMError:
        raise
    except Exception as error:  # the HTTP package's exceptions have no base class that can be imported here
        raise _Request(shown(repository), shown(path), options, command).translated(error) from error


def offline_message(repository: str, options: HubOptions, command: str) -> str:
    """The error message for a file that is not in the cache while the network must not be used."""
    reason = "local_files_only=True" if options.local_files_only else "HF_HUB_OFFLINE"
    return (
        f"{shown(repository)} is not in the cache {shown(options.cache)}, and the network must not be used ({reason}). "
        f"Where there is a network, run: {command}"
    )


@dataclass(frozen=True)
class _Request:
    """A request that failed; translates its error."""

    repository: str
    path: str
    options: HubOptions
    command: str

    def translated(self, error: Exception) -> SSPSAMError:
        for cause in _chain(error):
            translation = (
                self._file_server(cause) or self._refusal(cause) or self._status(cause) or self._connection(cause)
            )
            if translation is not None:
                return translation
        return self._settings(error) or self._unreadable_cache() or self._disk(error) or self._other(error)

    @property
    def _revision(self) -> str:
        return shown(self.options.revision or "main")

    def _file_server(self, cause: BaseException) -> SSPSAMError | None:
        """A refusal by the server that stores large files, to which the Hub redirects; it says nothing of the Hub."""
        from huggingface_hub import constants

        url, status = _url(cause), _status_code(cause)
        # a mirror may redirect to another Hub, whose routes have these parts
        routes = (f"/{self.repository}/resolve/", f"/api/models/{self.repository}")
        is_of_hub = url.startswith(constants.ENDPOINT.rstrip("/") + "/") or any(route in url for route in routes)
        if not self.path or not url or is_of_hub or status is None or status == 429 or not 400 <= status < 500:
            return None
        return DownloadError(
            f"the Hub has {self.path} of {self.repository}, but the server that stores it "
            f"({urllib.parse.urlsplit(url).netloc}) refused to send it ({status}). Later, run: {self.command}"
        )

    def _refusal(self, cause: BaseException) -> SSPSAMError | None:
        """An answer of the Hub for which `huggingface_hub` has an exception class."""
        from huggingface_hub import constants, errors

        page = f"{constants.ENDPOINT}/{self.repository}"
        if isinstance(cause, errors.OfflineModeIsEnabled):
            return HubOfflineError(offline_message(self.repository, self.options, self.command))
        if isinstance(cause, errors.GatedRepoError):
            return HubGatedError(f"{self.repository} is gated: accept its terms at {page}, then run: hf auth login")
        if isinstance(cause, errors.RevisionNotFoundError):
            unpinned = re.sub(r" --revision \S+", "", self.command)
            return RevisionMissingError(
                f"{self.repository} has no revision '{self._revision}'. For its newest, run: {unpinned}"
            )
        if isinstance(cause, errors.RemoteEntryNotFoundError):
            authors = self.repository == AUTHORS_REPOSITORY
            list_files = "run: sspsam models --remote" if authors else f"see {page}/tree/{self._revision}"
            return HubFileMissingError(
                f"{self.repository} has no file '{self.path}' at revision '{self._revision}'. To see its files, "
                f"{list_files}"
            )
        if _is_token_refused(cause):
            # never with the cause: it may quote the token
            return HubAuthenticationError(f"the token was not accepted for {self.repository}. Run: hf auth login")
        if isinstance(cause, errors.RepositoryNotFoundError):
            return self._no_repository()
        if isinstance(cause, errors.HFValidationError):
            return RepositoryMissingError(
                f"'{self.repository}' is not a valid name of a repository. To see valid names, run: sspsam models"
            )
        return None

    def _status(self, cause: BaseException) -> SSPSAMError | None:
        """An answer of the Hub with an HTTP status that is an error."""
        from huggingface_hub import constants

        status = _status_code(cause)
        if status is None or status < 400:
            return None
        if status in (401, 404):  # the Hub answers so for private repositories, too
            return self._no_repository()
        if status == 403:
            return HubForbiddenError(
                f"the Hub refuses access to {self.repository} with this token. For a token with access, run: "
                "hf auth login"
            )
        if status >= 500 or status == 429:
            return HubServerError(
                f"the Hub at {constants.ENDPOINT} answered with an error ({status}). Later, run: {self.command}"
            )
        return HubError(f"the Hub answered {status} for {self.repository}. To try again, run: {self.command}")

    def _no_repository(self) -> SSPSAMError:
        return RepositoryMissingError(
            f"the Hub shows no repository '{self.repository}' (and there is no directory of that name). Check the "
            "name; if the repository is private, run: hf auth login"
        )

    def _connection(self, cause: BaseException) -> SSPSAMError | None:
        """A failure of the connection to the Hub."""
        from huggingface_hub import constants

        if isinstance(cause, http_error_kinds("RemoteProtocolError", "ReadError", "ReadTimeout", "WriteError")):
            requested = self.path or "the list of files"
            return DownloadError(
                f"the connection broke at {requested} of {self.repository}. To try again, run: {self.command}"
            )
        if isinstance(cause, http_error_kinds("TransportError")) or _is_lost_connection_error(cause):
            if any(isinstance(link, ssl.SSLError) for link in _chain(cause)) and dead_certificate_file():
                return self._settings(cause)
            lost = "no connection" if _is_lost_connection_error(cause) else shown(cause)
            return HubConnectionError(
                f"cannot reach the Hub at {constants.ENDPOINT} for {self.repository}: "
                f"{lost or type(cause).__name__}. Check the connection (behind a proxy, set HTTPS_PROXY; for a "
                "mirror, HF_ENDPOINT), then run: "
                f"{self.command}"
            )
        return None

    def _settings(self, error: BaseException) -> SSPSAMError | None:
        """A request that failed before it was sent, because an environment variable has a wrong value."""
        problem = ""
        if isinstance(error, OSError) or any(isinstance(cause, ssl.SSLError) for cause in _chain(error)):
            problem = dead_certificate_file()
        elif isinstance(error, ValueError) and "proxy" in str(error).lower() and proxy_variables():
            problem = f"the proxy that {' or '.join(proxy_variables())} names cannot be used ({shown(error)})"
        if not problem:
            return None
        return HubConnectionError(
            f"cannot reach the Hub for {self.repository}: {problem}. Correct or unset it, then run: {self.command}"
        )

    def _unreadable_cache(self) -> SSPSAMError | None:
        """A folder of the cache that this user may not read, in which the requested file may be."""
        try:
            require_readable_cache(self.repository, self.options)
        except StorageError as error:
            return error.with_message(message_of(error), f" Then run: {self.command}")
        return None

    def _disk(self, error: Exception) -> SSPSAMError | None:
        """A failure of the disk that holds the cache."""
        cause = next((cause for cause in _chain(error) if isinstance(cause, OSError) and cause.errno), None)
        if cause is None:
            return None
        if cause.errno in _NO_SPACE:
            # --cache-dir, because HF_HOME has no effect where HF_HUB_CACHE is set
            return NoSpaceError(
                f"no space left in {shown(self.options.cache)}. Free some space or choose another --cache-dir; run: "
                f"{self.command}"
            )
        if cause.errno in _NOT_WRITABLE:
            reason = f"{os.strerror(cause.errno or 0)}: {shown(cause.filename or self.options.cache)}"
            return ReadOnlyError(
                f"the cache cannot be read or written ({reason}). Make it writable or choose another --cache-dir; run: "
                f"{self.command}"
            )
        return None

    def _other(self, error: Exception) -> SSPSAMError:
        from huggingface_hub import constants, errors

        if isinstance(error, errors.LocalEntryNotFoundError) and self.options.offline:
            return HubOfflineError(offline_message(self.repository, self.options, self.command))
        requested = f"{self.path} of {self.repository}" if self.path else self.repository
        if isinstance(error, OSError):
            return DownloadError(
                f"the download of {requested} broke off: {shown(error)} To try again, run: {self.command}"
            )
        if not self.path and isinstance(error, ValueError | TypeError | KeyError | AttributeError):
            return HubError(
                f"what answers at {constants.ENDPOINT} is no Hub: its list of the files of {requested} cannot be read "
                f"({type(error).__name__}: {shown(error)}). Check HF_ENDPOINT, and whether a proxy or a login page "
                f"answers instead, then run: {self.command}"
            )
        return HubError(
            f"cannot download {requested}: {type(error).__name__}: {shown(error)}. To try again, run: {self.command}"
        )


def _is_token_refused(cause: BaseException) -> bool:
    """True if the Hub refused the token, or HTTP headers cannot hold it."""
    if isinstance(cause, (UnicodeEncodeError, *http_error_kinds("LocalProtocolError"))):
        return True
    headers = getattr(getattr(cause, "response", None), "headers", {})
    return _status_code(cause) == 401 and "credentials" in headers.get("X-Error-Message", "")


def _is_lost_connection_error(cause: BaseException) -> bool:
    """True for an error by which some releases of `huggingface_hub` replace that of a failed connection.

    After it they close their client, wait, and send the request again with the closed client (1.2 to 1.10, at least).
    """
    return isinstance(cause, RuntimeError) and "client has been closed" in str(cause)


def _status_code(cause: BaseException) -> int | None:
    status = getattr(getattr(cause, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _url(cause: BaseException) -> str:
    """The URL that a refused request was finally sent to, behind redirects; empty if it is not known."""
    return str(getattr(getattr(cause, "response", None), "url", ""))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and the exceptions that it was raised from, outermost first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
