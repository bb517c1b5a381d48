"""`sspsam segment`: formats, labels, standard input, names, -q and -v."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from sspsam import Segmentation
from sspsam.batch.options import FORMATS
from sspsam.cli import main
from sspsam.cli.formats import ANSWER_FORMATS, BATCH_FORMATS
from sspsam.segmentation.exports.answer_files import ANSWER_SUFFIXES
from tests.support.command import run_command as run


@pytest.fixture
def photo(tmp_path: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(image).save(tmp_path / "a.png")
    return Path("a.png")


@pytest.fixture
def words(tiny_model: Path) -> list[object]:
    return ["-t", "the mug", "-t", "a cat", "--model", tiny_model, "--device", "cpu"]


def test_the_command_knows_every_format_of_the_library() -> None:
    assert tuple(ANSWER_SUFFIXES) == ANSWER_FORMATS
    assert BATCH_FORMATS == FORMATS


@pytest.mark.parametrize(
    "given",
    [
        ["--format", "mask,overlay,cutout,polygons"],
        ["--format", "mask", "--format", "overlay, cutout", "--format", "polygons,mask"],
    ],
)
def test_several_formats_are_written_in_one_run_with_the_names_of_a_batch(photo, words, given) -> None:
    done = run("segment", photo, *words, "-o", "out", *given)
    assert done.exit_code == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    for number, row in enumerate(rows, 1):
        names = [f"out/a.png-{number}{suffix}" for suffix in (".png", ".overlay.png", ".cutout.png", ".polygons.json")]
        assert row[5:] == names
    written = {path.name for path in Path("out").iterdir()}
    assert run("batch", photo, "batch", *words, *given).exit_code == 0
    assert written == {path.name for path in Path("batch").iterdir() if path.name.startswith("a.png-")}
    for name in written:
        assert Path("out", name).read_bytes() == Path("batch", name).read_bytes()


def test_json_has_the_files_and_the_label_and_is_read_back(photo, words) -> None:
    done = run("segment", photo, *words, "--label", "mug", "--label", "cat", "-o", "out", "--format", "json,mask")
    assert done.exit_code == 0, done.stderr
    for number, line in enumerate(map(json.loads, done.stdout.splitlines()), 1):
        assert line["files"] == {"json": f"out/a.png-{number}.json", "mask": f"out/a.png-{number}.png"}
        stored = json.loads(Path(line["files"]["json"]).read_text())
        assert (
            (line["image"], line["label"])
            == (stored["image"], stored["label"])
            == ("a.png", ["mug", "cat"][number - 1])
        )
        mask = np.asarray(Image.open(line["files"]["mask"])) == 255
        assert np.array_equal(Segmentation.from_dict(stored).mask, mask)
        assert np.array_equal(Segmentation.from_dict(line).mask, mask)


def test_an_existing_file_of_any_format_is_refused_and_nothing_is_written(photo, words) -> None:
    Path("out").mkdir()
    Path("out", "a.png-2.cutout.png").write_text("mine")
    done = run("segment", photo, *words, "-o", "out", "--format", "mask,cutout")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "a.png-2.cutout.png exists already: add --overwrite" in done.stderr
    assert [path.name for path in Path("out").iterdir()] == ["a.png-2.cutout.png"]
    assert run("segment", photo, *words, "-o", "out", "--format", "mask,cutout", "--overwrite").exit_code == 0
    assert len(list(Path("out").iterdir())) == 4


def test_images_of_one_name_get_different_files(photo, words) -> None:
    Path("sub").mkdir()
    Path("sub", "A.png").write_bytes(photo.read_bytes())
    done = run("segment", photo, "sub/A.png", *words[2:], "-o", "out")
    assert done.exit_code == 0, done.stderr
    assert {path.name for path in Path("out").iterdir()} == {"a.png-1.png", "A.png~2-1.png"}


@pytest.mark.parametrize("name", ["a.png", "standard input"])
def test_an_image_may_come_from_standard_input(photo, words, name) -> None:
    content = photo.read_bytes()
    if name != "a.png":
        content = b"no image"
    arguments = [str(word) for word in ("segment", "-", *words, "-o", "out")]
    done = CliRunner().invoke(main, arguments, input=content)
    if name == "a.png":
        assert done.exit_code == 0, done.output
        assert [line.split("\t")[::5] for line in done.output.splitlines()] == [
            ["-", "out/stdin-1.png"],
            ["-", "out/stdin-2.png"],
        ]
        run("segment", photo, *words, "-o", "out")
        assert Path("out/stdin-1.png").read_bytes() == Path("out/a.png-1.png").read_bytes()
    else:
        assert done.exit_code == 1
        assert "standard input: the image of 8 bytes is not an image" in done.output


def test_a_file_called_minus_is_reached_by_its_path_and_standard_input_only_once(photo, words) -> None:
    Path("-").write_bytes(photo.read_bytes())
    done = run("segment", "./-", *words[2:], "-o", "out")
    assert done.exit_code == 0, done.stderr
    assert Path("out/--1.png").is_file()
    done = run("segment", "-", "-", *words)
    assert done.exit_code == 2
    assert "standard input can be read only once" in done.stderr


def test_the_precision_of_the_encoders_is_an_option(photo, words) -> None:
    done = run("segment", photo, *words, "--dtype", "bfloat16", "-v")
    assert done.exit_code == 0, done.stderr
    assert re.search(r"model .* on cpu, bfloat16, loaded in", done.stderr)
    assert re.search(r"a\.png: 90 x 60 pixels, 2 texts, \d", done.stderr)
    assert run("segment", photo, *words, "--dtype", "float8").exit_code == 2


def test_quiet_prints_errors_only(photo, words, tiny_model) -> None:
    Path("photos").mkdir()
    Path("photos", "a.png").write_bytes(photo.read_bytes())
    loud = run("batch", "photos", "out", *words)
    assert "1 of 1 images done" in loud.stderr
    quiet = run("batch", "photos", "out", *words, "-q")
    assert (quiet.exit_code, quiet.stdout, quiet.stderr) == (0, "", "")
    long = ["-t", "word " * 100, *words[4:]]
    assert "word" in run("segment", photo, *long).stderr  # a warning about the words that are cut off
    assert run("segment", photo, *long, "-q").stderr == ""
    assert "HF_HUB_DISABLE_PROGRESS_BARS" not in os.environ
    assert "word" in run("segment", photo, *long).stderr  # -q ends with its command
    assert "no such image" in run("segment", "none.png", *words, "-q").stderr
    assert run("models", "-q", "-v").exit_code == 2


def test_verbose_prints_a_line_for_each_image_of_a_batch(photo, words) -> None:
    done = run("batch", photo, "out", *words, "--verbose")
    assert done.exit_code == 0, done.stderr
    assert re.search(r"^sspsam: a\.png: \d of 2 texts have a target$", done.stderr, re.MULTILINE)


@pytest.mark.parametrize("command", ["segment", "batch", "convert", "models", "download", "verify", "cache"])
def test_every_command_has_the_flags_for_messages(command: str) -> None:
    help_page = run(command, "--help").stdout
    assert "-q, --quiet" in help_page
    assert "-v, --verbose" in help_page


@pytest.mark.slow
def test_empty_standard_input_is_one_line(photo, words) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sspsam", *map(str, ("segment", "-", *words))],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    assert "standard input: the image of 0 bytes is empty" in done.stderr


@pytest.mark.slow
def test_the_file_behind_standard_input_is_not_replaced(photo, words) -> None:
    Path("out").mkdir()
    target = Path("out", "stdin-1.png")
    photo.rename(target)
    before = target.read_bytes()
    with target.open("rb") as file:
        done = subprocess.run(
            [sys.executable, "-m", "sspsam", *map(str, ("segment", "-", *words, "-o", "out", "--overwrite"))],
            capture_output=True,
            text=True,
            stdin=file,
            timeout=300,
            check=False,
        )
    assert done.returncode == 1
    assert "out/stdin-1.png is one of the images" in done.stderr
    assert target.read_bytes() == before


def test_the_limit_of_pixels_is_named_as_the_flag_that_raises_it(photo, words) -> None:
    for limit in ("5,399", "1,000"):  # Pillow refuses at twice its own limit, before the library looks
        done = run("segment", photo, *words, "--max-pixels", limit.replace(",", ""))
        wanted = f"more than --max-pixels {limit}. Reduce the image, or pass a larger --max-pixels"
        assert done.exit_code == 1
        assert wanted in done.stderr
    assert run("segment", photo, *words, "--max-pixels", "5400").exit_code == 0


def test_a_batch_with_other_options_is_refused_with_the_names_of_the_flags(photo, words) -> None:
    assert run("batch", photo, "out", *words).exit_code == 0
    done = run(
        "batch", photo, "out", "-t", "other", *words[4:], "--label", "x", "--format", "cutout", "--batch-size", "3"
    )
    assert done.exit_code == 1
    for difference in ("-t was", "--label was null", "--format was", "--batch-size was 1, is 3"):
        assert difference in done.stderr
    assert done.stderr.rstrip().endswith("or start again with --overwrite")


def test_wrong_formats_and_labels_are_named_as_they_are_typed(photo, words) -> None:
    for extra, message in (
        (["--format", "mask,tiff"], "'tiff' is not one of 'mask', 'overlay'"),
        (["--format", "cutout"], "--format cutout writes files: give a folder for them with -o DIR"),
        (["--label", "mug"], "--label was given 1 times and -t 2 times"),
        (["--label", "mug", "--label", " "], "the label is empty"),
    ):
        done = run("segment", photo, *words, *extra)
        assert done.exit_code == 2
        assert message in done.stderr
    for extra, message in (
        (["--instances"], "--instances has no effect without --format coco"),
        (["--min-area", "9"], "--min-area has no effect without --instances"),
        (["--coco-polygons"], "--coco-polygons has no effect without --format coco"),
        (["--label", "mug"], "--label was given 1 times and -t 2 times"),
    ):
        done = run("batch", photo, "out", *words, *extra)
        assert done.exit_code == 2
        assert message in done.stderr
    done = run("batch", "none.csv", "out", *words[4:], "--label", "x")
    assert (done.exit_code, "-t 0 times" in done.stderr) == (2, True)
    assert not Path("out").exists()
