"""Progress bars appear on a terminal, and nowhere else."""

import io
import sys

import pytest

from sspsam.utils.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal_as_stderr(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    return terminal


def advance(total: int) -> None:
    with progress("checking", total) as update:
        for _ in range(10):
            update(total // 10)


def test_a_large_total_shows_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_as_stderr(monkeypatch)
    advance(10**9)
    assert "checking" in terminal.getvalue()


def test_a_small_total_shows_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_as_stderr(monkeypatch)
    advance(10**6)
    assert terminal.getvalue() == ""


def test_no_bar_without_a_terminal_or_when_bars_are_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_as_stderr(monkeypatch)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    advance(10**9)
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS")
    monkeypatch.setattr(sys, "stderr", file := io.StringIO())
    advance(10**9)
    monkeypatch.setattr(sys, "stderr", None)
    advance(10**9)
    assert terminal.getvalue() == file.getvalue() == ""
