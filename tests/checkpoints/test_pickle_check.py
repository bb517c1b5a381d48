"""Damaged and hostile checkpoints: each is refused with an `SSPSAMError`, runs nothing, and costs little."""

import collections
import functools
import hashlib
import importlib
import io
import json
import operator
import os
import pickle
import random
import resource
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.authors_checkpoint import authors_state, tiny_architecture, write_checkpoint
from sspsam.checkpoints.convert import convert_checkpoint
from sspsam.checkpoints.format import load_checkpoint
from sspsam.config import ModelConfig
from sspsam.errors import (
    CheckpointError,
    ConfigError,
    DigestMismatchError,
    SSPSAMError,
    UnsafeCheckpointError,
)

_MAX_EXTRA_MEMORY = 700 << 20  # bytes, above what importing takes
_LAYOUT_FILES = ("config.json", "model.safetensors")


@pytest.fixture(scope="module")
def authors_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound authors' checkpoint with a small vocabulary, so that hundreds of copies stay cheap."""
    state = authors_state(tiny_architecture(vocab_size=64))
    return write_checkpoint(tmp_path_factory.mktemp("hostile") / "good.pth", state)


@pytest.fixture(scope="module")
def own_checkpoint(authors_file: Path) -> Path:
    directory = authors_file.with_name("own")
    convert_checkpoint(authors_file, directory)
    return directory


# ---- making archives and pickles by hand


