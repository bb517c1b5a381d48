"""Files take their place whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from sspsam.errors import StorageError
from sspsam.utils import files as storage
from sspsam.utils.files import atomic_replace, replace_file, write_file


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_file_is_replaced_and_whoever_has_the_old_one_open_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with path.open("rb") as old:
        replace_file(path, b"new")
        assert old.read() == b"old"
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["file"]


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    replace_file(tmp_path / "file", b"")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


def fail(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch, step: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(storage.os, step, fail)
    with pytest.raises(StorageError, match=r"file.*No space left"):
        replace_file(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_nothing_takes_its_place_when_the_body_fails(tmp_path: Path) -> None:
    def fail_between(first: Path, second: Path) -> None:
        with atomic_replace(first, second) as [temporary, _]:
            write_file(temporary, lambda file: file.write(b"whole"))
            raise KeyError

    with pytest.raises(KeyError):
        fail_between(tmp_path / "a", tmp_path / "b")
    assert names(tmp_path) == []


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to("target")
    replace_file(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"


def test_what_is_no_file_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(StorageError, match=name):
            replace_file(tmp_path / name, b"")
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(StorageError):
        replace_file(Path(""), b"")


def test_the_longest_name_that_a_file_can_have_is_written(tmp_path: Path) -> None:
    replace_file(tmp_path / ("x" * 255), b"whole")
    assert names(tmp_path) == ["x" * 255]
    for name in ("x" * 256, "a\0b", "x/y"):
        (tmp_path / "x").touch()
        with pytest.raises(StorageError):
            replace_file(tmp_path / name, b"")


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nowhere"):
        replace_file(tmp_path / "nowhere" / "file", b"")
    with pytest.raises(OSError, match="nowhere"):  # also the standard kind
        replace_file(tmp_path / "nowhere" / "file", b"")
