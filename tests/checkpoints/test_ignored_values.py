"""Data that training runs save beside the weights: it is ignored, and nothing of it is built."""

import argparse
import array
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import http
import ipaddress
import random
import re
import types
import typing
import uuid
import zipfile
import zoneinfo
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.authors_checkpoint import authors_state, tiny_architecture, write_checkpoint
from sspsam.checkpoints.authors_state import read_authors_state
from sspsam.checkpoints.convert import convert_checkpoint
from sspsam.errors import CheckpointError, UnsafeCheckpointError


class Config(collections.OrderedDict[str, Any]):
    """A dictionary of options, as many training programs have one."""


class Stage(enum.Enum):
    TRAIN = "train"


class Outer:
    """A class that has classes of its own, whose names a pickle gives by calling `getattr`."""

    class Inner(enum.Enum):
        A = 1

    class Innermost:
        def __init__(self) -> None:
            self.rate = 0.1


class Flags(enum.Flag):
    A = 1
    B = 2


@dataclasses.dataclass
class Options:
    rate: float = 0.1


class Step(NamedTuple):
    number: int


class Slotted:
    __slots__ = ("rate",)

    def __init__(self) -> None:
        self.rate = 0.1


class Node:
    """A part of a tree of options that knows its parent, as those of OmegaConf do."""

    def __init__(self, parent: Any = None) -> None:
        self.parent = parent
        self.kind = typing.Any
        self.children = [Node(self), Node(self)] if parent is None else []


class _Attributes(dict[str, Any]):
    """A dictionary whose entries are attributes too."""

    __getattr__ = dict.__getitem__


VALUES: dict[str, Any] = {
    "a NumPy masked array": np.ma.masked_array([1.0, 2.0], mask=[False, True]),
    "a NumPy matrix": np.ones((2, 2)).view(np.matrix),
    "a NumPy record array": np.rec.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    "a NumPy structured scalar": np.zeros(1, dtype=[("a", "f8")])[0],
    "a NumPy date": np.datetime64("2026-01-02"),
    "a RandomState": np.random.RandomState(0),  # as training scripts save it
    "the state of NumPy's random numbers": np.random.get_state(),
    "a Generator": np.random.default_rng(0),
    "a NumPy type": np.float32,
    "a NumPy dtype": np.dtype("f4"),
    "a date and time": datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc),  # noqa: UP017  # the class itself
    "a date": datetime.date(2026, 1, 2),
    "a duration": datetime.timedelta(seconds=3),
    "a time of day with a zone": datetime.time(1, tzinfo=datetime.timezone(datetime.timedelta(hours=2))),
    "a defaultdict": collections.defaultdict(int, a=1),
    "a defaultdict of lists": collections.defaultdict(list, a=[1]),
    "a deque": collections.deque([1, 2], maxlen=3),
    "a ChainMap": collections.ChainMap({"a": 1}),
    "a UserDict": collections.UserDict(a=1),
    "a SimpleNamespace": types.SimpleNamespace(a=1),
    "a frozenset": frozenset([1, 2]),
    "a set": {1, 2},
    "a complex number": 1j,
    "bytes": b"abc",
    "a bytearray": bytearray(b"abc"),
    "a range": range(3),
    "a slice": slice(1, 2),
    "a large number": 1 << 3000,
    "an OrderedDict": collections.OrderedDict(a=1),
    "a subclass of OrderedDict": Config(a=1),
    "a subclass of dict": _Attributes(a=1),
    "a Decimal": decimal.Decimal("1.5"),
    "a Fraction": fractions.Fraction(1, 3),
    "a UUID": uuid.UUID(int=7),
    "an Enum": Stage.TRAIN,
    "an Enum in a class": [Outer.Inner.A, Outer.Inner.A, Outer.Inner],
    "an object of a class in a class": [Outer.Innermost(), Outer.Innermost()],
    "a date and time of a region": datetime.datetime(2026, 1, 2, tzinfo=zoneinfo.ZoneInfo("UTC")),
    "flags": Flags.A | Flags.B,
    "an Enum of the standard library": http.HTTPStatus.OK,
    "a dataclass": Options(),
    "a tree of options with parents": Node(),
    "an object with slots": Slotted(),
    "a named tuple": Step(3),
    "a class of the program itself": Options,
    "a pattern": re.compile("a+"),
    "Python's random numbers": random.Random(0),
    "an address": ipaddress.ip_address("127.0.0.1"),
    "an array of the standard library": array.array("d", [1.0]),
    "an Ellipsis": ...,
    "a shape": torch.Size([1, 2]),
    "a dtype": torch.float64,
    "a device": torch.device("cpu"),
    "a sparse set of keys": {(1, 2): "a", Stage.TRAIN: "b", None: "c", frozenset([1]): "d"},
}


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return authors_state(tiny_architecture(vocab_size=64))


