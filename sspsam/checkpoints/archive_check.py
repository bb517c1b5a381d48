"""Checks of the zip archive that `torch.save` writes, before anything in it is unpickled."""

import os
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from sspsam.checkpoints.directory import has_tensors_of_the_library
from sspsam.checkpoints.file_content import foreign_content, require_utf8_name
from sspsam.checkpoints.private_apis import index_as_torch_reads_it
from sspsam.errors import CheckpointError, CheckpointNotFoundError
from sspsam.utils.file_kinds import SAFETENSORS, missing_target
from sspsam.utils.paths import shown

_MAX_RECORDS: Final = 20_000
_MAX_PICKLE_BYTES: Final = 8 << 20  # the published files have less than one
_PICKLE: Final = "data.pkl"
_HEADER_BYTES: Final = 30  # of the header before each record, without name and padding
_BLOCK_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class CheckedArchive:
    """The parts of a sound archive that later checks need.

    Args:
        index: the pickle, `data.pkl`.
        records: position and size in bytes of each record of tensor data in the file, by its key in the pickle.
    """

    index: bytes
    records: Mapping[str, tuple[int, int]]


def check_archive(path: Path, *, is_script: bool = False) -> CheckedArchive:
    """Check that a file is an archive as `torch.save` writes it and that PyTorch reads the same pickle from it.

    Args:
        path: of the file.
        is_script: whether the file is one of TorchScript, which holds code, too; the code is not read.

    Raises:
        CheckpointNotFoundError: no such file.
        CheckpointError: not such an archive, damaged, or one that two readers of zip archives read differently.
    """
    if not os.path.isfile(path):
        kind = " (it is a directory)" if os.path.isdir(path) else " (it is not a regular file)"
        kind = kind if os.path.exists(path) else missing_target(path)
        raise CheckpointNotFoundError(f"no such checkpoint file: {shown(path)}{kind}")
    require_utf8_name(path)
    try:
        content = foreign_content(path, "zip")
        if content:
            advice = _advice_for_safetensors(path) if content == SAFETENSORS else ""
            raise CheckpointError(f"{shown(path)} {content}.{advice}")
        with zipfile.ZipFile(path) as archive:
            checked = _check_records(archive, path, is_script)
        same = index_as_torch_reads_it(path) == checked.index  # PyTorch has its own reader of zip archives
    except CheckpointError:
        raise
    except zipfile.BadZipFile as error:
        raise CheckpointError(
            f"{shown(path)} is damaged or was not written by torch.save: {shown(error)}. If the file is complete but "
            "was written by torch 1.5 or older, load and save it once with a current torch."
        ) from error
    except OSError as error:
        raise CheckpointError(f"cannot read {shown(path)}: {error.strerror or error}") from error
    except Exception as error:  # zipfile raises many kinds for hostile archives
        raise CheckpointError(f"{shown(path)} is damaged: {type(error).__name__}: {shown(error)}") from error
    if not same:
        raise CheckpointError(f"{shown(path)} is a zip archive from which Python and PyTorch read different contents")
    return checked


def _advice_for_safetensors(path: Path) -> str:
    if has_tensors_of_the_library(path):
        return f" It is converted already; load it by its folder: {shown(path.parent)}"
    return (
        " The authors' .pth files can be converted. For these tensors, write such a file first: "
        "torch.save(safetensors.torch.load_file(FILE), 'checkpoint.pth')"
    )


def _check_records(archive: zipfile.ZipFile, path: Path, is_script: bool) -> CheckedArchive:
    entries = archive.infolist()
    pickle = _name_of_pickle([entry.filename for entry in entries], path, is_script)
    folder = pickle.removesuffix(_PICKLE)
    if is_script:  # code is compressed
        entries = [entry for entry in entries if not entry.filename.startswith(f"{folder}code/")]
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise CheckpointError(f"{shown(path)} is damaged: record '{shown(entry.filename)}' is compressed")
    if archive.getinfo(pickle).file_size > _MAX_PICKLE_BYTES:
        raise CheckpointError(f"{shown(path)} is damaged: its data.pkl is larger than that of any checkpoint")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise CheckpointError(f"{shown(path)} is damaged: its records overlap")
    for entry in entries:  # reads the whole file once, as the conversion does afterwards
        if not _fits_checksum(archive, entry):
            raise CheckpointError(
                f"{shown(path)} is damaged: record '{shown(entry.filename)}' does not fit its checksum"
            )
    data = f"{folder}data/"
    with path.open("rb") as file:
        records = {
            entry.filename.removeprefix(data): (_start_of(entry, file), entry.file_size)
            for entry in entries
            if entry.filename.startswith(data)
        }
    return CheckedArchive(archive.read(pickle), records)


def _start_of(entry: zipfile.ZipInfo, file: BinaryIO) -> int:
    """The position of a record's data, behind its name and its padding, which the header before it counts."""
    file.seek(entry.header_offset)
    name_length, padding = struct.unpack("<26xHH", file.read(_HEADER_BYTES))
    return entry.header_offset + _HEADER_BYTES + int(name_length) + int(padding)


def _fits_checksum(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(entry) as record:
            while record.read(_BLOCK_BYTES):
                pass
    except zipfile.BadZipFile:
        return False
    return True


def _name_of_pickle(names: list[str], path: Path, is_script: bool) -> str:
    """The name of the only pickle among the records of an archive."""
    if not is_script and any("/code/" in name or name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(
            f"{shown(path)} is a TorchScript archive (CLIP alone, perhaps), not an SSP-SAM checkpoint; for CLIP, give "
            "it with --clip (clip= in Python)"
        )
    pickles = [name for name in names if name.endswith(f"/{_PICKLE}")]
    if len(pickles) != 1 or len(names) > _MAX_RECORDS or len(set(names)) != len(names):
        raise CheckpointError(f"{shown(path)} is a zip archive, but not one that torch.save wrote")
    return pickles[0]
