"""Authors' checkpoints with changed archives and pickles, made by hand, and the outcome of converting them."""

import json
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

MAX_EXTRA_MEMORY = 700 << 20  # bytes, above what importing takes
CANARY = "touch CANARY"
Maker = Callable[[Path, Path], None]  # writes a file, given its path and that of a good checkpoint


def archive_records(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_archive(path: Path, records: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in records.items():
            archive.writestr(name, data)


def pickle_name(records: dict[str, bytes]) -> str:
    [name] = [name for name in records if name.endswith("/data.pkl")]
    return name


def with_pickle(path: Path, good: Path, change: Callable[[bytes], bytes]) -> None:
    """The good archive with another index, checksums right."""
    records = archive_records(good)
    name = pickle_name(records)
    write_archive(path, records | {name: change(records[name])})


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def long(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def with_entry(operations: bytes) -> Maker:
    """A good checkpoint whose top dictionary has one more value, made by `operations`."""

    def make(path: Path, good: Path) -> None:
        with_pickle(path, good, lambda pickled: pickled[:-1] + text("extra") + operations + b"s.")

    return make


def with_key(operations: bytes) -> Maker:
    return lambda path, good: with_pickle(path, good, lambda pickled: pickled[:-1] + operations + b"Ns.")


def doubled(levels: int, leaf: bytes = b"K\x01", kind: str = "tuple") -> bytes:
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


class Calls:
    """Pickles as a call of any function; the canary is what the call would touch."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def beside(value: Any) -> Maker:
    return lambda path, good: torch.save({"model": torch.load(good, weights_only=False)["model"], "x": value}, path)


def in_model(value: Any) -> Maker:
    def make(path: Path, good: Path) -> None:
        state = torch.load(good, weights_only=False)["model"]
        torch.save({"model": state | {"hidden": value}}, path)

    return make


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


def conversions(makers: dict[str, Maker], good: Path, folder: Path) -> dict[str, list[Any]]:
    """The outcome of converting each file, one after the other in one subprocess.

    Each is: "converted", "SSPSAMError" or "other"; the message; seconds; bytes of memory; whether anything was written.
    """
    paths = {}
    for number, (name, make) in enumerate(makers.items()):
        paths[name] = folder / f"{number}.pth"
        make(paths[name], good)
    done = subprocess.run(
        [sys.executable, "-c", _WORKER, str(good), *map(str, paths.values())],
        cwd=folder, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    answers = {answer[0]: answer[1:] for answer in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 0, f"the interpreter died after {len(answers)} files: {done.stderr[-2000:]}"
    assert not (folder / "CANARY").exists(), "a hostile file ran something"
    return {name: answers[str(path)] for name, path in paths.items()}
