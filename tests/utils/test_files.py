"""Atomic files: a reader sees the old content or the complete new content, never a part."""

import errno
import os
from pathlib import Path

import pytest

from sspsam.errors import StorageError
from sspsam.utils import files
from sspsam.utils.files import atomic_replace, replace_file, write_file


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_an_open_file_keeps_its_content_when_it_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with path.open("rb") as old:
        replace_file(path, b"new")
        assert old.read() == b"old"
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["file"]


def test_a_replaced_file_has_the_permissions_of_a_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    replace_file(tmp_path / "file", b"")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


def raise_disk_full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_temporary_file(tmp_path: Path, monkeypatch, step: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(files.os, step, raise_disk_full)
    with pytest.raises(StorageError, match=r"file.*No space left"):
        replace_file(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_no_file_is_written_when_the_body_fails(tmp_path: Path) -> None:
    def fail_after_the_first_file(first: Path, second: Path) -> None:
        with atomic_replace(first, second) as [temporary, _]:
            write_file(temporary, lambda file: file.write(b"complete"))
            raise KeyError

    with pytest.raises(KeyError):
        fail_after_the_first_file(tmp_path / "a", tmp_path / "b")
    assert names(tmp_path) == []


@pytest.mark.parametrize("target", ["target", "nothing"])
def test_a_link_is_refused_and_the_file_to_which_it_leads_is_kept(tmp_path: Path, target: str) -> None:
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(StorageError, match="link"):
        replace_file(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"old"
    assert names(tmp_path) == ["link", "target"]


def test_a_file_in_a_linked_folder_is_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    replace_file(tmp_path / "link" / "a", b"new")
    assert (tmp_path / "folder" / "a").read_bytes() == b"new"


def test_folders_and_pipes_are_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(StorageError, match=name):
            replace_file(tmp_path / name, b"")
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(StorageError):
        replace_file(Path(""), b"")


def test_the_longest_valid_file_name_is_written_and_invalid_names_raise_storage_error(tmp_path: Path) -> None:
    replace_file(tmp_path / ("x" * 255), b"complete")
    assert names(tmp_path) == ["x" * 255]
    for name in ("x" * 256, "a\0b", "x/y"):
        (tmp_path / "x").touch()
        with pytest.raises(StorageError):
            replace_file(tmp_path / name, b"")


def test_an_error_for_a_missing_directory_names_it(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nowhere"):
        replace_file(tmp_path / "nowhere" / "file", b"")
    with pytest.raises(OSError, match="nowhere"):  # StorageError is also an OSError
        replace_file(tmp_path / "nowhere" / "file", b"")
