"""Messages of Pillow and libtiff about the images of a batch, which threads decode at the same time."""

import io
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sspsam.cli.image_messages import messages_with_names_of_images
from sspsam.images import load_image
from sspsam.images.decoding_hook import DECODING_HOOK
from tests.support.command import run_command as run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three TIFF files with damaged lines, about which libtiff complains, and three JPEG files with damaged EXIF."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90), np.uint8)
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff"
    for number in range(3):
        buffer = io.BytesIO()
        Image.fromarray(pixels).convert("1").save(buffer, "TIFF", compression="group4")
        data = bytearray(buffer.getvalue())
        data[len(data) // 2 : len(data) // 2 + 20] = b"\xff\xd9" * 10
        (tmp_path / f"lines{number}.tif").write_bytes(data)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG")
        segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
        (tmp_path / f"exif{number}\x1b[2J.jpg").write_bytes(buffer.getvalue()[:2] + segment + buffer.getvalue()[2:])
    return tmp_path


def test_every_message_about_an_image_of_a_batch_has_the_name_of_the_image(
    folder: Path, tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ("--model", tiny_model, "--device", "cpu", "--workers", 4)
    done = run("batch", folder, tmp_path / "out", "-t", "x", *options)
    assert done.exit_code == 0, done.stderr
    *lines, summary = done.stderr.splitlines()
    assert summary.startswith("sspsam: 6 of 6 images done")
    names = [line.split(": ")[1] for line in lines]
    assert all(line.startswith("sspsam: ") and line.isprintable() for line in lines)
    for number in range(3):
        tiff, jpeg = f"{folder}/lines{number}.tif", f"{folder}/exif{number}\\x1b[2J.jpg"
        assert 1 <= names.count(tiff) <= 6
        assert names.count(jpeg) == 1
        assert all(("Fax4Decode" in line or "more messages" in line) for line in lines if tiff in line)
        assert all("EXIF" in line for line in lines if jpeg in line)
    assert len(set(names)) == 6
    assert capfd.readouterr().err == ""


def test_threads_that_warn_at_the_same_time_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    together = threading.Barrier(4)

    def decode(name: str) -> None:
        with DECODING_HOOK(name, False):
            together.wait(20)
            for _ in range(3):
                warnings.warn_explicit("odd", UserWarning, "f.py", 1, module="PIL.Image")
            together.wait(20)

    with messages_with_names_of_images():
        threads = [threading.Thread(target=decode, args=(f"image{number}",)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        warnings.warn_explicit("of no image", UserWarning, "f.py", 1, module="elsewhere")
    lines = capsys.readouterr().err.splitlines()
    assert sorted(lines) == [*(f"sspsam: image{number}: odd" for number in range(4)), "sspsam: of no image"]


def test_what_python_writes_while_libtiff_decodes_is_not_taken_for_a_message(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread writes to standard error all the time."""
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            print("progress", file=sys.stderr)
            time.sleep(0.0005)

    with open(2, "w", buffering=1, closefd=False) as real:
        monkeypatch.setattr(sys, "stderr", real)
        writer = threading.Thread(target=write)
        with messages_with_names_of_images():
            writer.start()
            for _ in range(30):
                load_image(folder / "lines0.tif")
            stop.set()
            writer.join()
        monkeypatch.undo()
    lines = capfd.readouterr().err.splitlines()
    assert "progress" in lines
    assert {line for line in lines if "lines0.tif" not in line} == {"progress"}
    assert not any("progress" in line for line in lines if "lines0.tif" in line)


def test_the_streams_and_the_hook_are_restored(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stream, show = sys.stderr, warnings.showwarning
    with messages_with_names_of_images():
        load_image(folder / "lines0.tif")
    assert (sys.stderr, warnings.showwarning) == (stream, show)
    capfd.readouterr()
    load_image(folder / "lines0.tif")
    assert capfd.readouterr().err.startswith("Fax4Decode")


def test_a_command_that_runs_out_of_memory_outside_of_the_model_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("sspsam.checkpoints.convert.convert_checkpoint", fail)
    done = run("convert", tmp_path / "a.pth", tmp_path / "out")
    assert (done.exit_code, done.stderr) == (1, "sspsam: not enough memory\n")
