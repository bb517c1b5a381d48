"""Names of functions and classes in a pickle: refused and never run; data of no use beside the state is ignored."""

import collections
import functools
import importlib
import operator
import os
from pathlib import Path
from subprocess import Popen
from typing import Any

import numpy as np
import pytest
import torch

from sspsam.errors import UnsafeCheckpointError
from tests.support.pickles import (
    CANARY,
    MAX_EXTRA_MEMORY,
    Calls,
    Maker,
    beside,
    conversions,
    doubled,
    in_model,
    long,
    text,
    with_entry,
    with_key,
)


class HasState:
    """A class of the program itself, which a pickle would fill with any state."""

    def __setstate__(self, state: str) -> None:
        os.system(state)


class Options(collections.OrderedDict[str, object]):
    """Options of a training run."""


def function_of_a_program(command: str) -> None:
    os.system(command)


PYTHON = "open('CANARY', 'w').close()"


def _in_args(value: Any) -> Maker:
    def make(path: Path, good: Path) -> None:
        content = torch.load(good, weights_only=False)
        content["args"].dataset = value
        torch.save(content, path)

    return make


def _in_optimizer(value: Any) -> Maker:
    def make(path: Path, good: Path) -> None:
        content = torch.load(good, weights_only=False)
        content["optimizer"]["state"][0] = {"step": [value]}
        torch.save(content, path)

    return make


class _Subclass(torch.Tensor):
    def __reduce_ex__(self, protocol: object) -> Any:
        return os.system, (CANARY,)


_SYSTEM = text(CANARY) + b"\x85R"

