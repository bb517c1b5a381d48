"""Progress is shown where somebody looks, and nowhere else."""

import io
import sys

import pytest

from sspsam.utils.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    return screen


def count(total: int) -> None:
    with progress("checking", total) as done:
        for _ in range(10):
            done(total // 10)


def test_a_long_task_is_shown_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    count(10**9)
    assert "checking" in terminal.getvalue()


def test_a_short_task_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    count(10**6)
    assert terminal.getvalue() == ""


def test_nothing_is_shown_where_nobody_looks_or_nobody_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    count(10**9)
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS")
    monkeypatch.setattr(sys, "stderr", file := io.StringIO())
    count(10**9)
    monkeypatch.setattr(sys, "stderr", None)
    count(10**9)
    assert terminal.getvalue() == file.getvalue() == ""
