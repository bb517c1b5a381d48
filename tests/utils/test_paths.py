"""Paths of the user, and texts that are printed."""

import os
from pathlib import Path

import pytest

from sspsam.errors import StorageError
from sspsam.utils.paths import open_regular_file, printable, shown, shown_repr, user_file, user_path


def test_a_path_is_expanded_and_may_be_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert user_path("~/x", "the file", StorageError) == tmp_path / "x"
    assert user_path(b"x.png", "the file", StorageError) == Path("x.png")


@pytest.mark.parametrize("path", ["", "  ", "a\0b", "x" * 5000, "\ud800"])
def test_an_impossible_path_is_named_shortly(path: str) -> None:
    with pytest.raises(StorageError, match="the file") as caught:
        user_path(path, "the file", StorageError)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("path", ["new/", b"new/", "new/.", ".", "..", "a/..", "new//"])
def test_a_path_of_a_folder_is_no_path_of_a_file(path: str | bytes) -> None:
    with pytest.raises(StorageError, match="folder"):
        user_file(path, "the file", StorageError)
    assert user_file("new/a", "the file", StorageError) == Path("new/a")


@pytest.mark.parametrize("name", ["日本.png", "3.05.10\u202fPM.png", "می‌خواهم", "a\u00a0b", "👩‍💻.png", "a\u3000b"])
def test_characters_that_names_really_have_are_printed_as_they_are(name: str) -> None:
    assert printable(name) == name


@pytest.mark.parametrize("character", ["\n", "\t", "\x1b", "\x9b", "\u2028", "\u202e", "\u2066", "\udc80", "\x7f"])
def test_characters_that_steer_a_terminal_or_forge_a_line_are_escaped(character: str) -> None:
    text = printable(f"a{character}b")
    assert character not in text
    assert text.startswith("a\\")
    assert len(text.splitlines()) == 1


def test_a_shown_value_is_short() -> None:
    assert len(shown("x" * 10**6)) < 300


def test_a_value_that_python_does_not_print_is_shown_by_its_kind() -> None:
    nested: list[object] = []
    for _ in range(5000):
        nested = [nested]
    assert shown_repr(nested) == "<list>"
    assert shown_repr(10**5000) == "<int>"
    assert shown_repr("a\nb") == r"'a\nb'"


@pytest.mark.timeout(20)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="only where there are pipes")
def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises((StorageError, OSError), match=r"not a regular file|Is a directory"):
            open_regular_file(path, StorageError)
