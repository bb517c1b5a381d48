"""Which checkpoint a name means, and fetching it."""

import os
from pathlib import Path

from sspsam.checkpoint import CONFIG_NAME, WEIGHTS_NAME
from sspsam.errors import CheckpointNotFoundError, HubError

_BUNDLED = "shapes"


def resolve(
    name_or_path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Path:
    """The directory of the checkpoint that a name means; fetched from the Hub if it is not here.

    Args:
        name_or_path: a directory, the `.safetensors` file in one, or a Hub repository `owner/name` in the own format.
        revision: branch, tag or commit of a Hub repository; a commit is fetched once and never asked for again.
        cache_dir: of the Hub's files; None: where `huggingface_hub` keeps them.
        local_files_only: never use the network.
        token: for private repositories, as in `huggingface_hub`.

    Raises:
        CheckpointNotFoundError: nothing there.
        HubError: the Hub cannot be reached, or refuses.
    """
    if not isinstance(name_or_path, str | os.PathLike):
        raise TypeError(f"a checkpoint is named by a string or a path, not {type(name_or_path).__name__}")
    path = Path(name_or_path)
    if path.is_dir():
        return path
    if path.is_file():
        if path.name == WEIGHTS_NAME:
            return path.parent
        raise CheckpointNotFoundError(_what_to_do_with(path))
    name = os.fspath(name_or_path)
    if name == _BUNDLED:
        raise CheckpointNotFoundError("the bundled model 'shapes' is not part of this version of sspsam yet")
    parts = name.split("/")
    if len(parts) != 2 or not all(parts) or "\\" in name or name.startswith((".", "~")):
        raise CheckpointNotFoundError(
            f"no checkpoint {name!r}: there is no such directory, and a Hub repository is named owner/name. "
            "Convert an authors' .pth file with: sspsam convert CHECKPOINT.pth OUT_DIR"
        )
    return _download(name, revision, cache_dir, local_files_only, token)


def _what_to_do_with(path: Path) -> str:
    if path.suffix in (".pth", ".pt", ".ckpt", ".bin"):
        return f"{path} is a pickled checkpoint; convert it once with: sspsam convert {path} OUT_DIR"
    return f"{path} is a file, not a checkpoint directory with {CONFIG_NAME} and {WEIGHTS_NAME}"


def _download(
    repository: str,
    revision: str | None,
    cache_dir: str | os.PathLike[str] | None,
    local_files_only: bool,
    token: str | bool | None,
) -> Path:
    import huggingface_hub  # only here: local checkpoints need none of it
    from huggingface_hub import errors

    try:
        files = [
            huggingface_hub.hf_hub_download(
                repository,
                name,
                revision=revision,
                cache_dir=None if cache_dir is None else Path(cache_dir),
                local_files_only=local_files_only,
                token=token,
            )
            for name in (CONFIG_NAME, WEIGHTS_NAME)
        ]
    except errors.GatedRepoError as error:
        raise HubError(
            f"access to {repository} must be granted first: log in and accept its terms on the Hub, then pass token="
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise HubError(
            f"{repository} is not in the local cache, and the Hub could not be asked for it ({error}). "
            f"With a connection, run: hf download {repository}"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise CheckpointNotFoundError(
            f"no checkpoint {repository!r} at revision {revision or 'main'}: {error}"
        ) from error
    except errors.EntryNotFoundError as error:
        raise CheckpointNotFoundError(
            f"{repository} is not in sspsam's format: it lacks {CONFIG_NAME} or {WEIGHTS_NAME}. {error}"
        ) from error
    except (OSError, ValueError) as error:
        raise HubError(f"cannot fetch {repository} from the Hub: {error}") from error
    directories = {Path(file).parent for file in files}
    if len(directories) != 1:
        raise HubError(f"{repository} changed while it was being fetched; try again, or pin a revision")
    return directories.pop()
