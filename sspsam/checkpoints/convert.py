"""The authors' `.pth` checkpoints to the own format, without running anything that such a file may name.

A `.pth` file is a pickle inside a zip archive. Before anything is unpickled, the archive's structure is checked and
every class and function that the pickle names is compared with a short list; the file's tensors are mapped, not read.
"""

import logging
import os
import threading
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from sspsam.checkpoints.authors_layout import our_name, read_architecture, unused
from sspsam.checkpoints.format import require_same_tensors, save_checkpoint
from sspsam.checkpoints.pickle_check import check_pickle
from sspsam.config import Architecture, ModelConfig
from sspsam.devices import dtype_name
from sspsam.errors import CheckpointError, CheckpointNotFoundError
from sspsam.models import SSPSAM

_MAX_RECORDS: Final = 20_000
_MAX_PICKLE_BYTES: Final = 8 << 20  # the published files have less than one


class _Ignored:
    """Stands for what a training run keeps beside the tensors: takes anything, does nothing."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


# training options and NumPy numbers, under the names of NumPy 2 and 1; nothing needs their values, so neither
# library's own code ever sees what the file says about them
_EXTRAS: Final = (
    "argparse.Namespace",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
)
_STORAGES: Final = ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Short", "Char", "Byte", "Bool")
_DTYPES: Final = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
# less than `weights_only` allows: it also calls constructors that reserve as much memory as they are told to
_ALLOWED: Final = frozenset(
    [
        *_EXTRAS,
        *(f"torch.{kind}Storage" for kind in _STORAGES),
        *(f"torch.{kind}" for kind in _DTYPES),
        "_codecs.encode",  # NumPy's bytes
        "__builtin__.set",
        "collections.Counter",
        "collections.OrderedDict",
        "torch.Size",
        "torch.device",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_tensor_v2",
    ]
)


_LOG: Final = logging.getLogger(__name__)
_LOADING: Final = threading.Lock()  # torch keeps what it may unpickle for the whole process


def convert_checkpoint(
    checkpoint: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    dtype: str | torch.dtype = "float32",
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
    dtype = dtype_name(dtype)
    path = Path(checkpoint)
    theirs = read_authors_state(path)
    dropped = unused(theirs)
    for why in dict.fromkeys(dropped.values()):
        names = [name for name in dropped if dropped[name] == why]
        _LOG.info("left out: %s (%s)", ", ".join(names), why)
    try:
        architecture = read_architecture({name: tuple(tensor.shape) for name, tensor in theirs.items()})
        state = _renamed(theirs, dropped)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    _require_whole(architecture, state, path)
    config = ModelConfig(architecture, source=source or path.name, license=license or "unknown")
    return save_checkpoint(out_dir, config, state, dtype)


def read_authors_state(path: Path) -> dict[str, Tensor]:
    """The mapped tensors of an authors' checkpoint, by their names.

    Raises:
        CheckpointNotFoundError, UnsafeCheckpointError, CheckpointError: as `convert_checkpoint`.
    """
    records = _check_archive(path)
    try:
        with _LOADING, torch.serialization.safe_globals([(_Ignored, name) for name in _EXTRAS]):
            content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}: {str(error)[:300]}") from error
    # dict's own methods: the file can give an OrderedDict attributes that hide them
    state = dict.get(content, "model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not dict.__len__(state):
        raise CheckpointError(f"{path} holds no 'model' state; it is not an SSP-SAM checkpoint")
    prefix = "module." if all(str(name).startswith("module.") for name in dict.keys(state)) else ""  # from DataParallel
    tensors: dict[str, Tensor] = {}
    for name, tensor in dict.items(state):
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{path}: entry {str(name)[:80]!r} of the state is no tensor but {type(tensor)}")
        tensors[name.removeprefix(prefix)] = _checked_tensor(tensor, name, path)
    sizes = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors.values()}
    if Counter(sizes.values()) - records:
        raise CheckpointError(f"{path} is damaged: its index claims sizes that its records do not have")
    return tensors


def _checked_tensor(tensor: Tensor, name: str, path: Path) -> Tensor:
    name = name[:200]
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or not tensor.dtype.is_floating_point:
        raise CheckpointError(f"{path}: tensor {name!r} is {tensor.dtype}, {tensor.layout}; floating point is expected")
    if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
        # strides of 0 would let a small file claim terabytes
        raise CheckpointError(f"{path}: tensor {name!r} claims shape {list(tensor.shape)}, more than the file holds")
    return tensor.detach()


def _check_archive(path: Path) -> Counter[int]:
    """Refuse what is no sound and harmless torch archive; returns the sizes of its tensor records."""
    if not os.path.isfile(path):
        kind = " (it is a directory)" if os.path.isdir(path) else ""
        raise CheckpointNotFoundError(f"no such checkpoint file: {str(path)[:300]}{kind}")
    try:
        with zipfile.ZipFile(path) as archive:
            pickle, records = _check_records(archive, path)
        with path.open("rb") as file:  # torch has its own reader of zip archives; both must see the same pickle
            same = torch._C.PyTorchFileReader(file).get_record("data.pkl") == pickle
    except CheckpointError:
        raise
    except zipfile.BadZipFile as error:
        raise CheckpointError(
            f"{path} is damaged or no checkpoint of torch.save: {error}. If it is whole but was written by torch "
            "1.5 or older, load and save it once with a current torch."
        ) from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # zipfile raises many kinds for hostile archives
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}: {str(error)[:300]}") from error
    if not same:
        raise CheckpointError(f"{path} is a zip archive that can be read in two ways")
    check_pickle(pickle, _ALLOWED, path)
    return records


def _check_records(archive: zipfile.ZipFile, path: Path) -> tuple[bytes, Counter[int]]:
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    pickles = [name for name in names if name.endswith("/data.pkl")]
    if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(f"{path} is a TorchScript archive (CLIP alone, perhaps), not an SSP-SAM checkpoint")
    if len(pickles) != 1 or len(entries) > _MAX_RECORDS or len(set(names)) != len(names):
        raise CheckpointError(f"{path} is a zip archive, but not one that torch.save wrote")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise CheckpointError(f"{path} is damaged: record {entry.filename[:100]!r} is compressed")
    if archive.getinfo(pickles[0]).file_size > _MAX_PICKLE_BYTES:
        raise CheckpointError(f"{path} is damaged: its index is larger than any checkpoint's")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise CheckpointError(f"{path} is damaged: its records overlap")
    damaged = archive.testzip()  # reads everything once; converting does so anyway
    if damaged is not None:
        raise CheckpointError(f"{path} is damaged: record {damaged[:100]!r} does not fit its checksum")
    folder = pickles[0].removesuffix("data.pkl") + "data/"
    sizes = Counter(entry.file_size for entry in entries if entry.filename.startswith(folder))
    return archive.read(pickles[0]), sizes


def _renamed(theirs: Mapping[str, Tensor], dropped: Mapping[str, str]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    strange: list[str] = []
    for name, tensor in theirs.items():
        if name in dropped:
            continue
        ours = our_name(name)
        if ours is None:
            strange.append(name[:200])
        elif ours in state:
            raise CheckpointError(f"the checkpoint holds {ours[:200]} twice, the second time as {name[:200]!r}")
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
