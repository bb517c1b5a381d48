"""Pickles of annotations: plain data of every protocol is read, everything else is refused and never run."""

import copyreg
import os
import pickle
import struct
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

from sspsam.errors import DatasetError, UnsafePickleError
from sspsam.evaluation.datasets.safe_pickle import read_pickle

PLAIN = [{"ref_id": 1, "sentences": [{"sent": "café", "tokens": ("a", "b")}], "box": [0.5, -2], "none": None}]


class Command:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self._path),)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_is_read_in_every_protocol(tmp_path: Path, protocol: int) -> None:
    assert read_pickle(written(tmp_path / "refs.p", pickle.dumps(PLAIN, protocol))) == PLAIN


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_function_is_named_and_not_run(tmp_path: Path, protocol: int) -> None:
    trap = tmp_path / "made"
    path = written(tmp_path / "refs.p", pickle.dumps([*PLAIN, Command(trap)], protocol))
    with pytest.raises(UnsafePickleError, match=rf"refs\.p names {os.mkdir.__module__}\.mkdir"):
        read_pickle(path)
    assert not trap.exists()
    pickle.loads(path.read_bytes())
    assert trap.exists(), "the trap must work where it is not refused"


@pytest.mark.parametrize("content", [OrderedDict(a=1), {1j}, [slice(1)], [Path], [len], [pickle.PickleError("x")]])
def test_even_harmless_classes_are_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(UnsafePickleError, match=r"refs\.p names \w+"):
        read_pickle(written(tmp_path / "refs.p", pickle.dumps(content, 2)))


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"(S'echo'\nios\nsystem\n.", r"os\.system"),  # INST
        (b"cos\nsystem\n(S'echo'\ntR.", r"os\.system"),  # GLOBAL, REDUCE
        (b"c__builtin__\neval\n(S'1'\ntR.", r"__builtin__\.eval"),  # the name of Python 2
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04echo\x85R.", r"os\.system"),  # STACK_GLOBAL
        (b"(cos\nsystem\nS'echo'\no.", r"os\.system"),  # OBJ
    ],
)
def test_every_way_to_name_a_function_is_refused(tmp_path: Path, content: bytes, name: str) -> None:
    with pytest.raises(UnsafePickleError, match=f"names {name}:"):
        read_pickle(written(tmp_path / "refs.p", content))


def test_a_class_behind_an_extension_code_is_refused_even_if_it_was_used_before(tmp_path: Path) -> None:
    copyreg.add_extension("collections", "OrderedDict", 0x7FFF01)
    try:
        content = pickle.dumps(OrderedDict, 2)
        assert b"collections" not in content
        assert pickle.loads(content) is OrderedDict  # and caches the class
        with pytest.raises(UnsafePickleError, match=r"collections\.OrderedDict"):
            read_pickle(written(tmp_path / "refs.p", content))
    finally:
        copyreg.remove_extension("collections", "OrderedDict", 0x7FFF01)


def test_persistent_references_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsafePickleError, match="outside the file"):
        read_pickle(written(tmp_path / "refs.p", b"Pname\n."))


@pytest.mark.parametrize(("content", "text"), [(b"S'caf\\xc3\\xa9'\n.", "café"), (b"S'caf\\xe9'\n.", "café")])
def test_strings_of_python_2_are_utf_8_or_latin_1(tmp_path: Path, content: bytes, text: str) -> None:
    assert read_pickle(written(tmp_path / "refs.p", content)) == text


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x04", b"hello", b"(lp0\n", b"N(tR.", b"]S'x'\nb.", pickle.dumps(PLAIN)[:-5], b"\x80\x63N."]
)
def test_damaged_pickles_name_the_file(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DatasetError, match=r"refs\.p is a damaged pickle"):
        read_pickle(written(tmp_path / "refs.p", content))


@pytest.mark.parametrize("index", [2**22, 2**31, 2**32 - 1])
@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02]r%b.",
        b"]p%d\n.",
        b"]p+%d\n.",
        b"\x80\x02X\x04\x00\x00\x00wordr%b.",
        b"\x80\x04\x95\x07\x00\x00\x00\x00\x00\x00\x00]r%b.",  # inside a frame
        b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00]r%b.",
    ],
)
def test_a_huge_number_in_the_memo_allocates_nothing(tmp_path: Path, content: bytes, index: int) -> None:
    path = written(tmp_path / "refs.p", content % (index if b"%d" in content else struct.pack("<I", index)))
    tracemalloc.start()
    try:
        with pytest.raises(DatasetError, match=r"refs\.p is a damaged pickle: UnpicklingError: it numbers an object"):
            read_pickle(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_texts_that_look_like_opcodes_and_many_objects_are_read(tmp_path: Path, protocol: int) -> None:
    texts = ["r", "p", "\x95", "rAAAA", "p99999999\n", "", "\x95\x7f" * 4, "x" * 300, "é" * 70_000]
    content = [*texts, *([index, f"{index}"] for index in range(3_000)), list(range(3_000)), 2**70, -1.5]
    assert read_pickle(written(tmp_path / "refs.p", pickle.dumps(content, protocol))) == content
