"""Options of a request to the Hub, and the listing of a repository."""

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

from sspsam.errors import HubAuthenticationError, SSPSAMError, StorageError
from sspsam.utils.arguments import true_or_false
from sspsam.utils.hub_environment import check_hub_environment
from sspsam.utils.paths import printable, shown, shown_repr, user_path

REPOSITORY_VARIABLE: Final = "SSPSAM_REPOSITORY"  # names a repository of converted checkpoints
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_TOKEN: Final = re.compile(r"[!-~]+")


def is_commit(revision: str) -> bool:
    """True if a revision is a full commit hash."""
    return _COMMIT.fullmatch(revision) is not None


@dataclass(frozen=True)
class HubOptions:
    """Options of a request to the Hub; `of` makes them from what a user gave.

    Args:
        revision: branch, tag or commit in lower case; None: `main`.
        cache_dir: the cache of `huggingface_hub`, an absolute path; None: its usual one (`HF_HUB_CACHE`, `HF_HOME`).
        local_files_only: use no network.
        token: of the Hub; None: the one of `hf auth login` or `HF_TOKEN`; False: none.
    """

    revision: str | None = None
    cache_dir: Path | None = None
    local_files_only: bool = False
    token: str | bool | None = None

    @classmethod
    def of(
        cls,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> Self:
        """Return the options that a user gave.

        Args:
            revision: see `HubOptions`; a commit in any case; empty: `main`.
            cache_dir: see `HubOptions`; a path of any form.
            local_files_only: see `HubOptions`.
            token: see `HubOptions`; white space around it has no effect; empty: none.

        Raises:
            HubAuthenticationError: the token has characters that no token has.
            StorageError: the path of the cache is empty, or no path.
            TypeError, ValueError: a value of another type.
        """
        if not isinstance(revision, str | None):
            raise TypeError(f"revision must be a branch, tag or commit, not {shown_repr(revision)}")
        if revision and is_commit(revision.lower()):
            revision = revision.lower()
        cache = None if cache_dir is None else _absolute(cache_dir)
        return cls(revision or None, cache, true_or_false("local_files_only", local_files_only), _checked_token(token))

    @property
    def commit(self) -> str | None:
        """The revision, if it is a full commit hash."""
        return self.revision if self.revision and is_commit(self.revision) else None

    @property
    def cache(self) -> Path:
        """The folder of `huggingface_hub`'s cache."""
        check_hub_environment()
        from huggingface_hub import constants

        return Path(self.cache_dir or constants.HF_HUB_CACHE)

    @property
    def offline(self) -> bool:
        """True if the network must not be used."""
        check_hub_environment()
        from huggingface_hub import constants

        return self.local_files_only or constants.HF_HUB_OFFLINE

    def command(self, verb: str, name: str) -> str:
        """The `sspsam` command line that applies `verb` to `name` with the same cache and revision."""
        # no name or revision that exists is long enough to be cut
        words = ["sspsam", *verb.split(), shown(name)]
        if self.revision:
            words += ["--revision", shown(self.revision)]
        if self.cache_dir:
            words += ["--cache-dir", str(self.cache_dir)]
        return printable(shlex.join(words))

    def command_with_another_cache(self, name: str) -> str:
        """The command line that downloads `name` into another cache."""
        return replace(self, cache_dir=Path("/a/larger/disk")).command("download", name)


def _absolute(cache_dir: str | os.PathLike[str]) -> Path:
    path = user_path(cache_dir, "the cache", StorageError)
    try:
        return path.absolute()
    except OSError as error:
        raise StorageError(f"the cache {shown(path)} lies in a current folder that was deleted") from error


def _checked_token(token: str | bool | None) -> str | bool | None:
    if not isinstance(token, str):
        return token
    token = token.strip()
    if token and not _TOKEN.fullmatch(token):
        raise HubAuthenticationError("the token has characters that no token has. Run: hf auth login")
    return token or False


@dataclass(frozen=True)
class Listing:
    """The files of a repository at one commit.

    Args:
        commit: hash.
        files: SHA-256 by path; None where the Hub does not tell it.
        hub_error: the reason why only files in the cache are listed; None: the listing
            is the Hub's, and complete.
    """

    commit: str
    files: Mapping[str, str | None]
    hub_error: SSPSAMError | None = None
