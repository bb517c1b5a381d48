"""The folder of the page: files go after a while, and there is a limit for all of them."""

import os
import time
from pathlib import Path

import pytest

from sspsam.demo.limits import Limits
from sspsam.demo.scenes import example
from sspsam.demo.storage import delete_old_files, require_room
from sspsam.errors import NoSpaceError


def write(path: Path, age: float = 0, size: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\0" * size)
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_old_files_are_deleted_but_not_new_ones_and_not_the_examples(tmp_path: Path) -> None:
    old, new = write(tmp_path / "a" / "old.png", age=100), write(tmp_path / "a" / "new.png", age=10)
    kept = write(tmp_path / "b" / example(0).file_name, age=1000)
    delete_old_files(tmp_path, 50)
    assert not old.exists()
    assert new.exists()
    assert kept.exists()


def test_a_full_folder_takes_nothing_until_files_are_old(tmp_path: Path) -> None:
    limits = Limits(max_folder_bytes=250, file_seconds=50)
    for number in range(3):
        write(tmp_path / str(number), age=20)
    with pytest.raises(NoSpaceError, match="try again later"):
        require_room(tmp_path, limits)
    write(tmp_path / "0", age=60)
    require_room(tmp_path, limits)
