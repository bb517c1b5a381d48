"""The authors' `.pth` checkpoints to the own format, without running anything that such a file may name.

A `.pth` file is a pickle inside a zip archive. Before anything is unpickled, the archive's structure is checked and
every class and function that the pickle names is compared with a short list; the file's tensors are mapped, not read.
"""

import argparse
import os
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from sspsam.checkpoint import require_same_tensors, save_checkpoint
from sspsam.config import Architecture, ModelConfig
from sspsam.devices import DTYPES
from sspsam.errors import CheckpointError, CheckpointNotFoundError, UnsafeCheckpointError
from sspsam.layout import our_name, read_architecture, unused
from sspsam.models import SSPSAM

_MAX_PICKLE_BYTES: Final = 64 << 20  # the published files have less than one
_MAX_RECORDS: Final = 200_000


def _numpy_scalars() -> list[Any]:
    """What a pickled NumPy number names, under today's names and those of NumPy 1."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(kind)) for kind in "?bhilqBHILQefd"]
    return [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype, *kinds]


_ALLOWED: Final = (argparse.Namespace, *_numpy_scalars())


def convert_checkpoint(
    checkpoint: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    dtype: str = "float32",
    source: str | None = None,
    license: str | None = None,  # the word of the config file
) -> ModelConfig:
    """Convert a checkpoint in the authors' layout to a directory in the own format.

    Args:
        checkpoint: a `.pth` file; with or without `optimizer`, `args` and the like; attention names from before or
            after CLIP's surgery. The architecture is read off the shapes.
        out_dir: made if need be.
        dtype: of the stored weights: `"float32"`, `"float16"` or `"bfloat16"`. They are widened to float32 on loading.
        source: where the weights come from, for people; None: the file's name.
        license: of the weights; None: unknown.

    Returns:
        The configuration that was written.

    Raises:
        CheckpointNotFoundError: no such file.
        UnsafeCheckpointError: the pickle names a class or function that has no place in a checkpoint; nothing was run.
        CheckpointError: damaged, incomplete, or not an SSP-SAM checkpoint.
        StorageError: `out_dir` cannot be written, or has too little space.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
    path = Path(checkpoint)
    theirs = read_authors_state(path)
    dropped = unused(theirs)
    architecture = read_architecture({name: tuple(tensor.shape) for name, tensor in theirs.items()})
    state = _renamed(theirs, dropped)
    _require_whole(architecture, state, path)
    config = ModelConfig(architecture, source=source or path.name, license=license or "unknown")
    return save_checkpoint(out_dir, config, state, dtype)


def read_authors_state(path: Path) -> dict[str, Tensor]:
    """The mapped tensors of an authors' checkpoint, by their names.

    Raises:
        CheckpointNotFoundError, UnsafeCheckpointError, CheckpointError: as `convert_checkpoint`.
    """
    records = _check_archive(path)
    _check_globals(path)
    try:
        with torch.serialization.safe_globals(list(_ALLOWED)):
            content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}: {str(error)[:300]}") from error
    state = content.get("model", content) if isinstance(content, Mapping) else content
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(f"{path} holds no 'model' state; it is not an SSP-SAM checkpoint")
    prefix = "module." if all(str(name).startswith("module.") for name in state) else ""  # from DataParallel
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{path}: entry {str(name)[:80]!r} of the state is no tensor but {type(tensor)}")
        tensors[name.removeprefix(prefix)] = _checked_tensor(tensor, name, path)
    sizes = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors.values()}
    if Counter(sizes.values()) - records:
        raise CheckpointError(f"{path} is damaged: its index claims sizes that its records do not have")
    return tensors


def _checked_tensor(tensor: Tensor, name: str, path: Path) -> Tensor:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or not tensor.dtype.is_floating_point:
        raise CheckpointError(f"{path}: tensor {name!r} is {tensor.dtype}, {tensor.layout}; floating point is expected")
    return tensor.detach()


def _check_archive(path: Path) -> Counter[int]:
    """Refuse what is no sound torch archive; returns the sizes of its tensor records."""
    if not path.is_file():
        raise CheckpointNotFoundError(f"no such checkpoint file: {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            pickles = [name for name in names if name.endswith("/data.pkl")]
            if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
                raise CheckpointError(
                    f"{path} is a TorchScript archive (CLIP alone, perhaps), not an SSP-SAM checkpoint"
                )
            if len(pickles) != 1 or len(entries) > _MAX_RECORDS or len(set(names)) != len(names):
                raise CheckpointError(f"{path} is a zip archive, but not one that torch.save wrote")
            for entry in entries:
                if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                    raise CheckpointError(f"{path} is damaged: record {entry.filename[:100]!r} is compressed")
            if archive.getinfo(pickles[0]).file_size > _MAX_PICKLE_BYTES:
                raise CheckpointError(f"{path} is damaged: its index is larger than any checkpoint's")
            archive.read(pickles[0])  # checks its CRC
            folder = pickles[0].removesuffix("data.pkl") + "data/"
            return Counter(entry.file_size for entry in entries if entry.filename.startswith(folder))
    except CheckpointError:
        raise
    except zipfile.BadZipFile as error:
        raise CheckpointError(
            f"{path} is damaged or no checkpoint of torch.save: {error}. If it is whole but was written by torch "
            "1.5 or older, load and save it once with a current torch."
        ) from error
    except Exception as error:  # zipfile raises many kinds for hostile archives
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def _check_globals(path: Path) -> None:
    """Refuse a pickle that names anything beyond tensors and `_ALLOWED`; it is scanned, not run."""
    try:
        with torch.serialization.safe_globals(list(_ALLOWED)):
            named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception as error:  # a damaged pickle can raise anything
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}: {str(error)[:300]}") from error
    if named:
        raise UnsafeCheckpointError(
            f"{path} names {', '.join(sorted(named)[:10])}, which has no place in a checkpoint. It was not run. "
            "If you trust the file, load it with torch yourself and save its 'model' state alone."
        )


def _renamed(theirs: Mapping[str, Tensor], dropped: Mapping[str, str]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    strange: list[str] = []
    for name, tensor in theirs.items():
        if name in dropped:
            continue
        ours = our_name(name)
        if ours is None:
            strange.append(name)
        elif ours in state:
            raise CheckpointError(f"the checkpoint holds {ours} twice, the second time as {name!r}")
        else:
            state[ours] = tensor
    if strange:
        raise CheckpointError(f"the checkpoint has {len(strange)} tensors of no known use: {', '.join(strange[:10])}")
    return state


def _require_whole(architecture: Architecture, state: Mapping[str, Tensor], path: Path) -> None:
    with torch.device("meta"):
        model = SSPSAM(architecture)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    require_same_tensors(expected, {name: tuple(tensor.shape) for name, tensor in state.items()}, str(path))
