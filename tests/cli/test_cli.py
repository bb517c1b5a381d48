"""`sspsam segment`, `sspsam convert`, and the installed command."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from tests.support.command import run_command as run


@pytest.fixture
def photographs(tmp_path: Path, image: np.ndarray) -> list[Path]:
    (tmp_path / "other").mkdir()
    paths = [tmp_path / "a.png", tmp_path / "other" / "A.jpg"]
    for path in paths:
        Image.fromarray(image).save(path)
    return paths


def test_segment_prints_a_line_for_each_result_and_writes_masks(photographs, tiny_model, tmp_path) -> None:
    out = tmp_path / "out"
    done = run("segment", *photographs, "-t", "the mug", "-t", "a\tcat", "--model", tiny_model, "-o", out)
    assert done.exit_code == 0, done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[:2] for line in lines] == [[str(p), text] for p in photographs for text in ("the mug", "a cat")]
    assert {line[2] for line in lines} <= {"target", "no-target"}
    files = [Path(line[5]) for line in lines]
    assert len({str(file).casefold() for file in files}) == 4  # a.png and A.jpg do not overwrite each other
    for file in files:
        assert Image.open(file).size == (90, 60)


def test_segment_writes_overlays_and_json(photographs, tiny_model, tmp_path) -> None:
    out = tmp_path / "out"
    done = run("segment", photographs[0], "-t", "the mug", "--model", tiny_model, "-o", out, "--format", "overlay")
    assert done.exit_code == 0, done.stderr
    assert Image.open(out / "a.png-1.overlay.png").mode == "RGB"
    done = run("segment", photographs[0], "-t", "the mug", "--model", tiny_model, "-o", out, "--format", "json")
    plain = json.loads(done.stdout)
    assert plain["image"] == str(photographs[0])
    assert json.loads((out / "a.png-1.json").read_text())["mask"] == plain["mask"]
    assert coco.decode(plain["mask"]).shape == (60, 90)


def test_file_names_of_any_script_and_length_are_valid(photographs, tiny_model, tmp_path) -> None:
    long = [tmp_path / ("写" * 80 + ".png"), tmp_path / ("é" * 120 + ".png"), tmp_path / "- odd\nname.png"]
    for path in long:
        shutil.copy(photographs[0], path)
    done = run("segment", "-t", "the mug", "--model", tiny_model, "-o", tmp_path / "out", "--", *long)
    assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_wrong_usage_has_exit_status_two(photographs, tiny_model, tmp_path) -> None:
    assert run("segment", photographs[0], "-t", " ", "--model", tiny_model).exit_code == 2
    assert run("segment", photographs[0], "-t", "x", "--model", tiny_model, "--format", "overlay").exit_code == 2
    assert run("segment", photographs[0], "-t", "x").exit_code == 2


def test_unreadable_image_fails_the_command_but_not_the_other_images(photographs, tiny_model, tmp_path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    done = run("segment", bad, photographs[0], tmp_path / "none.png", "-t", "the mug", "--model", tiny_model)
    assert done.exit_code == 1
    assert len(done.stdout.splitlines()) == 1
    assert "bad.jpg" in done.stderr
    assert "none.png" in done.stderr
    assert "2 of 3 images failed" in done.stderr


def test_pixel_limit_of_sspsam_replaces_that_of_pillow(photographs, tiny_model, monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # the image has 5,400
    done = run("segment", photographs[0], "-t", "the mug", "--model", tiny_model)
    assert done.exit_code == 0, done.stderr
    assert "DecompressionBomb" not in done.stderr
    assert Image.MAX_IMAGE_PIXELS == 1000  # restored


def test_wrong_usage_is_status_two_and_a_missing_checkpoint_is_status_one(photographs, tmp_path) -> None:
    assert run("segment", photographs[0]).exit_code == 2
    assert run("segment").exit_code == 2
    assert run("nonsense").exit_code == 2
    done = run("segment", photographs[0], "-t", "x", "--model", tmp_path / "none")
    assert done.exit_code == 1
    assert done.stdout == ""
    assert "none" in done.stderr


def test_unknown_device_is_named(photographs, tiny_model) -> None:
    done = run("segment", photographs[0], "-t", "x", "--model", tiny_model, "--device", "toaster")
    assert done.exit_code == 1
    assert "toaster" in done.stderr


def test_convert_writes_a_checkpoint_that_segment_loads(photographs, tiny_checkpoint, tmp_path) -> None:
    done = run("convert", tiny_checkpoint, tmp_path / "own", "--dtype", "float16", "--source", "tests")
    assert done.exit_code == 0, done.stderr
    config = json.loads((tmp_path / "own" / "config.json").read_text())
    assert done.stdout == f"{tmp_path / 'own'}\t{config['fingerprint']}\n"
    assert config["source"] == "tests"
    assert run("segment", photographs[0], "-t", "x", "--model", tmp_path / "own").exit_code == 0


def test_convert_names_the_damaged_file(tmp_path) -> None:
    (tmp_path / "bad.pth").write_bytes(b"nothing")
    done = run("convert", tmp_path / "bad.pth", tmp_path / "own")
    assert done.exit_code == 1
    assert "bad.pth" in done.stderr
    assert not (tmp_path / "own").exists()


def test_unwritable_output_is_named_without_a_traceback(photographs, tiny_model, tmp_path) -> None:
    (tmp_path / "file").touch()
    done = run("segment", photographs[0], "-t", "x", "--model", tiny_model, "-o", tmp_path / "file" / "deeper")
    assert done.exit_code == 1
    assert "file" in done.stderr


def test_the_installed_command_and_the_module_are_the_same(tmp_path) -> None:
    script = shutil.which("sspsam", path=str(Path(sys.executable).parent))
    outputs = [
        subprocess.run([*command, "--version"], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
        for command in ([script], [sys.executable, "-m", "sspsam"])
    ]
    assert outputs[0] == outputs[1]
    assert outputs[0].startswith("sspsam, version ")
