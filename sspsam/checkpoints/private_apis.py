"""Private parts of PyTorch and `huggingface_hub`, each behind a check and with a fallback; no other file uses any.

- `torch._C.PyTorchFileReader` reads one record of an archive as `torch.load` reads it. Without it, public functions of
  PyTorch show the same record.
- `huggingface_hub.utils._shared_blobs.sweep_shared_blob` deletes a file of the store that cached repositories share.
  Without it the file is kept, with a warning.
- The HTTP package of `huggingface_hub` (httpx in version 1, httpx2 in version 2) is found from the public
  `HfHubHTTPError`, which extends that package's `HTTPError`. Without it, its errors are told apart as `OSError` or not.
"""

import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, Final

from sspsam.errors import CheckpointError, warn
from sspsam.utils.paths import shown

_INDEX: Final = "data.pkl"


# PyTorch


def index_as_torch_reads_it(path: Path) -> bytes:
    """Return the pickle that `torch.load` would unpickle from an archive; nothing is unpickled.

    Raises:
        CheckpointError: this version of PyTorch has no known way to read the pickle alone; the file may be sound.
        Exception: PyTorch cannot read the archive.
    """
    reader = _torch_file_reader()
    if reader is not None:
        try:
            with path.open("rb") as file:
                return bytes(reader(file).get_record(_INDEX))
        except (AttributeError, TypeError):  # another interface than the one that this code was written for
            pass
    return _index_by_public_functions(path)


def _torch_file_reader() -> Any:
    import torch

    return getattr(torch._C, "PyTorchFileReader", None)


def _index_by_public_functions(path: Path) -> bytes:
    """Let `torch.load` read the pickle with a pickle module that keeps the bytes and unpickles nothing.

    This is only the fallback because PyTorch refuses every such module where TORCH_FORCE_WEIGHTS_ONLY_LOAD is set.
    """
    import torch

    refuse_other_formats = getattr(torch.serialization, "get_unsafe_globals_in_checkpoint", None)
    if refuse_other_formats is None:
        raise CheckpointError(_no_way_to_check(path))
    refuse_other_formats(str(path))  # raises for what torch.load would not read as a pickle in a zip archive
    recorder = _RecordingPickleModule()
    with path.open("rb") as file:
        try:
            torch.load(file, map_location="cpu", weights_only=False, pickle_module=recorder)
        except Exception as error:
            if recorder.pickle is None:
                raise CheckpointError(_no_way_to_check(path)) from error
    if recorder.pickle is None:
        raise CheckpointError(_no_way_to_check(path))
    return recorder.pickle


class _RecordingPickleModule:
    """A pickle module for `torch.load` whose `Unpickler` keeps the bytes and returns None."""

    __name__ = "recording_pickle_module"

    def __init__(self) -> None:
        self.pickle: bytes | None = None
        module = self

        class Unpickler:
            def __init__(self, file: BinaryIO, **_: object) -> None:
                module.pickle = file.read()

            def load(self) -> None:
                return None

        self.Unpickler = Unpickler


def _no_way_to_check(path: Path) -> str:
    return (
        f"torch {version('torch')} offers no known way to check {shown(path)} before it is unpickled. Nothing was "
        "unpickled, and the file may be sound. Unset TORCH_FORCE_WEIGHTS_ONLY_LOAD if it is set, or upgrade sspsam."
    )


# huggingface_hub


def _http_package() -> ModuleType | None:
    """The HTTP package whose exceptions `huggingface_hub` lets through; None if it is not found."""
    from huggingface_hub.errors import HfHubHTTPError

    for kind in HfHubHTTPError.__mro__:
        package = sys.modules.get(kind.__module__.partition(".")[0])
        if hasattr(package, "TransportError"):
            return package
    return None


def http_error_kinds(*names: str) -> tuple[type[Exception], ...]:
    """The named exception classes of that HTTP package, without those that it does not have."""
    kinds = (getattr(_http_package(), name, None) for name in names)
    return tuple(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Exception))


def delete_shared_blob(blob: Path, cache: Path) -> None:
    """Delete a file of the store that the repositories of a cache share, unless another repository uses it."""
    try:
        from huggingface_hub.utils._shared_blobs import sweep_shared_blob

        sweep_shared_blob(blob, cache_dir=cache)
    except (ImportError, TypeError):  # another name or other arguments than those that this code was written for
        warn(
            f"{shown(blob)} was not deleted: huggingface_hub {version('huggingface_hub')} offers no known function to "
            "delete a file that cached repositories may share. It takes space, and does no harm."
        )
