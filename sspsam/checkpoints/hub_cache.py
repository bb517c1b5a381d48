"""The layout of `huggingface_hub`'s cache on disk; no other module knows it."""

import os
import re
from pathlib import Path
from typing import Final

from sspsam.checkpoints.hub_options import HubOptions, Listing, is_commit
from sspsam.utils.files import storage_error

_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def list_cache(repository: str, options: HubOptions) -> Listing | None:
    """The files of a repository that the cache holds at the revision asked for; None: nothing."""
    folder = repository_folder(repository, options)
    try:
        commit = options.commit or (folder / "refs" / (options.revision or "main")).read_text().strip()
    except (OSError, ValueError):
        return None
    if not is_commit(commit):
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


def delete_cached_files(repository: str, paths: set[str], options: HubOptions) -> list[Path]:
    """Unlink files of a repository in the cache, and their blobs where no other file is the same blob."""
    folder = repository_folder(repository, options)
    snapshots = {path: snapshot_files(path) for path in (folder / "snapshots").glob("*")}
    deleted: list[Path] = []
    for snapshot, files in snapshots.items():
        if options.commit in (None, snapshot.name):
            deleted += [files[path] for path in sorted(paths) if path in files]
    kept = {blob_of(file) for files in snapshots.values() for file in files.values() if file not in deleted}
    for file in deleted:
        blob = blob_of(file)
        try:
            file.unlink(missing_ok=True)
            if blob is not None and blob not in kept and blob.parent == folder / "blobs":  # else it is somebody's own
                _unlink_blob(blob, options)
        except OSError as error:
            raise storage_error(file, error) from error
    return deleted


def _unlink_blob(blob: Path, options: HubOptions) -> None:
    """Unlink a blob, and what it links to in the store that repositories share, if no other uses that."""
    shared = blob.resolve() if blob.is_symlink() else None
    blob.unlink(missing_ok=True)
    if shared is not None and shared.parent.parent == options.cache.resolve() / "blobs":
        try:
            from huggingface_hub.utils._shared_blobs import sweep_shared_blob
        except ImportError:  # not public; without it the store keeps the file, as for any other program
            return
        sweep_shared_blob(shared, cache_dir=options.cache)
