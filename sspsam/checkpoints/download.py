"""Download files from the Hugging Face Hub through `huggingface_hub`, with sspsam's own errors.

The environment variables of `huggingface_hub` apply: `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`, `HF_HUB_OFFLINE`,
`HF_TOKEN`, `HTTPS_PROXY`. No socket is opened for a file of a pinned commit that is in the cache.
"""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from sspsam.checkpoints.hub_cache import list_cache
from sspsam.checkpoints.hub_errors import UNREACHABLE, offline_message, translated_errors
from sspsam.checkpoints.hub_options import HubOptions, Listing, is_commit
from sspsam.errors import HubError, HubFileMissingError, HubOfflineError, ReadOnlyError
from sspsam.utils.hub_environment import check_hub_environment
from sspsam.utils.paths import shown


def fetch_file(repository: str, path: str, options: HubOptions, command: str) -> Path:
    """Return the local path of a file of a repository; the file is downloaded if it is not in the cache.

    Args:
        repository: `owner/name`.
        path: in the repository.
        options: revision, cache, token, and whether the network may be used.
        command: the command line that tries the download again, for errors.

    Raises:
        HubError, CheckpointNotFoundError, StorageError: each cause has a class of its own.
    """
    try:
        return _download(repository, path, options, command)
    except (*UNREACHABLE, ReadOnlyError):  # read-only: the branch has a new commit, which cannot be stored
        if options.offline:
            raise
        try:
            return _download(repository, path, replace(options, local_files_only=True), command)
        except HubOfflineError:
            pass
        raise


def fetch_optional_file(repository: str, path: str, options: HubOptions, command: str) -> None:
    """Download a file of a pinned commit if the repository has it; the answer that it has none is cached, too.

    Without a network the file is left out if it is not in the cache.

    Args:
        repository, path, options, command: as of `fetch_file`; the revision is a commit.
    """
    import huggingface_hub

    cache = Path(options.cache_dir) if options.cache_dir else None
    known = huggingface_hub.try_to_load_from_cache(repository, path, cache, options.revision)
    if known is not None:  # the path, or that the repository lacks the file
        return
    with suppress(HubFileMissingError, HubOfflineError, *UNREACHABLE):
        fetch_file(repository, path, options, command)


def _download(repository: str, path: str, options: HubOptions, command: str) -> Path:
    check_hub_environment()
    import huggingface_hub

    with translated_errors(repository, path, options, command):
        return Path(
            huggingface_hub.hf_hub_download(
                repository,
                path,
                revision=options.revision,
                cache_dir=Path(options.cache_dir) if options.cache_dir else None,
                local_files_only=options.local_files_only,
                token=options.token,
            )
        )


def list_files(repository: str, options: HubOptions, command: str) -> Listing:
    """List all files of a repository at a commit; if the Hub cannot be reached, those in the cache.

    Args:
        repository: `owner/name`.
        options: revision, cache, token, and whether the network may be used.
        command: the command line that tries again, for errors.

    Raises:
        HubError, CheckpointNotFoundError: the Hub cannot be reached or refuses, and the cache holds no file.
    """
    try:
        if options.offline:
            raise HubOfflineError(offline_message(repository, options, command))
        return _list_hub(repository, options, command)
    except (HubOfflineError, *UNREACHABLE) as error:
        cached = list_cache(repository, options)
        if cached is None:
            raise
        return replace(cached, hub_error=error)


def _list_hub(repository: str, options: HubOptions, command: str) -> Listing:
    check_hub_environment()
    import huggingface_hub

    api = huggingface_hub.HfApi()
    with translated_errors(repository, "", options, command):
        info = api.model_info(
            repository,
            revision=options.revision,
            files_metadata=True,
            token=options.token,
            timeout=huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT,  # without one a silent Hub is waited for without end
        )
    if not info.sha or not is_commit(info.sha):
        raise HubError(
            f"the Hub names no commit of {shown(repository)}; is HF_ENDPOINT a Hub? To try again, run: {command}"
        )
    files = {file.rfilename: file.lfs.sha256 if file.lfs else None for file in info.siblings or []}
    return Listing(info.sha, files or _list_tree(repository, info.sha, options, command))


def _list_tree(repository: str, commit: str, options: HubOptions, command: str) -> dict[str, str | None]:
    """List the files by requesting the tree; some mirrors leave the files out of the information about a repository."""
    import huggingface_hub
    from huggingface_hub.hf_api import RepoFile

    with translated_errors(repository, "", options, command):
        entries = list(
            huggingface_hub.HfApi().list_repo_tree(repository, recursive=True, revision=commit, token=options.token)
        )
    return {entry.path: entry.lfs.sha256 if entry.lfs else None for entry in entries if isinstance(entry, RepoFile)}