def _records(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _write_records(path: Path, records: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in records.items():
            archive.writestr(name, data)


def _pickle_name(records: dict[str, bytes]) -> str:
    [name] = [name for name in records if name.endswith("/data.pkl")]
    return name


def _with_pickle(path: Path, good: Path, change: Callable[[bytes], bytes]) -> None:
    """The good archive with another index, checksums right."""
    records = _records(good)
    name = _pickle_name(records)
    _write_records(path, records | {name: change(records[name])})


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def _with_entry(operations: bytes) -> Callable[[Path, Path], None]:
    """A good checkpoint whose top dictionary has one more value, made by `operations`."""

    def make(path: Path, good: Path) -> None:
        _with_pickle(path, good, lambda pickled: pickled[:-1] + _text("extra") + operations + b"s.")

    return make


def _with_key(operations: bytes) -> Callable[[Path, Path], None]:
    return lambda path, good: _with_pickle(path, good, lambda pickled: pickled[:-1] + operations + b"Ns.")


def _whole(operations: bytes) -> Callable[[Path, Path], None]:
    return lambda path, good: _with_pickle(path, good, lambda _: b"\x80\x02" + operations + b".")


def _doubled(levels: int, leaf: bytes = b"K\x01", kind: str = "tuple") -> bytes:
    """A container that holds the previous container twice, nested `levels` times."""
    get, put = (lambda n: b"j" + struct.pack("<I", 9_000_000 + n)), (lambda n: b"r" + struct.pack("<I", 9_000_000 + n))
    operations = leaf + put(0)
    for level in range(levels):
        if kind == "tuple":
            operations += get(level) + b"\x86" + put(level + 1)
        else:
            operations = operations + b"\x85" if level == 0 else operations
            operations += b"](" + get(level) + get(level) + b"e" + put(level + 1)
    return operations


class _Calls:
    """Pickles as a call of any function; the canary is what the call would touch."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


class HasState:
    """A class of the program itself, which a pickle would fill with any state."""

    def __setstate__(self, state: str) -> None:
        os.system(state)


class Options(collections.OrderedDict[str, object]):
    """Options of a training run."""


def function_of_a_program(command: str) -> None:
    os.system(command)


CANARY = "touch CANARY"
PYTHON = "open('CANARY', 'w').close()"


def _beside(value: Any) -> Callable[[Path, Path], None]:
    return lambda path, good: torch.save({"model": torch.load(good, weights_only=False)["model"], "x": value}, path)


def _in_model(value: Any) -> Callable[[Path, Path], None]:
    def make(path: Path, good: Path) -> None:
        state = torch.load(good, weights_only=False)["model"]
        torch.save({"model": state | {"hidden": value}}, path)

    return make


def _in_args(value: Any) -> Callable[[Path, Path], None]:
    def make(path: Path, good: Path) -> None:
        content = torch.load(good, weights_only=False)
        content["args"].dataset = value
        torch.save(content, path)

    return make


def _in_optimizer(value: Any) -> Callable[[Path, Path], None]:
    def make(path: Path, good: Path) -> None:
        content = torch.load(good, weights_only=False)
        content["optimizer"]["state"][0] = {"step": [value]}
        torch.save(content, path)

    return make


class _Subclass(torch.Tensor):
    def __reduce_ex__(self, protocol: object) -> Any:
        return os.system, (CANARY,)


def _legacy(path: Path, good: Path) -> None:
    content = {"model": torch.load(good, weights_only=False)["model"], "x": _Calls(os.system, CANARY)}
    torch.save(content, path, _use_new_zipfile_serialization=False)


def _bare(path: Path, good: Path) -> None:
    path.write_bytes(pickle.dumps({"model": _Calls(os.system, CANARY)}))


def _tar(path: Path, good: Path) -> None:
    with tarfile.open(path, "w") as archive:
        data = pickle.dumps(_Calls(os.system, CANARY))
        for name in ("pickle", "storages", "tensors", "sys_info"):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def _script(path: Path, good: Path) -> None:
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(str(path))


def _second_pickle(path: Path, good: Path) -> None:
    records = _records(good)
    folder = _pickle_name(records).removesuffix("data.pkl")
    _write_records(path, {folder + "sub/data.pkl": pickle.dumps(_Calls(os.system, CANARY)), **records})


def _other_case(path: Path, good: Path) -> None:
    records = _records(good)
    name = _pickle_name(records)
    evil = b"\x80\x02cposix\nsystem\n" + _text(CANARY) + b"\x85R."
    _write_records(path, {name.replace("data.pkl", "DATA.PKL"): evil, **records})


def _duplicate(path: Path, good: Path) -> None:
    shutil.copy(good, path)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr(_pickle_name(_records(good)), b"\x80\x02cposix\nsystem\n" + _text(CANARY) + b"\x85R.")


def _compressed(path: Path, good: Path) -> None:
    _write_records(path, _records(good), zipfile.ZIP_DEFLATED)


def _zip_bomb(path: Path, good: Path) -> None:
    records = _records(good)
    _write_records(path, records | {_pickle_name(records): b"\x80\x02" + bytes(64 << 20)}, zipfile.ZIP_DEFLATED)


def _storage(numel: bytes = b"K\x10", key: str = "0") -> bytes:
    return b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + _text(key) + _text("cpu") + numel + b"tQ"


def _rebuild(offset: bytes, size: bytes, stride: bytes, storage: bytes = b"") -> Callable[[Path, Path], None]:
    """A model of one tensor, with these arguments."""
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + (storage or _storage()) + offset + size + stride + b"\x89"
    call += b"ccollections\nOrderedDict\n)RtR"
    return _whole(b"}" + _text("model") + b"}" + _text("clip_proj.weight") + call + b"ss")


def _resized_by_build(path: Path, good: Path) -> None:
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + _storage() + b"K\x00K\x04\x85K\x01\x85\x89"
    tensor += b"ccollections\nOrderedDict\n)RtR"
    state = b"(" + _storage() + b"K\x00" + _long(1 << 40) + b"\x85K\x01\x85t"
    _whole(b"}" + _text("model") + b"}" + _text("w") + tensor + state + b"bss")(path, good)


def _long(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def _bytes_doubled(levels: int) -> bytes:
    operations = _text("a")
    for _ in range(levels):
        operations = b"c_codecs\nencode\n" + operations + _text("hex") + b"\x86R"
    return operations


def _numpy_reserve() -> bytes:
    """2 GB of zeros out of ninety bytes: a NumPy scalar without its value."""
    kind = b"cnumpy\ndtype\n" + _text("V2000000000") + b"\x85R"
    return b"cnumpy._core.multiarray\nscalar\n" + kind + b"\x85R"


def _cycle_of_lists(count: int) -> bytes:
    put, get = (lambda n: b"r" + struct.pack("<I", 9_000_000 + n)), (lambda n: b"j" + struct.pack("<I", 9_000_000 + n))
    operations = b"]" + b"".join(b"]" + put(n) + b"a" for n in range(count))
    for n in range(count - 1, -1, -1):
        operations += get(n) + b"(" + get(max(0, n - 1)) * 2 + b"ea"
    return operations


_SYSTEM = _text(CANARY) + b"\x85R"

UNSAFE: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "os.system": (_beside(_Calls(os.system, CANARY)), "posix.system"),
    "os.system by its alias": (_with_entry(b"cos\nsystem\n" + _SYSTEM), "os.system"),
    "builtins.eval": (_beside(_Calls(eval, PYTHON)), "eval"),
    "builtins.exec": (_beside(_Calls(exec, PYTHON)), "exec"),
    "builtins.getattr": (_beside(_Calls(getattr, {}, "get")), "getattr"),
    "getattr as a value": (_beside(getattr), "getattr"),
    "getattr of a function": (_beside(_Calls(getattr, function_of_a_program, "__globals__")), "__globals__"),
    "getattr of a method": (_beside(_Calls(getattr, Options, "update")), "Options.update"),
    "getattr of getattr": (
        _with_entry(b"cbuiltins\ngetattr\ncbuiltins\ngetattr\n" + _text("__self__") + b"\x86R"), "getattr.__self__",
    ),
    "getattr of a module": (_with_entry(b"cbuiltins\ngetattr\ncposix\nX\n" + _text("system") + b"\x86R"), "posix.X"),
    "getattr with a default": (_beside(_Calls(getattr, Options, "Inner", 3)), "getattr"),
    "getattr of a dotted name": (_beside(_Calls(getattr, Options, "Inner.x")), "getattr"),
    "getattr once right and once not": (
        _beside([_Calls(getattr, Options, "Inner"), _Calls(getattr, {}, "get")]), "getattr",
    ),
    "builtins.__import__": (_beside(_Calls(__import__, "antigravity")), "__import__"),
    "builtins.open": (_beside(_Calls(open, "CANARY", "w")), "open"),
    "subprocess.Popen": (_with_entry(b"csubprocess\nPopen\n" + _SYSTEM), "subprocess.Popen"),
    "functools.partial": (_beside(functools.partial(os.system, CANARY)), "functools.partial"),
    "operator.attrgetter": (_beside(_Calls(operator.attrgetter("__class__.__base__"), "")), "operator.attrgetter"),
    "importlib.import_module": (_beside(_Calls(importlib.import_module, "antigravity")), "importlib.import_module"),
    "a class of the main program": (_with_entry(b"c__main__\nHasState\n)\x81" + _text(CANARY) + b"b"), "__main__"),
    "a class with __setstate__": (_beside(_Calls(HasState, state=CANARY)), "HasState"),
    "torch.hub.load": (_beside(_Calls(torch.hub.load, "nobody/nothing", "x")), "torch.hub.load"),
    "torch.load": (_beside(_Calls(torch.load, "other.pth")), "torch.serialization.load"),
    "torch.jit.load": (_beside(_Calls(torch.jit.load, "other.pt")), "torch.jit"),
    "a whole torch module": (_beside(torch.nn.Linear(1, 1)), "torch.nn.modules.linear.Linear"),
    "numpy.load": (_beside(_Calls(np.load, "x.npy")), "numpy.load"),
    "a NumPy array of objects": (_in_model(np.array([_Calls(os.system, CANARY)], dtype=object)), "posix.system"),
    "a NumPy array": (_in_model(np.ones(3)), "_reconstruct"),
    "a pickle in a NumPy scalar": (
        _with_entry(b"cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\n" + _text("O8") + b"\x85Rcposix\nsystem\n"
                    + _SYSTEM + b"\x86R"),
        "posix.system",
    ),
    "in the optimizer": (_in_optimizer(_Calls(os.system, CANARY)), "posix.system"),
    "in the arguments": (_in_args(_Calls(os.system, CANARY)), "posix.system"),
    "in the model": (_in_model(_Calls(os.system, CANARY)), "posix.system"),
    "a tensor subclass": (_in_model(torch.ones(2).as_subclass(_Subclass)), "posix.system"),
    "a dotted name by STACK_GLOBAL": (
        _with_entry(b"\x8c\x02os\x8c\x0bpath.system\x93" + _SYSTEM), "os.path.system",
    ),
    "a name in parts by STACK_GLOBAL": (_with_entry(_text("posix") + _text("system") + b"\x93" + _SYSTEM), "posix"),
    "INST": (_with_entry(b"(" + _text(CANARY) + b"iposix\nsystem\n"), "posix.system"),
    "EXT1": (_with_entry(b"\x82\xf0" + _SYSTEM), "extension 240"),
    "EXT4": (_with_entry(b"\x84\xf0\x00\x00\x00" + _SYSTEM), "extension 240"),
    "a name that never is called": (_with_entry(b"cposix\nsystem\n"), "posix.system"),
    "a name after the last value": (_with_entry(b"cposix\nsystem\n" + b"\xff"), "posix.system"),
    "an import by _rebuild_from_type_v2": (
        _with_entry(b"ctorch._tensor\n_rebuild_from_type_v2\n(cbuiltins\nprint\nK\x01)NtR"), "_rebuild_from_type_v2",
    ),
    "reserving memory by a storage": (
        _with_entry(b"ctorch.storage\nUntypedStorage\n" + _long(1 << 36) + b"\x85R"), "torch.storage.UntypedStorage",
    ),
    "reserving memory by a tensor": (
        _with_entry(b"ctorch\nFloatTensor\n" + _long(1 << 36) + b"\x85R"), "torch.FloatTensor",
    ),
    "a function of a program": (_beside(_Calls(function_of_a_program, CANARY)), "function_of_a_program"),
    "a function of another package": (_with_entry(b"ccloudpickle\nloads\n" + _SYSTEM), "cloudpickle.loads"),
    "a class of the standard library that runs programs": (_beside(_Calls(Popen, CANARY)), ".Popen"),
    "a class of PyTorch as a value": (_beside(torch.nn.Linear), "torch.nn.modules.linear.Linear"),
    "a name of Python 2": (_with_entry(b"ccommands\nGetOutput\n" + _SYSTEM), "commands.GetOutput"),
    "a class given a number as its state": (_with_entry(b"cprogram\nState\n)\x81K\x01b"), "program.State.__setstate__"),
    "a class in the place of a tensor": (_in_model(Options(a=1)), "Options"),
}  # fmt: skip

DAMAGED: dict[str, Callable[[Path, Path], None]] = {
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
    "an empty archive": lambda path, good: _write_records(path, {}),
    "text": lambda path, good: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
    "no model": lambda path, good: torch.save({"epoch": 3}, path),
    "a list": lambda path, good: torch.save([torch.ones(2)], path),
    "an empty model": lambda path, good: torch.save({"model": {}}, path),
    "a tensor": lambda path, good: torch.save(torch.ones(2), path),
    "a huge size": _rebuild(b"K\x00", _long(1 << 40) + b"\x85", b"K\x01\x85"),
    "a huge size with stride 0": _rebuild(b"K\x00", (_long(1 << 31) * 2) + b"\x86", b"K\x00K\x00\x86"),
    "a size that overflows": _rebuild(b"K\x00", (_long(1 << 62) * 2) + b"\x86", b"K\x00K\x00\x86"),
    "a negative size": _rebuild(b"K\x00", _long(-4) + b"\x85", b"K\x01\x85"),
    "a negative stride": _rebuild(b"K\x08", b"K\x04\x85", _long(-1) + b"\x85"),
    "a negative offset": _rebuild(_long(-8), b"K\x04\x85", b"K\x01\x85"),
    "an offset out of bounds": _rebuild(_long(1 << 40), b"K\x04\x85", b"K\x01\x85"),
    "an offset that overflows": _rebuild(_long(1 << 80), b"K\x04\x85", b"K\x01\x85"),
    "a storage of absurd size": _rebuild(b"K\x00", b"K\x04\x85", b"K\x01\x85", _storage(_long(1 << 60))),
    "a storage larger than its record": _rebuild(b"K\x00", b"K\x04\x85", b"K\x01\x85", _storage(b"M\xff\xff")),
    "a storage of negative size": _rebuild(b"K\x00", b"K\x04\x85", b"K\x01\x85", _storage(_long(-16))),
    "a storage of no record": _rebuild(b"K\x00", b"K\x04\x85", b"K\x01\x85", _storage(key="../../etc/passwd")),
    "a storage that is none": _rebuild(b"K\x00", b"K\x04\x85", b"K\x01\x85", b"}"),
    "resizing by BUILD": _resized_by_build,
    "tuples doubled as a value": _with_entry(_doubled(60)),
    "tuples doubled as a key": _with_key(_doubled(40)),
    "tuples doubled as a function": _with_entry(_doubled(40) + b")R"),
    "tuples doubled as a record's name": _with_entry(
        b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + _doubled(40) + _text("cpu") + b"K\x04tQ"
    ),
    "lists doubled": _with_entry(_doubled(40, kind="list") + b")R"),
    "long text doubled": _with_entry(_doubled(30, _text("ha" * 100_000))),
    "a large key again and again": _with_entry(
        b"}" + _doubled(20) + b"r" + struct.pack("<I", 8_000_000) + b"Ns"
        + (b"j" + struct.pack("<I", 8_000_000) + b"Ns") * 100_000
    ),
    "bytes doubled": _with_entry(_bytes_doubled(60)),
    "NumPy numbers without a value, as the model": _whole(
        b"}" + _text("model") + b"}" + b"".join(_text(str(n)) + _numpy_reserve() + b"s" for n in range(40)) + b"s"
    ),
    "tuples nested deeply as a key": _with_key(b")" + b"\x85" * 1_000_000),
    "lists nested deeply": _with_entry(b"(" + b"](" * 200_000 + b"e" * 200_000 + b"t"),
    "a list in itself": _with_entry(b"]r\x00\x00\x00\x7fj\x00\x00\x00\x7fa"),
    "lists in each other": _with_entry(_cycle_of_lists(40)),
    "a memo of four thousand million": _with_entry(b"Nr\xff\xff\xff\xffj\xfe\xff\xff\xff"),
    "millions of values": _with_entry(b"(" + b"]" * 4_000_000 + b"t"),
    "a stack that runs empty": _with_entry(b"RRRR"),
    "a mark too few": _with_entry(b"tttt"),
    "no end": lambda path, good: _with_pickle(path, good, lambda pickled: pickled[:-1]),
    "an endless text": _with_entry(b"X\xff\xff\xff\xff"),
    "text that is no UTF-8": _with_entry(b"X\x02\x00\x00\x00\xff\xfe"),
    "an attribute in the place of get": _whole(
        b"ccollections\nOrderedDict\n)R" + b"}" + _text("get") + b"ctorch._utils\n_rebuild_tensor_v2\nsb"
    ),
    "protocol 4": lambda path, good: torch.save(torch.load(good, weights_only=False), path, pickle_protocol=4),
    "a tensor of no use": lambda path, good: _in_model(torch.eye(3))(path, good),
    "a sparse tensor": lambda path, good: _in_model(torch.eye(3).to_sparse())(path, good),
    "whole numbers": _in_model(torch.ones(3, dtype=torch.int64)),
    "complex numbers": _in_model(torch.ones(3, dtype=torch.complex64)),
}  # fmt: skip

HARMLESS: dict[str, Callable[[Path, Path], None]] = {
    "sixty gigabytes of bytearray": _with_entry(b"cbuiltins\nbytearray\n" + _long(1 << 36) + b"\x85R"),
    "a range of all numbers as a tuple": _with_entry(
        b"cbuiltins\ntuple\ncbuiltins\nxrange\n" + _long(1 << 60) + b"\x85R\x85R"
    ),
    "a defaultdict": _beside(collections.defaultdict(list, a=[1])),
    "options of a class of the program": _in_args(Options(a=1)),
    "a tuple of tuples as a key": _with_key(_doubled(16)),
}

_WORKER = """
import copyreg, json, os, pathlib, resource, sys, time, warnings
warnings.simplefilter("ignore")
from sspsam.checkpoints.convert import convert_checkpoint
from sspsam.errors import SSPSAMError
copyreg.add_extension("posix", "system", 240)
convert_checkpoint(sys.argv[1], "good-out")
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[2:]:
    began, message = time.perf_counter(), ""
    try:
        convert_checkpoint(path, path + "-out")
        kind = "converted"
    except Exception as error:
        kind = "SSPSAMError" if isinstance(error, SSPSAMError) else "other"
        message = f"{type(error).__name__}: {error}"
    seconds = time.perf_counter() - began
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) << 10
    print(json.dumps([path, kind, message[:2000], seconds, grown, os.path.exists(path + "-out")]), flush=True)
"""


@pytest.fixture(scope="module")
def outcomes(authors_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """The outcome of converting each hostile file, one after the other in one subprocess."""
    folder = tmp_path_factory.mktemp("files")
    makers = {name: make for name, (make, _) in UNSAFE.items()} | DAMAGED | HARMLESS
    paths = {}
    for number, (name, make) in enumerate(makers.items()):
        paths[name] = folder / f"{number}.pth"
        make(paths[name], authors_file)
    done = subprocess.run(
        [sys.executable, "-c", _WORKER, str(authors_file), *map(str, paths.values())],
        cwd=folder, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    answers = {answer[0]: answer[1:] for answer in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 0, f"the interpreter died after {len(answers)} files: {done.stderr[-2000:]}"
    assert not (folder / "CANARY").exists(), "a hostile file ran something"
    return {name: answers[str(path)] for name, path in paths.items()}


@pytest.mark.parametrize("name", UNSAFE)
def test_a_pickle_that_names_anything_else_is_refused_and_the_error_has_the_name(
    name: str, outcomes: dict[str, list[Any]]
) -> None:
    kind, message, seconds, grown, wrote = outcomes[name]
    assert kind == "SSPSAMError", message
    assert message.startswith(UnsafeCheckpointError.__name__), message
    assert UNSAFE[name][1] in message
    assert not wrote
    assert seconds < 5
    assert grown < _MAX_EXTRA_MEMORY


@pytest.mark.parametrize("name", DAMAGED)
def test_a_hostile_file_is_refused_in_bounded_time_and_memory(name: str, outcomes: dict[str, list[Any]]) -> None:
    kind, message, seconds, grown, wrote = outcomes[name]
    assert kind == "SSPSAMError", f"{kind} {message}"
    assert len(message) < 1500
    assert not wrote
    assert seconds < 15
    assert grown < _MAX_EXTRA_MEMORY


@pytest.mark.parametrize("name", HARMLESS)
def test_data_beside_the_state_is_ignored_whatever_building_it_would_cost(
    name: str, outcomes: dict[str, list[Any]]
) -> None:
    kind, message, seconds, grown, wrote = outcomes[name]
    assert kind == "converted", message
    assert wrote
    assert seconds < 5
    assert grown < _MAX_EXTRA_MEMORY


# ---- damage


def _refused(load: Callable[[], object], kind: type[SSPSAMError] = SSPSAMError) -> str:
    with pytest.raises(kind) as caught:
        load()
    return str(caught.value)


def test_a_pth_cut_anywhere_is_refused(authors_file: Path, tmp_path: Path) -> None:
    data = authors_file.read_bytes()
    path = tmp_path / "cut.pth"
    chosen = random.Random(1)
    ends = [0, 1, 2, 4, 30, 64, *range(len(data) - 24, len(data), 3), *chosen.sample(range(len(data)), 50)]
    for end in ends:
        path.write_bytes(data[:end])
        _refused(lambda: convert_checkpoint(path, tmp_path / "out"), CheckpointError)
    assert not (tmp_path / "out").exists()


def _flipped(data: bytes, position: int, chosen: random.Random) -> bytes:
    return data[:position] + bytes([data[position] ^ chosen.randrange(1, 256)]) + data[position + 1 :]


def _spans(path: Path) -> dict[str, tuple[int, int]]:
    """Positions of an archive's index, first records' headers, weights and directory."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        size = path.stat().st_size
        index = next(entry for entry in entries if entry.filename.endswith("data.pkl"))
        start = index.header_offset + 64
        largest = max(entries, key=lambda entry: entry.file_size)
        end = next((entry.header_offset for entry in entries if entry.header_offset > largest.header_offset), size)
        return {
            "header": (0, 64),
            "index": (start, start + index.file_size),
            "weights": (end - largest.file_size, end),
            "directory": (archive.start_dir, size),
        }


@pytest.mark.parametrize("place", ["header", "index", "weights", "directory"])
def test_a_pth_with_a_changed_byte_is_refused_or_read_exactly(
    place: str, authors_file: Path, own_checkpoint: Path, tmp_path: Path
) -> None:
    good = ModelConfig.from_json((own_checkpoint / "config.json").read_text())
    data, path, chosen = authors_file.read_bytes(), tmp_path / "flipped.pth", random.Random(place)
    refusals, tries = 0, 40
    for position in chosen.sample(range(*_spans(authors_file)[place]), tries):
        path.write_bytes(_flipped(data, position, chosen))
        try:
            config = convert_checkpoint(path, tmp_path / "out")
        except CheckpointError:
            refusals += 1
        else:  # dates, padding and attributes of an archive play no part
            assert (config.weights_sha256, config.architecture) == (good.weights_sha256, good.architecture)
    assert refusals >= {"header": 0, "index": tries - 2, "weights": tries - 4, "directory": tries // 4}[place]


def test_an_index_with_a_changed_byte_and_a_right_checksum_converts_or_is_refused(
    authors_file: Path, tmp_path: Path
) -> None:
    records, path, chosen = _records(authors_file), tmp_path / "flipped.pth", random.Random(7)
    name = _pickle_name(records)
    refusals = 0
    for position in chosen.sample(range(len(records[name])), 80):
        _write_records(path, records | {name: _flipped(records[name], position, chosen)})
        try:
            convert_checkpoint(path, tmp_path / "out")
        except CheckpointError:
            refusals += 1
    assert refusals > 30  # others hit the optimizer, a memo number, or swap tensors of one shape: a forger's right


_STATE_DAMAGE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "clip_proj.weight": lambda state: state.pop("clip_proj.weight"),
    "ssp.box_head.layers.1.bias": lambda state: state.pop("bbox_embed.layers.1.bias"),
    "surprise": lambda state: state.update(surprise=torch.ones(1)),
    "sam.surprise": lambda state: state.update({"sam.surprise": torch.ones(1)}),
    "norm_imgs.weight": lambda state: state.update({"norm_imgs.weight": state.pop("norm_img.weight")}),
    "ssp.fusion.layers.0.weight": lambda state: state.update({"mlp.layers.0.weight": torch.ones(3, 3)}),
    "tf_s": lambda state: state.update(tf_scale=5.0, tf_sigma="x"),
    "prompt_token.weight": lambda state: state.update({"prompt_token.weight": torch.ones(2)}),
    "encoder.visual.conv1.weight": lambda state: state.update({"encoder.visual.conv1.weight": torch.ones(0, 3, 0, 0)}),
    "token_embedding": lambda state: state.update({"encoder.token_embedding.weight": torch.ones(64, 65)}),
    "not finite": lambda state: state["clip_proj.weight"].fill_(float("nan")),
    "twice": lambda state: state.update(
        {"encoder.visual.transformer.resblocks.2.attn.in_proj_weight": torch.ones(384, 128)}
    ),
}


@pytest.mark.parametrize("name", _STATE_DAMAGE)
def test_a_wrong_tensor_is_refused_and_named(name: str, authors_file: Path, tmp_path: Path) -> None:
    state = torch.load(authors_file, weights_only=False)["model"]
    _STATE_DAMAGE[name](state)
    path = write_checkpoint(tmp_path / "wrong.pth", state)
    message = _refused(lambda: convert_checkpoint(path, tmp_path / "out"), CheckpointError)
    assert name in message
    assert not list((tmp_path / "out").glob("*"))
    assert not list((tmp_path / "out").glob(".*"))


@pytest.fixture
def copy(own_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(own_checkpoint, tmp_path / "copy"))


@pytest.mark.parametrize("name", _LAYOUT_FILES)
def test_a_converted_file_cut_anywhere_is_refused(name: str, copy: Path) -> None:
    data, chosen = (copy / name).read_bytes(), random.Random(name)
    ends = [0, 1, 7, 8, 9, len(data) - 2, *chosen.sample(range(len(data) - 2), 40)]
    for end in ends:
        (copy / name).write_bytes(data[:end])
        for verify in (None, False):  # the structure alone shows it, without the digest
            _refused(lambda verify=verify: load_checkpoint(copy, verify=verify))


def test_a_changed_byte_anywhere_in_the_header_of_the_weights_is_refused(copy: Path) -> None:
    path, chosen = copy / "model.safetensors", random.Random(3)
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    for position in [*range(8), *chosen.sample(range(8, end), 50)]:
        path.write_bytes(_flipped(data, position, chosen))
        _refused(lambda: load_checkpoint(copy))


def test_a_changed_weight_is_caught_at_first_and_after_a_good_load(copy: Path) -> None:
    path, chosen = copy / "model.safetensors", random.Random(4)
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    for position in [start, len(data) - 1, *chosen.sample(range(start, len(data)), 8)]:
        path.write_bytes(data)
        load_checkpoint(copy)
        load_checkpoint(copy)
        path.write_bytes(_flipped(data, position, chosen))
        _refused(lambda: load_checkpoint(copy), DigestMismatchError)
        _refused(lambda: load_checkpoint(copy), DigestMismatchError)  # the failure is not recorded as a success
        _refused(lambda: load_checkpoint(copy, verify=True), DigestMismatchError)


def test_a_changed_weight_is_caught_by_verify_even_where_the_file_s_dates_are_forged(copy: Path) -> None:
    path = copy / "model.safetensors"
    data, status = path.read_bytes(), path.stat()
    load_checkpoint(copy)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    _refused(lambda: load_checkpoint(copy, verify=True), DigestMismatchError)


def _edit_header(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])


