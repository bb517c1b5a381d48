"""Odd paths of a batch: too long, not UTF-8, with `~`, without permission, and system folders among the input."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from sspsam import errors
from sspsam.batch import run_batch
from tests.support.batches import TEXT, draw, lines, needs_links

ODD = {
    "long component": "x" * 300,
    "long path": "a/" * 3000,
    "NUL": "nul\0",
    "surrogate": "surrogate\ud800",
    "below a file": "images/a.png/below",
    "loop": "loop/x",
    "empty": "",
    "blank": " ",
    "data URL": "data:image/png;base64," + "A" * 1_000_000,
}


@needs_links
@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("place", ["source", "output", "prompts", "paths", "list", "csv", "jsonl"])
def test_an_odd_path_in_any_place_is_a_short_error_of_the_right_kind(
    predictor, images, tmp_path, monkeypatch, place, odd
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    name = ODD[odd]
    arguments: dict[str, Any] = {"source": images, "output": "out", "texts": TEXT}
    if place == "paths":
        arguments["source"] = [name]
    elif place in ("source", "output"):
        arguments[place] = name
    elif place == "prompts":
        arguments |= {"texts": None, "prompts": f"{name}.txt" if odd == "long component" else name}
    else:
        if place == "list" and (odd in ("empty", "blank", "surrogate")):
            return  # an empty list; a list in UTF-8 has no surrogates
        if place == "csv" and odd == "surrogate":
            return  # a table in UTF-8 has no surrogates
        content = {"list": f"{name}\n", "csv": f'image,text\n"{name}",\n'}.get(place, json.dumps({"image": name}))
        arguments["source"] = Path({"list": "l.txt", "csv": "t.csv", "jsonl": "t.jsonl"}[place])
        arguments["source"].write_text(content)
    kind = errors.StorageError if place == "output" else errors.ManifestError
    is_too_long_for_csv = place == "csv" and odd == "data URL"
    if place in ("paths", "list", "csv", "jsonl") and odd not in ("empty", "blank") and not is_too_long_for_csv:
        summary = run_batch(predictor=predictor, **arguments)  # it fails its image only
        assert (summary.pictures, summary.failed) == (1, 1)
        [line] = lines(Path("out/errors.jsonl"))
        assert line["error"] in ("ImageError", "ImageNotFoundError")
        return
    with pytest.raises(kind) as raised:
        run_batch(predictor=predictor, **arguments)
    assert len(str(raised.value)) < 4100
    assert "\0" not in str(raised.value)
    assert not Path("out").exists()


def test_a_tilde_is_the_home_folder_in_every_path(predictor, images, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "p.txt").write_text(TEXT)
    (tmp_path / "t.csv").write_text(f"image,text\n~/images/a.png,{TEXT}\n")
    assert run_batch("~/images", "~/out", predictor=predictor, prompts="~/p.txt").done == 2
    assert run_batch(["~/images/a.png"], "~/out2", TEXT, predictor=predictor).done == 1
    assert run_batch("~/t.csv", Path("~/out3"), predictor=predictor).done == 1
    assert not list((tmp_path / "here").iterdir())
    assert not any(path.name.startswith("~") for path in tmp_path.rglob("*"))


@pytest.mark.parametrize("place", ["source", "output", "prompts"])
def test_a_folder_that_may_not_be_entered_is_named(predictor, images, tmp_path, monkeypatch, place) -> None:
    arguments: dict[str, Any] = {"source": images, "output": tmp_path / "out", "texts": TEXT}
    locked = tmp_path / "locked" / "x.txt"
    arguments |= {place: locked} if place != "prompts" else {"prompts": locked, "texts": None}
    for name in ("stat", "open", "mkdir", "lstat", "scandir"):
        real = getattr(os, name)

        def refusing(path: Any, *rest: Any, real: Any = real, **named: Any) -> Any:
            if "locked" in str(path):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, *rest, **named)

        monkeypatch.setattr(os, name, refusing)
    with pytest.raises(errors.StorageError if place == "output" else errors.ManifestError, match="locked"):
        run_batch(predictor=predictor, **arguments)


@pytest.mark.parametrize(
    "name", ["@eaDir", "lost+found", ".thumbnails", "__MACOSX", "$RECYCLE.BIN", "#recycle", "Thumbs"]
)
def test_system_folders_are_neither_images_nor_an_obstacle(predictor, images, tmp_path, name, monkeypatch) -> None:
    draw(images / "sub" / name / "a.png", 3)
    scan = os.scandir

    def refusing(path: Any) -> Any:
        if isinstance(path, str | os.PathLike) and Path(path).name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    summary = run_batch(images, tmp_path / "out", TEXT, predictor=predictor)
    assert (summary.pictures, summary.failed) == (2, 0)
