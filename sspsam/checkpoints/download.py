"""Files from the Hugging Face Hub through `huggingface_hub`, and what can go wrong in words that help.

Environment variables mean what they mean everywhere: `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`, `HF_HUB_OFFLINE`,
`HF_TOKEN`, `HTTPS_PROXY`. Nothing here opens a socket for a file of a pinned commit that is in the cache.
"""

from dataclasses import replace
from pathlib import Path

from sspsam.checkpoints.hub_cache import list_cache
from sspsam.checkpoints.hub_errors import UNREACHABLE, explained, offline_message
from sspsam.checkpoints.hub_options import HubOptions, Listing, is_commit
from sspsam.errors import (
    HubError,
    HubOfflineError,
    ReadOnlyError,
)


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
            raise HubOfflineError(offline_message(repository, options, command))
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
    if not info.sha or not is_commit(info.sha):
        raise HubError(f"the Hub names no commit of {repository}; is HF_ENDPOINT a Hub? To try again, run: {command}")
    files = {file.rfilename: file.lfs.sha256 if file.lfs else None for file in info.siblings or []}
    if not files:  # not every mirror lists them here
        with explained(repository, "", options, command):
            entries = list(api.list_repo_tree(repository, recursive=True, revision=info.sha, token=options.token))
        files = {e.path: e.lfs.sha256 if e.lfs else None for e in entries if isinstance(e, RepoFile)}
    return Listing(info.sha, files)