UNSAFE: dict[str, tuple[Maker, str]] = {
    "os.system": (beside(Calls(os.system, CANARY)), "posix.system"),
    "os.system by its alias": (with_entry(b"cos\nsystem\n" + _SYSTEM), "os.system"),
    "builtins.eval": (beside(Calls(eval, PYTHON)), "eval"),
    "builtins.exec": (beside(Calls(exec, PYTHON)), "exec"),
    "builtins.getattr": (beside(Calls(getattr, {}, "get")), "getattr"),
    "getattr as a value": (beside(getattr), "getattr"),
    "getattr of a function": (beside(Calls(getattr, function_of_a_program, "__globals__")), "__globals__"),
    "getattr of a method": (beside(Calls(getattr, Options, "update")), "Options.update"),
    "getattr of getattr": (
        with_entry(b"cbuiltins\ngetattr\ncbuiltins\ngetattr\n" + text("__self__") + b"\x86R"), "getattr.__self__",
    ),
    "getattr of a module": (with_entry(b"cbuiltins\ngetattr\ncposix\nX\n" + text("system") + b"\x86R"), "posix.X"),
    "getattr with a default": (beside(Calls(getattr, Options, "Inner", 3)), "getattr"),
    "getattr of a dotted name": (beside(Calls(getattr, Options, "Inner.x")), "getattr"),
    "getattr once right and once not": (
        beside([Calls(getattr, Options, "Inner"), Calls(getattr, {}, "get")]), "getattr",
    ),
    "builtins.__import__": (beside(Calls(__import__, "antigravity")), "__import__"),
    "builtins.open": (beside(Calls(open, "CANARY", "w")), "open"),
    "subprocess.Popen": (with_entry(b"csubprocess\nPopen\n" + _SYSTEM), "subprocess.Popen"),
    "functools.partial": (beside(functools.partial(os.system, CANARY)), "functools.partial"),
    "operator.attrgetter": (beside(Calls(operator.attrgetter("__class__.__base__"), "")), "operator.attrgetter"),
    "importlib.import_module": (beside(Calls(importlib.import_module, "antigravity")), "importlib.import_module"),
    "a class of the main program": (with_entry(b"c__main__\nHasState\n)\x81" + text(CANARY) + b"b"), "__main__"),
    "a class with __setstate__": (beside(Calls(HasState, state=CANARY)), "HasState"),
    "torch.hub.load": (beside(Calls(torch.hub.load, "nobody/nothing", "x")), "torch.hub.load"),
    "torch.load": (beside(Calls(torch.load, "other.pth")), "torch.serialization.load"),
    "torch.jit.load": (beside(Calls(torch.jit.load, "other.pt")), "torch.jit"),
    "a whole torch module": (beside(torch.nn.Linear(1, 1)), "torch.nn.modules.linear.Linear"),
    "numpy.load": (beside(Calls(np.load, "x.npy")), "numpy.load"),
    "a NumPy array of objects": (in_model(np.array([Calls(os.system, CANARY)], dtype=object)), "posix.system"),
    "a NumPy array": (in_model(np.ones(3)), "_reconstruct"),
    "a pickle in a NumPy scalar": (
        with_entry(b"cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\n" + text("O8") + b"\x85Rcposix\nsystem\n"
                    + _SYSTEM + b"\x86R"),
        "posix.system",
    ),
    "in the optimizer": (_in_optimizer(Calls(os.system, CANARY)), "posix.system"),
    "in the arguments": (_in_args(Calls(os.system, CANARY)), "posix.system"),
    "in the model": (in_model(Calls(os.system, CANARY)), "posix.system"),
    "a tensor subclass": (in_model(torch.ones(2).as_subclass(_Subclass)), "posix.system"),
    "a dotted name by STACK_GLOBAL": (
        with_entry(b"\x8c\x02os\x8c\x0bpath.system\x93" + _SYSTEM), "os.path.system",
    ),
    "a name in parts by STACK_GLOBAL": (with_entry(text("posix") + text("system") + b"\x93" + _SYSTEM), "posix"),
    "INST": (with_entry(b"(" + text(CANARY) + b"iposix\nsystem\n"), "posix.system"),
    "EXT1": (with_entry(b"\x82\xf0" + _SYSTEM), "extension 240"),
    "EXT4": (with_entry(b"\x84\xf0\x00\x00\x00" + _SYSTEM), "extension 240"),
    "a name that never is called": (with_entry(b"cposix\nsystem\n"), "posix.system"),
    "a name after the last value": (with_entry(b"cposix\nsystem\n" + b"\xff"), "posix.system"),
    "an import by _rebuild_from_type_v2": (
        with_entry(b"ctorch._tensor\n_rebuild_from_type_v2\n(cbuiltins\nprint\nK\x01)NtR"), "_rebuild_from_type_v2",
    ),
    "reserving memory by a storage": (
        with_entry(b"ctorch.storage\nUntypedStorage\n" + long(1 << 36) + b"\x85R"), "torch.storage.UntypedStorage",
    ),
    "reserving memory by a tensor": (
        with_entry(b"ctorch\nFloatTensor\n" + long(1 << 36) + b"\x85R"), "torch.FloatTensor",
    ),
    "a function of a program": (beside(Calls(function_of_a_program, CANARY)), "function_of_a_program"),
    "a function of another package": (with_entry(b"ccloudpickle\nloads\n" + _SYSTEM), "cloudpickle.loads"),
    "a class of the standard library that runs programs": (beside(Calls(Popen, CANARY)), ".Popen"),
    "a class of PyTorch as a value": (beside(torch.nn.Linear), "torch.nn.modules.linear.Linear"),
    "a name of Python 2": (with_entry(b"ccommands\nGetOutput\n" + _SYSTEM), "commands.GetOutput"),
    "a class given a number as its state": (with_entry(b"cprogram\nState\n)\x81K\x01b"), "program.State.__setstate__"),
    "a class in the place of a tensor": (in_model(Options(a=1)), "Options"),
}  # fmt: skip

HARMLESS: dict[str, Maker] = {
    "sixty gigabytes of bytearray": with_entry(b"cbuiltins\nbytearray\n" + long(1 << 36) + b"\x85R"),
    "a range of all numbers as a tuple": with_entry(
        b"cbuiltins\ntuple\ncbuiltins\nxrange\n" + long(1 << 60) + b"\x85R\x85R"
    ),
    "a defaultdict": beside(collections.defaultdict(list, a=[1])),
    "options of a class of the program": _in_args(Options(a=1)),
    "a tuple of tuples as a key": with_key(doubled(16)),
}


@pytest.fixture(scope="module")
def outcomes(authors_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """The outcome of converting each file."""
    makers = {name: make for name, (make, _) in UNSAFE.items()} | HARMLESS
    return conversions(makers, authors_file, tmp_path_factory.mktemp("files"))


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
    assert grown < MAX_EXTRA_MEMORY


@pytest.mark.parametrize("name", HARMLESS)
def test_data_beside_the_state_is_ignored_whatever_building_it_would_cost(
    name: str, outcomes: dict[str, list[Any]]
) -> None:
    kind, message, seconds, grown, wrote = outcomes[name]
    assert kind == "converted", message
    assert wrote
    assert seconds < 5
    assert grown < MAX_EXTRA_MEMORY
