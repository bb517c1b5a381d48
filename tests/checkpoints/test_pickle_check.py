"""Hostile archives and pickles of authors' checkpoints: refused in bounded time and memory, and nothing is run."""

import io
import os
import pickle
import shutil
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.pickles import (
    CANARY,
    MAX_EXTRA_MEMORY,
    Calls,
    Maker,
    archive_records,
    conversions,
    doubled,
    in_model,
    long,
    pickle_name,
    text,
    with_entry,
    with_key,
    with_pickle,
    write_archive,
)


def _whole(operations: bytes) -> Maker:
    return lambda path, good: with_pickle(path, good, lambda _: b"\x80\x02" + operations + b".")


def _legacy(path: Path, good: Path) -> None:
    content = {"model": torch.load(good, weights_only=False)["model"], "x": Calls(os.system, CANARY)}
    torch.save(content, path, _use_new_zipfile_serialization=False)


def _bare(path: Path, good: Path) -> None:
    path.write_bytes(pickle.dumps({"model": Calls(os.system, CANARY)}))


def _tar(path: Path, good: Path) -> None:
    with tarfile.open(path, "w") as archive:
        data = pickle.dumps(Calls(os.system, CANARY))
        for name in ("pickle", "storages", "tensors", "sys_info"):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def _script(path: Path, good: Path) -> None:
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(str(path))


def _second_pickle(path: Path, good: Path) -> None:
    records = archive_records(good)
    folder = pickle_name(records).removesuffix("data.pkl")
    write_archive(path, {folder + "sub/data.pkl": pickle.dumps(Calls(os.system, CANARY)), **records})


def _other_case(path: Path, good: Path) -> None:
    records = archive_records(good)
    name = pickle_name(records)
    evil = b"\x80\x02cposix\nsystem\n" + text(CANARY) + b"\x85R."
    write_archive(path, {name.replace("data.pkl", "DATA.PKL"): evil, **records})


def _duplicate(path: Path, good: Path) -> None:
    shutil.copy(good, path)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr(pickle_name(archive_records(good)), b"\x80\x02cposix\nsystem\n" + text(CANARY) + b"\x85R.")


def _compressed(path: Path, good: Path) -> None:
    write_archive(path, archive_records(good), zipfile.ZIP_DEFLATED)


def _zip_bomb(path: Path, good: Path) -> None:
    records = archive_records(good)
    write_archive(path, records | {pickle_name(records): b"\x80\x02" + bytes(64 << 20)}, zipfile.ZIP_DEFLATED)


def _storage(numel: bytes = b"K\x10", key: str = "0") -> bytes:
    return b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + numel + b"tQ"


def _rebuild(offset: bytes, size: bytes, stride: bytes, storage: bytes = b"") -> Maker:
    """A model of one tensor, with these arguments."""
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + (storage or _storage()) + offset + size + stride + b"\x89"
    call += b"ccollections\nOrderedDict\n)RtR"
    return _whole(b"}" + text("model") + b"}" + text("clip_proj.weight") + call + b"ss")


def _resized_by_build(path: Path, good: Path) -> None:
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + _storage() + b"K\x00K\x04\x85K\x01\x85\x89"
    tensor += b"ccollections\nOrderedDict\n)RtR"
    state = b"(" + _storage() + b"K\x00" + long(1 << 40) + b"\x85K\x01\x85t"
    _whole(b"}" + text("model") + b"}" + text("w") + tensor + state + b"bss")(path, good)


def _bytes_doubled(levels: int) -> bytes:
    operations = text("a")
    for _ in range(levels):
        operations = b"c_codecs\nencode\n" + operations + text("hex") + b"\x86R"
    return operations


def _numpy_reserve() -> bytes:
    """2 GB of zeros out of ninety bytes: a NumPy scalar without its value."""
    kind = b"cnumpy\ndtype\n" + text("V2000000000") + b"\x85R"
    return b"cnumpy._core.multiarray\nscalar\n" + kind + b"\x85R"


def _cycle_of_lists(count: int) -> bytes:
    put, get = (lambda n: b"r" + struct.pack("<I", 9_000_000 + n)), (lambda n: b"j" + struct.pack("<I", 9_000_000 + n))
    operations = b"]" + b"".join(b"]" + put(n) + b"a" for n in range(count))
    for n in range(count - 1, -1, -1):
        operations += get(n) + b"(" + get(max(0, n - 1)) * 2 + b"ea"
    return operations


