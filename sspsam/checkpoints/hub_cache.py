"""The layout of `huggingface_hub`'s cache on disk; no other module depends on it.

models--<owner>--<name>/refs/<branch>                 the commit that the branch was at
models--<owner>--<name>/snapshots/<commit>/<path>     a file, or a link to its blob
models--<owner>--<name>/blobs/<digest>                a blob, or a link to one in the shared store
blobs/<2 digits>/<digest>                             the shared store
"""

import os
import re
from pathlib import Path
from typing import Final

from sspsam.checkpoints.hub_options import HubOptions, Listing, is_commit
from sspsam.checkpoints.private_apis import delete_shared_blob
from sspsam.errors import StorageError
from sspsam.utils.files import storage_error
from sspsam.utils.paths import open_regular_file, shown

_MAX_REFERENCE_BYTES: Final = 200
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def list_cache(repository: str, options: HubOptions) -> Listing | None:
    """List the files of a repository that the cache holds at a revision; None if it holds none."""
    folder = _repository_folder(repository, options)
    commit = options.commit or _commit_of_reference(folder / "refs" / (options.revision or "main"))
    if commit is None or not is_commit(commit):
        return None
    files = _files_below(folder / "snapshots" / commit)
    return Listing(commit, {name: digest_of_blob(path) for name, path in files.items()}) if files else None


def _commit_of_reference(reference: Path) -> str | None:
    try:
        with open_regular_file(reference, StorageError) as file:
            return file.read(_MAX_REFERENCE_BYTES).decode().strip()
    except PermissionError as error:
        raise unreadable(reference, error) from error
    except (OSError, ValueError):  # missing, of another kind, or no text
        return None


def cached_repositories(options: HubOptions) -> list[str]:
    """The names of all repositories of models with an owner that the cache holds, also those of other programs."""
    names = (name.removeprefix("models--") for name in names_in(options.cache) if name.startswith("models--"))
    return [name.replace("--", "/", 1) for name in names if "--" in name]


def cached_snapshots(repository: str, options: HubOptions) -> dict[str, dict[str, Path]]:
    """Every cached commit of a repository, with its cached files by their path in the repository."""
    folder = _repository_folder(repository, options) / "snapshots"
    return {name: _files_below(folder / name) for name in names_in(folder)}


def commit_of_file(file: Path, path: str) -> str:
    """The commit that a cached file belongs to.

    Args:
        file: in the cache.
        path: of the file in its repository.
    """
    return file.parents[path.count("/")].name  # <commit>/<path>


def _repository_folder(repository: str, options: HubOptions) -> Path:
    return options.cache / ("models--" + repository.replace("/", "--"))


def _files_below(snapshot: Path) -> dict[str, Path]:
    """Files below a folder by their relative path; empty if there is no such folder."""
    return {
        (Path(folder) / name).relative_to(snapshot).as_posix(): Path(folder) / name
        for folder, _, names in os.walk(snapshot, onerror=_raise_unless_missing)
        for name in names
    }


def names_in(folder: Path) -> list[str]:
    """Sorted names of the entries of a folder of the cache; empty if there is no such folder.

    Raises:
        StorageError: this user may not read the folder.
    """
    try:
        return sorted(os.listdir(folder))
    except PermissionError as error:
        raise unreadable(folder, error) from error
    except (OSError, ValueError):
        return []


def require_readable_cache(repository: str, options: HubOptions) -> None:
    """Check that this user may list the folders of a repository in the cache; missing folders do no harm.

    Raises:
        StorageError: a folder cannot be read; the message names it.
    """
    folder = _repository_folder(repository, options)
    for part in (options.cache, folder, folder / "refs", folder / "snapshots"):
        names_in(part)


def unreadable(path: Path, error: OSError) -> StorageError:
    """Return the error for a part of the cache that this user may not read."""
    return StorageError(
        f"cannot read {shown(error.filename or path)} in the cache: {error.strerror or error}. It may belong to "
        "another user: make it readable, or choose another --cache-dir."
    )


def _raise_unless_missing(error: OSError) -> None:
    if isinstance(error, PermissionError):
        raise unreadable(Path(str(error.filename)), error) from error


def blob_of(path: Path) -> Path | None:
    """The target of a cached file's link, one step; None if the file is no link."""
    try:
        return Path(os.path.normpath(path.parent / os.readlink(path)))
    except OSError:  # no link, or deleted meanwhile
        return None


def digest_of_blob(path: Path) -> str | None:
    """The SHA-256 that a cached large file must have, which is the name of its blob; None if it is not known."""
    blob = blob_of(path)
    return blob.name if blob is not None and _SHA256.fullmatch(blob.name) else None


def delete_cached_files(repository: str, paths: set[str], options: HubOptions) -> list[Path]:
    """Delete files of a repository from the cache, and their blobs where no other cached file links to the same blob.

    Args:
        repository: `owner/name`.
        paths: in the repository.
        options: the cache; with a revision that is a commit, only this commit's files are deleted.

    Returns:
        The deleted files.

    Raises:
        StorageError: a file cannot be deleted.
    """
    snapshots = cached_snapshots(repository, options)
    deleted = [
        files[path]
        for commit, files in snapshots.items()
        for path in sorted(paths)
        if path in files and options.commit in (None, commit)
    ]
    kept_blobs = {blob_of(file) for files in snapshots.values() for file in files.values() if file not in deleted}
    blobs = _repository_folder(repository, options) / "blobs"
    for file in deleted:
        blob = blob_of(file)
        try:
            file.unlink(missing_ok=True)
            # a blob elsewhere is a file that the user linked into the cache
            if blob is not None and blob not in kept_blobs and blob.parent == blobs:
                _delete_blob(blob, options)
        except OSError as error:
            raise storage_error(file, error) from error
    return deleted


def _delete_blob(blob: Path, options: HubOptions) -> None:
    """Delete a blob, and the file of the shared store that it links to unless another repository links to it."""
    shared = Path(os.path.realpath(blob)) if os.path.islink(blob) else None
    blob.unlink(missing_ok=True)
    if shared is not None and shared.parent.parent == Path(os.path.realpath(options.cache)) / "blobs":
        delete_shared_blob(shared, options.cache)