_HEADER_DAMAGE: dict[str, Callable[[dict[str, Any]], object]] = {
    "removed": lambda header: header.pop("clip.visual.proj"),
    "renamed": lambda header: header.update(other=header.pop("clip.visual.proj")),
    "reshaped": lambda header: header["clip.visual.proj"]["shape"].reverse(),
    "negative": lambda header: header["clip.visual.proj"].update(shape=[-1, -5120]),
    "huge": lambda header: header["clip.visual.proj"].update(shape=[1 << 62, 1 << 62]),
    "of another type": lambda header: header["clip.visual.proj"].update(dtype="I32"),
    "of no type": lambda header: header["clip.visual.proj"].update(dtype="X9"),
    "outside": lambda header: header["clip.visual.proj"].update(data_offsets=[1 << 50, (1 << 50) + 20480]),
    "overlapping": lambda header: header["clip.visual.proj"].update(
        data_offsets=header["clip.text.text_projection"]["data_offsets"]
    ),
    "added": lambda header: header.update(extra={"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}),
    "retyped": lambda header: header.update({"clip.visual.proj": 3}),
}


@pytest.mark.parametrize("damage", _HEADER_DAMAGE)
def test_a_rewritten_header_is_refused_without_the_digest(damage: str, copy: Path) -> None:
    _edit_header(copy / "model.safetensors", _HEADER_DAMAGE[damage])
    _refused(lambda: load_checkpoint(copy, verify=False), CheckpointError)


@pytest.mark.parametrize("length", [0, 1, (1 << 63) - 1, (1 << 64) - 1, 100_000_000, 200_000_000])
def test_an_absurd_length_of_the_header_is_refused(length: int, copy: Path) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
    _refused(lambda: load_checkpoint(copy, verify=False), CheckpointError)


def _signed(content: dict[str, Any]) -> str:
    """The JSON of a forged configuration, whose fingerprint fits again."""
    content.pop("fingerprint", None)
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    return json.dumps({**content, "fingerprint": hashlib.sha256(canonical).hexdigest()})


_HOSTILE_SIZES = [
    (("clip", "vision_layers"), 10**9),
    (("clip", "vision_width"), 10**9),
    (("clip", "context_length"), 10**6),
    (("clip", "patch_size"), 1 << 20),
    (("clip", "vocab_size"), 10**12),
    (("sam", "layers"), 10**9),
    (("sam", "image_size"), 1 << 40),
    (("sam", "mask_tokens"), 1 << 20),
    (("ssp", "prompts"), 10**9),
    (("ssp", "hidden_width"), 10**300),
    (("ssp", "generator_layers"), -1),
    (("ssp", "box_head_layers"), 0),
    # each legal alone
    (("clip", "text_layers"), 256),
    (("clip", "vocab_size"), 1 << 20),
    (("sam", "mask_tokens"), 64),
    (("sam", "window_size"), 1 << 16),
]


@pytest.mark.parametrize(("where", "size"), _HOSTILE_SIZES)
def test_a_hostile_size_is_refused_fast_and_without_memory(where: tuple[str, str], size: int, copy: Path) -> None:
    content = json.loads((copy / "config.json").read_text())
    content["architecture"][where[0]][where[1]] = size
    (copy / "config.json").write_text(_signed(content))
    before = resource.getrusage(resource.RUSAGE_SELF)
    _refused(lambda: load_checkpoint(copy))
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert (after.ru_maxrss - before.ru_maxrss) << 10 < 100 << 20
    assert after.ru_utime - before.ru_utime < 8


def test_the_largest_configuration_that_passes_costs_little_to_refuse(copy: Path) -> None:
    content = json.loads((copy / "config.json").read_text())
    parts = content["architecture"]
    parts["clip"] |= {"image_size": 1 << 14, "patch_size": 1 << 14, "vision_width": 1 << 16, "vision_layers": 64}
    parts["clip"] |= {"text_width": 1 << 16, "vocab_size": 1 << 20, "context_length": 4096}
    parts["sam"] |= {"image_size": 1 << 14, "patch_size": 1, "width": 3 << 14, "layers": 64, "window_size": 1 << 16}
    parts["ssp"] |= {"prompts": 1 << 16, "hidden_width": 1 << 16}
    (copy / "config.json").write_text(_signed(content))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "does not fit" in _refused(lambda: load_checkpoint(copy), CheckpointError)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < 200 << 20


def test_a_config_with_a_byte_changed_is_refused_or_the_same(copy: Path) -> None:
    path, chosen = copy / "config.json", random.Random(5)
    data = path.read_bytes()
    good = ModelConfig.from_json(data.decode())
    refusals = 0
    for position in chosen.sample(range(len(data)), 80):
        path.write_bytes(_flipped(data, position, chosen))
        try:
            assert load_checkpoint(copy)[1] == good  # one kind of white space for another
        except ConfigError:
            refusals += 1
    assert refusals > 60


_CONFIG_BYTES = {
    "a BOM": lambda data: b"\xef\xbb\xbf" + data,
    "UTF-16": lambda data: data.decode().encode("utf-16"),
    "no UTF-8": lambda data: data.replace(b"good", b"\xff\xfe\xfa"),
    "NUL bytes": lambda data: bytes(len(data)),
    "too many bytes": lambda data: data + b" " * (1 << 20),
    "a list": lambda data: b"[" + data + b"]",
    "nothing": lambda data: b"null",
    "deep lists": lambda data: b"[" * 500_000,
    "a duplicate": lambda data: data.replace(b'"source"', b'"license": "x", "source"'),
    "NaN": lambda data: data.replace(b'"mask_threshold": 0.5', b'"mask_threshold": NaN'),
    "Infinity": lambda data: data.replace(b"123.675", b"Infinity"),
    "a huge number": lambda data: data.replace(b"123.675", b"1" * 400),
    "a huger number": lambda data: data.replace(b"123.675", b"1" * 5000),
    "an exponent": lambda data: data.replace(b"123.675", b"1e999"),
    "a newer format": lambda data: data.replace(b'"format_version": 1', b'"format_version": 2'),
    "an older format": lambda data: data.replace(b'"format_version": 1', b'"format_version": true'),
    "another model": lambda data: data.replace(b'"ssp-sam"', b'"sam"'),
    "another threshold": lambda data: data.replace(b'"mask_threshold": 0.5', b'"mask_threshold": 0.4'),
    "another fingerprint": lambda data: data.replace(b'"fingerprint": "', b'"fingerprint": "0'),
    "a fingerprint that is a list": lambda data: data.replace(b'"fingerprint": "', b'"fingerprint": [], "x": "'),
}


@pytest.mark.parametrize("damage", _CONFIG_BYTES)
def test_a_damaged_config_is_refused(damage: str, copy: Path) -> None:
    path = copy / "config.json"
    data = path.read_bytes()
    damaged = _CONFIG_BYTES[damage](data)
    assert damaged != data
    path.write_bytes(damaged)
    assert len(_refused(lambda: load_checkpoint(copy), ConfigError)) < 2000


def test_a_config_for_other_weights_is_refused(copy: Path) -> None:
    content = json.loads((copy / "config.json").read_text())
    for digest in ("", "0" * 64):
        (copy / "config.json").write_text(_signed(content | {"weights_sha256": digest}))
        _refused(lambda: load_checkpoint(copy), DigestMismatchError)


@pytest.mark.parametrize("name", _LAYOUT_FILES)
def test_a_missing_file_or_a_directory_in_its_place_is_refused(name: str, copy: Path) -> None:
    (copy / name).unlink()
    _refused(lambda: load_checkpoint(copy))
    (copy / name).mkdir()
    _refused(lambda: load_checkpoint(copy))
