"""Faults found in real use of the command: paths, values, streams and files that are not the command's own."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.command import run_command as run


def draw(path: Path, level: int = 90) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 30, 3), level, np.uint8)).save(path)
    return path.read_bytes()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder and the home folder, with two images."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    folder = tmp_path / "here"
    draw(folder / "a.png")
    draw(folder / "a.png-1.png", 30)
    monkeypatch.chdir(folder)
    return folder


def one_line_about(message: str, *words: str) -> bool:
    lines = [line for line in message.splitlines() if line and not line.startswith(("Usage:", "Try "))]
    return len(lines) == 1 and all(word in lines[0] for word in words) and len(lines[0]) < 5000


# ---------------------------------------------------------------- output over foreign files


def test_segment_replaces_neither_an_image_nor_a_file_that_it_did_not_write(here: Path, tiny_model: Path) -> None:
    before = (here / "a.png-1.png").read_bytes()
    words = ["-t", "x", "--model", tiny_model, "--device", "cpu", "-o", "."]
    for extra in ([], ["--overwrite"]):
        done = run("segment", "a.png", "a.png-1.png", *words, *extra)
        assert done.exit_code == 1
        assert "a.png-1.png is one of the images" in done.stderr
        assert (here / "a.png-1.png").read_bytes() == before
        assert (here / "a.png-1.png-1.png").exists()  # the other image is segmented
        (here / "a.png-1.png-1.png").unlink()
    done = run("segment", "a.png", *words)
    assert done.exit_code == 1
    assert "a.png-1.png exists already: add --overwrite" in done.stderr
    assert (here / "a.png-1.png").read_bytes() == before
    done = run("segment", "a.png", *words, "--overwrite")
    assert done.exit_code == 0, done.stderr
    assert (here / "a.png-1.png").read_bytes() != before


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
@pytest.mark.parametrize("kind", ["symbolic", "hard", "spelling", "reversed"])
def test_segment_never_replaces_an_image_through_a_link_or_another_spelling(
    here: Path, tiny_model: Path, kind: str
) -> None:
    (here / "out").mkdir()
    target, other = here / "out" / "a.png-1.png", here / "other.png"
    draw(other, 60)
    given = other
    if kind == "symbolic":
        target.symlink_to(other)
    elif kind == "hard":
        os.link(other, target)
    elif kind == "spelling":
        other.rename(target)
        given = here / "out" / ".." / "out" / "a.png-1.png"
    else:
        other.rename(target)
        given = here / "link.png"
        given.symlink_to(target)
    before = target.read_bytes()
    words = ["-t", "x", "--model", tiny_model, "--device", "cpu", "-o", "out", "--overwrite"]
    done = run("segment", "a.png", given, *words)
    assert done.exit_code == 1
    assert "out/a.png-1.png is " in done.stderr
    assert target.read_bytes() == before == given.read_bytes()


def test_no_file_of_an_image_is_written_if_one_of_them_may_not_be(here: Path, tiny_model: Path) -> None:
    (here / "out" / "a.png-2.json").mkdir(parents=True)
    words = ["-t", "x", "-t", "y", "--model", tiny_model, "--device", "cpu", "-o", "out", "--format", "json"]
    done = run("segment", "a.png", *words, "--overwrite")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "a.png-2.json exists and is not a regular file" in done.stderr
    assert [path.name for path in (here / "out").iterdir()] == ["a.png-2.json"]


def test_segment_of_a_folder_names_the_batch_command(here: Path, tiny_model: Path) -> None:
    done = run("segment", here, "a.png", "-t", "x", "--model", tiny_model, "--device", "cpu")
    assert done.exit_code == 1
    assert "use sspsam batch" in done.stderr
    assert len(done.stdout.splitlines()) == 1


# ---------------------------------------------------------------- values of the command line


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["batch", "", "out", "-t", "x", "--model", "shapes"], "INPUT"),
        (["batch", "photos", "", "-t", "x", "--model", "shapes"], "OUTPUT"),
        (["batch", "photos", " ", "-t", "x", "--model", "shapes"], "OUTPUT"),
        (["batch", "photos", "out", "-t", "x", "--model", ""], "--model"),
        (["batch", "photos", "out", "-t", "x", "--model", "shapes", "--cache", ""], "--cache"),
        (["batch", "photos", "out", "-t", "x", "--model", "shapes", "--cache-dir", ""], "--cache-dir"),
        (["batch", "photos", "out", "--model", "shapes", "--prompts", ""], "--prompts"),
        (["segment", "", "-t", "x", "--model", "shapes"], "IMAGE"),
        (["segment", "a.png", "", "-t", "x", "--model", "shapes"], "IMAGE"),
        (["segment", "a.png", "-t", "x", "--model", "shapes", "-o", ""], "-o"),
        (["segment", "a.png", "-t", "x", "--model", "  "], "--model"),
        (["models", "--cache-dir", ""], "--cache-dir"),
    ],
)
def test_an_empty_path_is_wrong_usage_and_its_argument_is_named(here: Path, words: list[str], name: str) -> None:
    before = sorted(here.rglob("*"))
    done = run(*words)
    assert done.exit_code == 2
    assert one_line_about(done.stderr, name, "empty"), done.stderr
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("flags", ["--mask-threshold", "--cache --cache-limit", "--ray --ray-cpus", "--ray --ray-gpus"])
def test_numbers_that_are_not_finite_are_wrong_usage(here: Path, flags: str, value: str) -> None:
    *others, flag = flags.split()
    given = [f"{others[0]}=here"] if others == ["--cache"] else others
    done = run("batch", "photos", "out", "-t", "x", "--model", "shapes", *given, f"{flag}={value}")
    assert done.exit_code == 2
    assert one_line_about(done.stderr, flag), done.stderr


def test_a_tilde_that_the_shell_did_not_expand_is_the_home_folder(here: Path, tiny_model: Path) -> None:
    model = ["--model", tiny_model, "--device", "cpu", "-t", "x"]
    home = here.parent / "home"
    draw(home / "photos" / "b.png")
    done = run("batch", "~/photos", "~/out", *model, "--cache=~/emb")
    assert done.exit_code == 0, done.stderr
    (home / "p.txt").write_text("x")
    done = run("batch", "~/photos", "~/out2", *model[:-2], "--prompts=~/p.txt")
    assert done.exit_code == 0, done.stderr
    done = run("segment", "~/photos/b.png", *model, "-o", "~/masks")
    assert done.exit_code == 0, done.stderr
    assert {path.name for path in home.iterdir()} == {"photos", "out", "out2", "emb", "p.txt", "masks"}
    shutil.copytree(tiny_model, home / "m")
    done = run("segment", "a.png", "-t", "x", "--model=~/m", "--device", "cpu")
    assert done.exit_code == 0, done.stderr
    assert (home / "masks" / "b.png-1.png").exists()
    assert not (here / "~").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["segment", "a.png", "-t", "x", "--model", "shapes", "--device", "VALUE"],
        ["segment", "a.png", "-t", "x", "--model", "shapes", "--format", "VALUE"],
        ["batch", "photos", "out", "-t", "x", "--model", "shapes", "--mask-threshold", "VALUE"],
        ["batch", "photos", "out", "-t", "x", "--model", "shapes", "--shard", "VALUE"],
        ["batch", "photos", "out", "-t", "x", "--model", "shapes", "VALUE"],
        ["batch", "photos", "out", "--VALUE"],
        ["--VALUE"],
        ["xVALUE"],  # click 8.1 takes a name that begins with a control character for an option, and prints its help
        ["batch", "VALUE", "out", "-t", "x", "--model", "shapes"],
        ["batch", "photos", "VALUE", "-t", "x", "--model", "shapes"],
        ["batch", ".", "out", "-t", "x", "--model", "shapes", "--glob", "VALUE"],
        ["batch", ".", "out", "-t", "x", "--model", "shapes", "--cache", "VALUE"],
        ["segment", "VALUE", "-t", "x", "--model", "shapes"],
        ["segment", "a.png", "-t", "x", "--model", "shapes", "-o", "VALUE"],
        ["segment", "a.png", "-t", "x", "--model", "VALUE"],
        ["segment", "a.png", "-t", "VALUE", "--model", "shapes", "--device", "cpu"],
    ],
)
@pytest.mark.parametrize("value", ["data:image/png;base64," + "A" * 1_000_000, "\x1b[2J\nforged\r\t" * 90])
def test_every_message_about_a_value_is_short_and_one_printable_line(here: Path, words: list[str], value: str) -> None:
    if (value.startswith("\x1b") and words[3:5] == ["VALUE", "--model"]) or (value[0] == "\x1b" and "--cache" in words):
        pytest.skip("a valid text, and a valid name of a folder")
    done = run(*(word.replace("VALUE", value) for word in words))
    assert done.exit_code in (1, 2)
    lines = [line for line in done.stderr.splitlines() if line and not line.startswith(("Usage:", "Try "))]
    lines = [line for line in lines if "images failed" not in line]
    assert len(lines) == 1, done.stderr[:2000]
    assert lines[0].isprintable()
    assert len(lines[0]) < 4100
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 3000, "nul\0", "surrogate\ud800", "a.png/below", "loop/x"])
@pytest.mark.parametrize("place", ["source", "output", "prompts", "cache", "image", "folder"])
def test_an_odd_path_in_any_place_is_one_line_and_no_traceback(here: Path, name: str, place: str) -> None:
    if os.name != "nt":
        (here / "loop").symlink_to("loop")
    model = ["--model", "shapes", "--device", "cpu"]
    paths = {"source": "a.png", "output": "out", "image": "a.png", "folder": "masks", place: name}
    if place in ("image", "folder"):
        words = ["segment", paths["image"], "-o", paths["folder"], "-t", "x", *model]
    else:
        words = ["batch", paths["source"], paths["output"], *model]
        words += ["--prompts", name] if place == "prompts" else ["-t", "x"]
        words += ["--cache", name] if place == "cache" else []
    done = run(*words)
    assert done.exit_code in ((0, 2) if place == "cache" else (1, 2)), done.output  # the cache is not needed
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    lines = [line for line in done.stderr.splitlines() if line and not line.startswith(("Usage:", "Try "))]
    assert len([line for line in lines if "images failed" not in line and "images done" not in line]) == 1, lines


# ---------------------------------------------------------------- streams


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "sspsam", *map(str, words)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only where there is a device that is always full")
@pytest.mark.parametrize("words", [["--version"], ["--help"], ["segment", "--help"], ["models"]])
def test_a_full_standard_output_is_one_line_for_every_command(here: Path, words: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command(*words), stdout=full, stderr=subprocess.PIPE, text=True, timeout=300)
    assert done.returncode == 1
    assert one_line_about(done.stderr, "standard output"), done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only where there is a device that is always full")
def test_a_full_standard_error_does_not_change_the_exit_status(here: Path, tiny_model: Path) -> None:
    model = ["-t", "x", "--model", tiny_model, "--device", "cpu"]
    (here / "bad.png").write_text("no image")
    for words, status in (
        (["segment", "a.png", *model], 0),
        (["segment", "bad.png", "a.png", *model], 1),
        (["segment", "a.png"], 2),
        (["batch", "a.png", "out", *model], 0),
        (["batch", ".", "out2", *model], 1),
    ):
        with Path("/dev/full").open("wb") as full:
            done = subprocess.run(command(*words), stdout=subprocess.PIPE, stderr=full, timeout=300)
        assert done.returncode == status, words
        assert len(done.stdout.splitlines()) == (words[0] == "segment" and status != 2)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows allows no such file names")
def test_odd_names_in_a_folder_forge_no_line_of_a_batch(here: Path, tiny_model: Path) -> None:
    folder = here / "in\x1b[2J\nforged"
    draw(folder / "good\x1b]0;t\x07.png")
    for name in ("bad\nsspsam: forged.png", "tab\t\r.png", os.fsdecode(b"bytes-\xff.png")):
        (folder / name).write_text("no image")
    words = ["batch", folder, here / "out\nforged", "-t", "x", "--model", tiny_model, "--device", "cpu"]
    done = subprocess.run(
        command(*words),
        capture_output=True,
        timeout=300,
        env={**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"},
    )
    assert (done.returncode, done.stdout) == (1, b"")
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 2, lines
    assert all(line.startswith("sspsam: ") and line.isascii() and line.isprintable() for line in lines)
    done = subprocess.run(command(*words, "--fail-fast"), capture_output=True, timeout=300)
    assert len(done.stderr.decode().splitlines()) == 1


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_an_interrupted_command_ends_with_one_line(here: Path, tiny_model: Path) -> None:
    code = (
        "import signal, time, sspsam.cli, sspsam.predictor as p\n"
        # processes that a shell starts in the background inherit that they ignore the signal
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "p.SSPSAMPredictor.from_pretrained = lambda *a, **k: (print('ready', flush=True), time.sleep(60))\n"
        "sspsam.cli.main()"
    )
    words = ["segment", "a.png", "-t", "x", "--model", str(tiny_model)]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130
    assert one_line_about(message, "interrupted"), message


def test_warnings_and_lines_of_libraries_are_lines_with_the_name_of_the_image(
    here: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import warnings

    from sspsam.predictor import SSPSAMPredictor

    predict = SSPSAMPredictor.predict

    def noisy(self: SSPSAMPredictor, *arguments: object, **named: object) -> object:
        os.write(2, b"TIFFReadDirectory: Warning, \x1b[2J unknown field.\n" * 3)
        warnings.warn("Truncated File Read", UserWarning, stacklevel=1)
        return predict(self, *arguments, **named)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(SSPSAMPredictor, "predict", noisy)
    done = run("segment", "a.png", "-t", "x", "--model", tiny_model, "--device", "cpu")
    assert done.exit_code == 0
    assert done.stderr.splitlines() == [
        "sspsam: a.png: Truncated File Read",
        "sspsam: a.png: TIFFReadDirectory: Warning, \\x1b[2J unknown field.",
    ]
    assert capfd.readouterr().err == ""