DAMAGED: dict[str, Maker] = {
    "a legacy file": _legacy,
    "a bare pickle": _bare,
    "a tar archive": _tar,
    "a TorchScript archive": _script,
    "a second pickle in the archive": _second_pickle,
    "a pickle of another case": _other_case,
    "a pickle twice": _duplicate,
    "compressed records": _compressed,
    "a zip bomb": _zip_bomb,
    "an empty file": lambda path, good: path.write_bytes(b""),
    "an empty archive": lambda path, good: write_archive(path, {}),
    "text": lambda path, good: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
    "no model": lambda path, good: torch.save({"epoch": 3}, path),
    "a list": lambda path, good: torch.save([torch.ones(2)], path),
    "an empty model": lambda path, good: torch.save({"model": {}}, path),
    "a tensor": lambda path, good: torch.save(torch.ones(2), path),
    "a huge size": _rebuild(b"K\x00", long(1 << 40) + b"\x85", b"K\x01\x85"),
    "a huge size with stride 0": _rebuild(b"K\x00", (long(1 << 31) * 2) + b"\x86", b"K\x00K\x00\x86"),
    "a size that overflows": _rebuild(b"K\x00", (long(1 << 62) * 2) + b"\x86", b"K\x00K\x00\x86"),
    "a negative size": _rebuild(b"K\x00", long(-4) + b"\x85", b"K\x01\x85"),
    "a negative stride": _rebuild(b"K\x08", b"K\x04\x85", long(-1) + b"\x85"),
    "a negative offset": _rebuild(long(-8), b"K\x04\x85", b"K\x01\x85"),
    "an offset out of bounds": _rebuild(long(1 << 40), b"K\x04\x85", b"K\x01\x85"),
    "an offset that overflows": _rebuild(long(1 << 80), b"K\x04\x85", b"K\x01\x85"),
    "a storage of absurd size": _rebuild(b"K\x00", b"K\x04\x85", b"K\x01\x85", _storage(long(1 << 60))),
    "a storage larger than its record": _rebuild(b"K\x00", b"K\x04\x85", b"K\x01\x85", _storage(b"M\xff\xff")),
    "a storage of negative size": _rebuild(b"K\x00", b"K\x04\x85", b"K\x01\x85", _storage(long(-16))),
    "a storage of no record": _rebuild(b"K\x00", b"K\x04\x85", b"K\x01\x85", _storage(key="../../etc/passwd")),
    "a storage that is none": _rebuild(b"K\x00", b"K\x04\x85", b"K\x01\x85", b"}"),
    "resizing by BUILD": _resized_by_build,
    "tuples doubled as a value": with_entry(doubled(60)),
    "tuples doubled as a key": with_key(doubled(40)),
    "tuples doubled as a function": with_entry(doubled(40) + b")R"),
    "tuples doubled as a record's name": with_entry(
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + doubled(40) + text("cpu") + b"K\x04tQ"
    ),
    "lists doubled": with_entry(doubled(40, kind="list") + b")R"),
    "long text doubled": with_entry(doubled(30, text("ha" * 100_000))),
    "a large key again and again": with_entry(
        b"}" + doubled(20) + b"r" + struct.pack("<I", 8_000_000) + b"Ns"
        + (b"j" + struct.pack("<I", 8_000_000) + b"Ns") * 100_000
    ),
    "bytes doubled": with_entry(_bytes_doubled(60)),
    "NumPy numbers without a value, as the model": _whole(
        b"}" + text("model") + b"}" + b"".join(text(str(n)) + _numpy_reserve() + b"s" for n in range(40)) + b"s"
    ),
    "tuples nested deeply as a key": with_key(b")" + b"\x85" * 1_000_000),
    "lists nested deeply": with_entry(b"(" + b"](" * 200_000 + b"e" * 200_000 + b"t"),
    "a list in itself": with_entry(b"]r\x00\x00\x00\x7fj\x00\x00\x00\x7fa"),
    "lists in each other": with_entry(_cycle_of_lists(40)),
    "a memo of four thousand million": with_entry(b"Nr\xff\xff\xff\xffj\xfe\xff\xff\xff"),
    "millions of values": with_entry(b"(" + b"]" * 4_000_000 + b"t"),
    "a stack that runs empty": with_entry(b"RRRR"),
    "a mark too few": with_entry(b"tttt"),
    "no end": lambda path, good: with_pickle(path, good, lambda pickled: pickled[:-1]),
    "an endless text": with_entry(b"X\xff\xff\xff\xff"),
    "text that is no UTF-8": with_entry(b"X\x02\x00\x00\x00\xff\xfe"),
    "an attribute in the place of get": _whole(
        b"ccollections\nOrderedDict\n)R" + b"}" + text("get") + b"ctorch._utils\n_rebuild_tensor_v2\nsb"
    ),
    "protocol 4": lambda path, good: torch.save(torch.load(good, weights_only=False), path, pickle_protocol=4),
    "a tensor of no use": lambda path, good: in_model(torch.eye(3))(path, good),
    "a sparse tensor": lambda path, good: in_model(torch.eye(3).to_sparse())(path, good),
    "whole numbers": in_model(torch.ones(3, dtype=torch.int64)),
    "complex numbers": in_model(torch.ones(3, dtype=torch.complex64)),
}  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(authors_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """The outcome of converting each file."""
    return conversions(DAMAGED, authors_file, tmp_path_factory.mktemp("files"))


@pytest.mark.parametrize("name", DAMAGED)
def test_a_hostile_file_is_refused_in_bounded_time_and_memory(name: str, outcomes: dict[str, list[Any]]) -> None:
    kind, message, seconds, grown, wrote = outcomes[name]
    assert kind == "SSPSAMError", f"{kind} {message}"
    assert len(message) < 1500
    assert not wrote
    assert seconds < 15
    assert grown < MAX_EXTRA_MEMORY
