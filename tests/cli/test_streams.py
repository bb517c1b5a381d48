"""Streams that cannot encode or cannot be written, and names that would steer a terminal; in a subprocess."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TEXTS = ["красный круг", "the \x1b[31mred\x1b[0m circle"]
NAMES = ["日本.png", "a\nforged\ttarget.png", "b\x1b[2J\x1b]0;title\x07.png", "plain.png"]


def segment(arguments: list[str], stdout: object, tmp_path: Path, **environment: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "sspsam", "segment", *arguments, "--device", "cpu"],
        stdout=stdout,  # type: ignore[arg-type]  # a file or PIPE
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


@pytest.fixture
def names(tmp_path: Path) -> list[str]:
    for name in NAMES:
        Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(tmp_path / name)
    (tmp_path / "bad\x1b[1A.png").write_bytes(b"\x1b[2Knot an image")
    return [*NAMES[:2], "bad\x1b[1A.png", *NAMES[2:]]


@pytest.mark.skipif(os.name == "nt", reason="Windows allows no such file names")
def test_every_line_is_one_line_of_printable_characters_in_any_encoding(
    names: list[str], tiny_model: Path, tmp_path: Path
) -> None:
    arguments = [*names, *(word for text in TEXTS for word in ("-t", text)), "--model", str(tiny_model), "-o", "out"]
    process = segment(arguments, subprocess.PIPE, tmp_path, PYTHONIOENCODING="cp1252", PYTHONUTF8="0")
    output, messages = process.communicate(timeout=300)
    assert process.returncode == 1  # one image is bad
    for stream in (output, messages):
        assert all(byte == 10 or byte == 9 or 32 <= byte < 127 for byte in stream), stream
    lines = output.decode().splitlines()
    assert len(lines) == len(NAMES) * len(TEXTS)
    assert all(line.count("\t") == 5 for line in lines)
    assert len(list((tmp_path / "out").glob("*.png"))) == len(lines)
    assert len(messages.decode().splitlines()) == 2, messages


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only where there is a device that is always full")
def test_a_full_standard_output_is_one_line_and_all_files_are_written(
    names: list[str], tiny_model: Path, tmp_path: Path
) -> None:
    with Path("/dev/full").open("wb") as full:
        process = segment(["plain.png", NAMES[0], "-t", "a", "--model", str(tiny_model), "-o", "out"], full, tmp_path)
        _, messages = process.communicate(timeout=300)
    assert process.returncode == 1
    lines = messages.decode().splitlines()
    assert sum("standard output" in line for line in lines) == 1
    assert not any("Traceback" in line or "Exception ignored" in line for line in lines), lines
    assert len(list((tmp_path / "out").glob("*.png"))) == 2
