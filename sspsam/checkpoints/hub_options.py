"""How to ask the Hub, and what a repository holds."""

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from sspsam.errors import HubAuthenticationError, SSPSAMError

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_TOKEN: Final = re.compile(r"[!-~]+")


def is_commit(revision: str) -> bool:
    """Whether a revision is a full commit hash."""
    return _COMMIT.fullmatch(revision) is not None


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