@pytest.fixture(scope="module")
def expected(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("expected")
    return convert_checkpoint(write_checkpoint(folder / "a.pth", state), folder / "out").weights_sha256


def _saved(folder: Path, content: Any) -> Path:
    torch.save(content, folder / "a.pth")
    return folder / "a.pth"


@pytest.mark.parametrize("name", VALUES)
def test_a_value_of_a_training_run_beside_the_weights_is_ignored(name: str, tmp_path: Path) -> None:
    value = VALUES[name]
    arguments = argparse.Namespace(value=value, values=[value, {"value": value}])
    content = {"args": arguments, name: value, "model": {"tf_scale": torch.tensor([5.0])}}
    assert read_authors_state(_saved(tmp_path, content)) == {"tf_scale": torch.tensor([5.0])}


def test_all_of_them_together_change_nothing(state: dict[str, Tensor], expected: str, tmp_path: Path) -> None:
    path = _saved(tmp_path, {"model": state, "args": argparse.Namespace(**VALUES), **VALUES})
    assert convert_checkpoint(path, tmp_path / "out").weights_sha256 == expected


class _Loud:
    """A class that leaves a trace wherever Python would build it."""

    def __init__(self) -> None:
        self.name = "CANARY"

    def __setattr__(self, name: str, value: object) -> None:
        Path("CANARY").touch()
        object.__setattr__(self, name, value)

    def __new__(cls) -> "_Loud":
        Path("CANARY").touch()
        return object.__new__(cls)


def test_an_ignored_object_is_not_built(
    state: dict[str, Tensor], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = _saved(tmp_path, {"model": state, "options": _Loud()})
    Path("CANARY").unlink()
    assert convert_checkpoint(path, tmp_path / "out").weights_sha256 == expected
    assert not Path("CANARY").exists()


@pytest.mark.parametrize("name", ["a NumPy masked array", "a Decimal", "an Enum", "a subclass of OrderedDict", "a set"])
def test_the_same_value_in_the_place_of_a_tensor_is_refused_and_named(
    name: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = _saved(tmp_path, {"model": state | {"clip_proj.weight": VALUES[name]}})
    with pytest.raises(UnsafeCheckpointError, match=r"in the place of the tensor 'clip_proj\.weight'"):
        convert_checkpoint(path, tmp_path / "out")


# states as training programs save them

_NESTED: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "a state in a model": lambda state: {"model": {"state_dict": state, "name": "ssp-sam"}},
    "a model in a state": lambda state: {"state_dict": {"model": {"module": state}}},
    "DeepSpeed's module": lambda state: {"module": state, "ds_version": "0.9"},
    "options called model": lambda state: {"model": {"width": 3, "heads": {"a": 1}}, "state_dict": state},
    "a name called model": lambda state: {"model": "ssp-sam", "state_dict": state},
    "an OrderedDict in an OrderedDict": lambda state: collections.OrderedDict(model=collections.OrderedDict(state)),
    "an epoch beside the tensors": lambda state: {**state, "epoch": 3, "best": 0.7, "name": "unc", "history": [1.0]},
    "objects beside the tensors": lambda state: {**state, "args": argparse.Namespace(a=1), "stage": Stage.TRAIN},
    "counters among the tensors": lambda state: {
        **state, "epoch": torch.tensor(3), "n_averaged": torch.tensor([7]),
        "sam.neck.num_batches_tracked": torch.tensor(5), "encoder.position_ids": torch.arange(77)[None],
        "encoder.input_resolution": torch.tensor(224),
    },
    "a counter in a wrapped state": lambda state: {"model": {**state, "steps": 100, "n_averaged": torch.tensor(7)}},
    "parameters": lambda state: {"model": {name: torch.nn.Parameter(tensor) for name, tensor in state.items()}},
}  # fmt: skip


@pytest.mark.parametrize("name", _NESTED)
def test_a_state_is_found_where_training_programs_put_it(
    name: str, state: dict[str, Tensor], expected: str, tmp_path: Path
) -> None:
    path = _saved(tmp_path, _NESTED[name](state))
    assert convert_checkpoint(path, tmp_path / "out").weights_sha256 == expected


@pytest.mark.parametrize(
    "prefix",
    ["model.", "module.model.", "model.module.", "_orig_mod.model.", "model._orig_mod.", "model.model.",
     "_fsdp_wrapped_module.", "model._fsdp_wrapped_module.", "_fsdp_wrapped_module._checkpoint_wrapped_module."],
)  # fmt: skip
def test_prefixes_of_lightning_and_fsdp_change_nothing(
    prefix: str, state: dict[str, Tensor], expected: str, tmp_path: Path
) -> None:
    wrapped = {prefix + name.replace("sam.image_encoder.", "sam.image_encoder._fsdp_wrapped_module."): tensor
               for name, tensor in state.items()}  # fmt: skip
    path = _saved(tmp_path, {"state_dict": wrapped, "pytorch-lightning_version": "2.5", "callbacks": {}})
    assert convert_checkpoint(path, tmp_path / "out").weights_sha256 == expected


def test_entries_that_are_left_out_are_logged_by_name(
    state: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = _saved(tmp_path, {**state, "epoch": 3, "n_averaged": torch.tensor(7)})
    with caplog.at_level("INFO", logger="sspsam"):
        convert_checkpoint(path, tmp_path / "out")
    assert "left out: epoch (not a tensor)" in caplog.text
    assert "left out: n_averaged (no weights)" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip_proj.weight": 3}, "'clip_proj.weight' of the state is a int, not a tensor"),
        ({"norm.weight": torch.ones(64, dtype=torch.int64)}, r"'norm.weight' is torch.int64; floating point"),
        ({"tf_scale": torch.ones(1, dtype=torch.int64)}, r"'tf_scale' is torch.int64; floating point"),
        ({"counts": torch.ones(3, dtype=torch.int64)}, r"'counts' is torch.int64; floating point"),
        ({"unknown": torch.ones(3)}, "1 unrecognised tensors: unknown"),
        ({7: torch.ones(3)}, "entry '7' of the state"),
        ({(1, (2,) * 1000): torch.ones(3)}, "entry '.{1,100}' of the state"),
    ],
)
def test_what_may_be_a_weight_is_never_left_out(
    change: dict[Any, Any], message: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(_saved(tmp_path, {**state, **change}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tensors_that_are_views_of_one_record_have_their_own_values(
    state: dict[str, Tensor], expected: str, tmp_path: Path
) -> None:
    flat = torch.cat([tensor.reshape(-1) for tensor in state.values()])
    views, start = {}, 0
    for name, tensor in state.items():
        views[name] = flat[start : start + tensor.numel()].view(tensor.shape)
        start += tensor.numel()
    path = _saved(tmp_path, {"model": views})
    assert path.stat().st_size < 1.2 * flat.nbytes
    assert convert_checkpoint(path, tmp_path / "out").weights_sha256 == expected


def test_the_tensors_of_a_state_are_those_of_pytorch_s_own_reader(tmp_path: Path) -> None:
    numbers = torch.arange(-12.0, 12.0)
    kinds = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    tensors = {str(kind): numbers.to(kind) for kind in kinds}
    tensors |= {"turned": numbers.reshape(4, 6).t(), "part": numbers[5:9], "every second": numbers[::2]}
    tensors |= {"no dimension": torch.tensor(4.6), "empty": torch.zeros(0, 3), "repeated": numbers[:1].expand(1)}
    path = _saved(tmp_path, {"model": tensors})
    read, reference = read_authors_state(path), torch.load(path, weights_only=True)["model"]
    assert read.keys() == reference.keys()
    for name, tensor in reference.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor), name


@pytest.mark.parametrize("shift", range(1, 8))
def test_records_that_are_not_aligned_are_read_exactly(shift: int, tmp_path: Path) -> None:
    tensors = {"tf_scale": torch.arange(5.0), "tf_sigma": torch.arange(3, dtype=torch.float64)}
    path = _saved(tmp_path, {"model": tensors})
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records.items():
            entry = zipfile.ZipInfo(name)
            entry.extra = b"\x00\x7f" + shift.to_bytes(2, "little") + bytes(shift)
            archive.writestr(entry, data)
    read = read_authors_state(path)
    assert read["tf_scale"].tolist() == [0, 1, 2, 3, 4]
    assert read["tf_sigma"].tolist() == [0, 1, 2]
