"""Batches: what is written, what is refused, and that nothing is lost or doubled whatever happens."""

import csv
import errno
import gc
import json
import os
import shutil
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path, PurePosixPath
from random import Random
from typing import Any

import numpy as np
import psutil
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

from sspsam import SSPSAMPredictor, batch, errors
from sspsam.batch import BatchOptions, Shard, run_batch
from sspsam.batch.naming import stems_of
from sspsam.batch.writing import Recorder
from sspsam.cli import main
from sspsam.shapes import draw_scene
from tests.support.pictures import write_bad_pictures

TEXTS = ["the red circle", "a dog"]


@pytest.fixture(scope="module")
def predictor(tiny_model: Path) -> SSPSAMPredictor:
    return SSPSAMPredictor.from_pretrained(tiny_model, device="cpu")


def draw(path: Path, seed: int, size: tuple[int, int] = (60, 90)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_scene(seed, size).pixels).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five pictures in two folders, one of them not a picture, and a file that has nothing to do with them."""
    folder = tmp_path / "photos"
    for seed, name in enumerate(["b.png", "a.jpg", "sub/a.jpg", "sub/deeper/c.png"]):
        draw(folder / name, seed)
    (folder / "bad.jpg").write_text("no picture")
    (folder / "notes.md").write_text("not meant")
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder with its content."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def test_the_output_mirrors_the_input_and_says_what_predict_says(predictor, photos, tmp_path) -> None:
    summary = run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor)
    results = lines(tmp_path / "out" / "results.jsonl")
    images = ["a.jpg", "b.png", "sub/a.jpg", "sub/deeper/c.png"]
    assert [(line["image"], line["text"]) for line in results] == [(image, text) for image in images for text in TEXTS]
    for line in results:
        alone = predictor.predict(TEXTS, image=photos / line["image"])[line["number"] - 1]
        assert line == line | alone.to_dict()
        assert line["files"] == {"mask": f"{line['image']}-{line['number']}.png"}
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / line["files"]["mask"])) == 255, alone.mask)
        assert (line["of"], line["fingerprint"]) == (2, predictor.fingerprint)
    [failed] = lines(tmp_path / "out" / "errors.jsonl")
    assert (failed["image"], failed["error"]) == ("bad.jpg", "ImageError")
    assert "not a picture" in failed["message"]
    counted = (summary.pictures, summary.done, summary.earlier, summary.failed, summary.expressions)
    assert counted == (5, 4, 0, 1, 8)
    assert summary.passed_over == 1
    files = {path for path, content in tree(tmp_path / "out").items() if content is not None}
    assert files == {"job.json", "results.jsonl", "errors.jsonl", *(line["files"]["mask"] for line in results)}


def test_a_second_run_of_the_same_does_nothing(predictor, photos, tmp_path, monkeypatch) -> None:
    run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor)
    before = tree(tmp_path / "out")
    monkeypatch.setattr(predictor._encoder, "encode", None)
    summary = run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor)
    assert (summary.done, summary.earlier, summary.failed) == (0, 4, 1)
    assert tree(tmp_path / "out") == before


class Crash(BaseException):
    """The process is dead: nothing that it would still do reaches the disk."""


class Doomed:
    """Lets a number of writes, flushes and renames through, breaks the next in the middle, and refuses all others."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, allowed: int) -> None:
        self.left = allowed
        for module, name in (
            (os, "write"),
            (os, "fsync"),
            (os, "replace"),
            (os, "unlink"),
            (os, "mkdir"),
            (os, "rmdir"),
        ):
            monkeypatch.setattr(module, name, self.wrapped(getattr(module, name)))
        monkeypatch.setattr(shutil, "rmtree", self.wrapped(shutil.rmtree))

    def wrapped(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def limited(*arguments: Any, **named: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                if self.left == -1 and work.__name__ == "write":
                    work(arguments[0], arguments[1][: len(arguments[1]) // 2])
                raise Crash
            return work(*arguments, **named)

        limited.__name__ = work.__name__
        return limited


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_a_crash_at_every_write_flush_and_rename_costs_nothing(predictor, photos, tmp_path, step) -> None:
    options = BatchOptions(formats=("mask", "coco"))
    run_batch(photos, tmp_path / "whole", TEXTS, predictor=predictor, options=options)
    whole = tree(tmp_path / "whole")
    for allowed in count(0, step):
        out = tmp_path / f"crashed-{allowed}"
        with pytest.MonkeyPatch.context() as patch:
            Doomed(patch, allowed)
            try:
                run_batch(photos, out, TEXTS, predictor=predictor, options=options)
                break
            except Crash:
                pass
        run_batch(photos, out, TEXTS, predictor=predictor, options=options)
        assert tree(out) == whole, f"after {allowed} operations"
    assert allowed > 60


@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_a_crash_while_it_begins_anew_leaves_nothing_of_the_earlier_run(predictor, photos, tmp_path, step) -> None:
    options = BatchOptions(formats=("mask", "overlay", "coco"))
    run_batch(photos, tmp_path / "whole", "the star", predictor=predictor)
    whole = tree(tmp_path / "whole")
    anew = BatchOptions(overwrite=True)
    for allowed in count(0, step):
        out = tmp_path / f"crashed-{allowed}"
        run_batch(photos, out, TEXTS, predictor=predictor, options=options)
        if allowed % 2:  # a picture whose files were written, and its line was not
            results = out / "results.jsonl"
            results.write_bytes(b"".join(results.read_bytes().splitlines(keepends=True)[:-2]))
        with pytest.MonkeyPatch.context() as patch:
            Doomed(patch, 3 * allowed)
            try:
                run_batch(photos, out, "the star", predictor=predictor, options=anew)
                break
            except Crash:
                pass
        with suppress(errors.BatchError):  # refused, or gone on with, but never mixed
            run_batch(photos, out, "the star", predictor=predictor)
            assert tree(out) == whole
        run_batch(photos, out, "the star", predictor=predictor, options=anew)
        assert tree(out) == whole, f"after {3 * allowed} operations"
    assert allowed > 15


def test_a_full_disk_stops_the_run_and_the_same_command_goes_on(predictor, photos, tmp_path, monkeypatch) -> None:
    run_batch(photos, tmp_path / "whole", TEXTS, predictor=predictor)
    calls = count()
    real = os.fsync

    def full(descriptor: int) -> None:
        if next(calls) > 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(errors.NoSpaceError, match="No space left"):
        run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor)
    monkeypatch.undo()
    assert not any(path.name.startswith(".sspsam") for path in (tmp_path / "out").rglob("*"))
    run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_torn_last_line_is_dropped_and_a_damaged_one_in_the_middle_is_named(predictor, photos, tmp_path) -> None:
    run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor)
    whole, results = tree(tmp_path / "out"), tmp_path / "out" / "results.jsonl"
    content = results.read_bytes()
    for cut in (1, 200, len(content.splitlines()[-1]) + 1, len(content) - 5):
        results.write_bytes(content[:-cut])
        run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor)
        assert tree(tmp_path / "out") == whole
    results.write_bytes(content.replace(b'"b.png"', b'"b.pn', 1))
    with pytest.raises(errors.BatchError, match=r"results.jsonl, line 3 is damaged"):
        run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor)
    run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor, options=BatchOptions(overwrite=True))
    assert tree(tmp_path / "out") == whole


def test_other_options_are_refused_and_named_unless_it_begins_anew(predictor, photos, tmp_path) -> None:
    out = tmp_path / "out"
    run_batch(photos, out, [*TEXTS, "the star"], predictor=predictor)
    for texts, options, named in (
        (["the blue circle"], BatchOptions(), "texts was"),
        ([*TEXTS, "the star"], BatchOptions(formats=("overlay",)), "formats was"),
        ([*TEXTS, "the star"], BatchOptions(formats=("mask", "overlay")), "formats was"),
        ([*TEXTS, "the star"], BatchOptions(no_target_pixels=3), "no_target_pixels was 50, is 3"),
    ):
        with pytest.raises(errors.BatchError, match=named):
            run_batch(photos, out, texts, predictor=predictor, options=options)
    run_batch(photos, out, "the star", predictor=predictor, options=BatchOptions(overwrite=True))
    run_batch(photos, tmp_path / "other", "the star", predictor=predictor)
    assert tree(out) == tree(tmp_path / "other")


def test_a_folder_with_files_of_others_is_not_touched(predictor, photos, tmp_path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(errors.BatchError, match=r"not empty and holds no batch \('thesis.tex'"):
        run_batch(photos, tmp_path / "mine", TEXTS, predictor=predictor)
    with pytest.raises(errors.ManifestError, match="is the input"):
        run_batch(photos, photos, TEXTS, predictor=predictor)
    for name, content in (("results.jsonl", "{}\n"), ("coco.json", "{}"), ("jobs.json", "{}"), ("job.json", "[1]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(content)
        with pytest.raises(errors.BatchError, match=f"holds no batch \\('{name}'"):
            run_batch(photos, tmp_path / name, TEXTS, predictor=predictor)
        assert tree(tmp_path / name) == {name: content.encode()}
    assert tree(tmp_path / "mine") == {"thesis.tex": b"years of work"}


def test_output_inside_input_is_not_read_back(predictor, photos) -> None:
    for _ in range(2):
        summary = run_batch(photos, photos / "masks", TEXTS, predictor=predictor)
        assert summary.pictures == 5


def test_links_lead_neither_round_in_the_input_nor_out_of_the_output(predictor, photos, tmp_path) -> None:
    (photos / "sub" / "up").symlink_to(photos)
    (photos / "linked.png").symlink_to(photos / "b.png")
    (photos / "gone.png").symlink_to(photos / "nowhere.png")
    run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor)
    assert {line["image"] for line in lines(tmp_path / "out" / "results.jsonl")} == {
        *("a.jpg", "b.png", "linked.png", "sub/a.jpg", "sub/deeper/c.png")
    }
    assert {line["image"] for line in lines(tmp_path / "out" / "errors.jsonl")} == {"bad.jpg", "gone.png"}
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "trap"
    elsewhere.mkdir()
    run_batch(photos, out, TEXTS, predictor=predictor)
    for name in ("results.jsonl", "errors.jsonl"):
        (out / name).write_text("")
    shutil.rmtree(out / "sub")
    (out / "sub").symlink_to(elsewhere)
    with pytest.raises(errors.StorageError, match="leads out of"):
        run_batch(photos, out, TEXTS, predictor=predictor)
    assert not list(elsewhere.iterdir())


def test_a_second_run_is_refused_while_the_first_lives(predictor, photos, tmp_path) -> None:
    job = {"version": 1, "sspsam": "0", "texts": "held by a test"}
    with (
        batch.ledger.open_ledger(tmp_path / "out", Shard(), job, overwrite=False),
        pytest.raises(errors.BatchError, match="another run is at work"),
    ):
        run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor)
    with batch.ledger.open_ledger(tmp_path / "out", Shard(), job, overwrite=False):
        pass  # free again


@pytest.mark.parametrize("batch_size", [1, 2])
def test_the_results_of_shards_joined_are_those_of_the_whole(predictor, photos, tmp_path, batch_size) -> None:
    run_batch(photos, tmp_path / "whole", TEXTS, predictor=predictor, options=BatchOptions(batch_size=batch_size))
    parts = [Shard(number, 3) for number in (1, 2, 3)]
    for shard in parts:
        run_batch(
            photos,
            tmp_path / "parts",
            TEXTS,
            predictor=predictor,
            options=BatchOptions(shard=shard, batch_size=batch_size),
        )
    for name in ("results", "errors"):
        joined = b"".join((tmp_path / "parts" / shard.name(name, ".jsonl")).read_bytes() for shard in parts)
        assert joined == (tmp_path / "whole" / f"{name}.jsonl").read_bytes()
    masks = {path: content for path, content in tree(tmp_path / "whole").items() if path.endswith(".png")}
    assert masks.items() <= tree(tmp_path / "parts").items()


def test_shards_that_are_asked_different_things_do_not_share_a_folder(predictor, photos, tmp_path) -> None:
    def part(number: int, texts: list[str] = TEXTS, **options: Any) -> None:
        options = BatchOptions(shard=Shard(number, 2), **options)
        run_batch(photos, tmp_path / "out", texts, predictor=predictor, options=options)

    part(1)
    with pytest.raises(errors.BatchError, match=r"job.1-of-2.json was asked something else: texts was"):
        part(2, ["the star"])
    with pytest.raises(errors.BatchError, match="shards was 2, is 1"):
        run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor)
    draw(photos / "0.png", 7)
    with pytest.raises(errors.BatchError, match="pictures was"):  # another part of other pictures
        part(2)
    (photos / "0.png").unlink()
    assert {path.name for path in (tmp_path / "out").glob("job*")} == {"job.1-of-2.json"}
    part(2)
    before = tree(tmp_path / "out")
    with pytest.raises(errors.BatchError, match="in 2 parts: choose another folder"):
        run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor, options=BatchOptions(overwrite=True))
    after = tree(tmp_path / "out")
    assert {name: after[name] for name in before} == before
    part(2, ["the star"], overwrite=True)
    part(1, ["the star"], overwrite=True)
    images = [line["image"] for n in (1, 2) for line in lines(tmp_path / "out" / f"results.{n}-of-2.jsonl")]
    assert images == ["a.jpg", "b.png", "sub/a.jpg", "sub/deeper/c.png"]


@given(st.integers(0, 200), st.integers(1, 9), st.integers(1, 7))
def test_every_picture_is_in_one_shard(length: int, shards: int, unit: int) -> None:
    parts = [Shard(number, shards).part(length, unit) for number in range(1, shards + 1)]
    assert [index for part in parts for index in part] == list(range(length))
    assert all(part.start % unit == 0 for part in parts if part)
    assert [Shard(number, shards).part(length, 1) for number in range(1, shards + 1)] == [
        Shard(number, shards).part(length, 4) for number in range(1, shards + 1)
    ]  # a CPU and a GPU may share the work


@pytest.mark.parametrize(
    "options",
    [
        {"formats": ()},
        {"formats": ("tiff",)},
        {"batch_size": 0},
        {"workers": -1},
        {"max_errors": -1},
        {"max_pixels": 0},
    ],
)
def test_options_out_of_range_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        BatchOptions(**options)
    with pytest.raises(ValueError, match="no run 3 of 2"):
        Shard(3, 2)


def test_a_run_stops_when_too_many_fail(predictor, photos, tmp_path) -> None:
    (photos / "aa.jpg").write_bytes(b"")
    with pytest.raises(errors.BatchError, match=r"stopped at aa.jpg.*empty"):
        run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor, options=BatchOptions(max_errors=0))
    assert [line["image"] for line in lines(tmp_path / "out" / "errors.jsonl")] == ["aa.jpg"]
    with pytest.raises(errors.BatchError, match=r"1 pictures failed in earlier runs.*errors.jsonl.*retry_errors"):
        run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor, options=BatchOptions(max_errors=0))
    run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor)
    run_batch(photos, tmp_path / "whole", TEXTS, predictor=predictor)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    draw(photos / "aa.jpg", 5)
    summary = run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor, options=BatchOptions(retry_errors=True))
    assert (summary.done, summary.earlier, summary.failed) == (1, 4, 1)
    assert [line["image"] for line in lines(tmp_path / "out" / "errors.jsonl")] == ["bad.jpg"]


def test_the_coco_file_says_what_the_masks_say(predictor, photos, tmp_path) -> None:
    out = tmp_path / "out"
    run_batch(
        photos, out, TEXTS, predictor=predictor, options=BatchOptions(formats=("mask", "coco"), no_target_pixels=0)
    )
    coco = COCO(out / "coco.json")
    found = 0
    assert len(coco.anns) == len({annotation["id"] for annotation in coco.dataset["annotations"]})
    for line in lines(out / "results.jsonl"):
        [image] = [number for number, about in coco.imgs.items() if about["file_name"] == line["image"]]
        [category] = [number for number, about in coco.cats.items() if about["name"] == line["text"]]
        mask = np.asarray(Image.open(out / line["files"]["mask"])) == 255
        ids = coco.getAnnIds(imgIds=[image], catIds=[category])
        assert len(ids) == int(mask.any())
        for annotation in coco.loadAnns(ids):
            found += 1
            assert np.array_equal(coco.annToMask(annotation), mask)
            assert annotation["area"] == mask.sum()
    assert found
    assert COCO(out / "coco.json").loadRes(
        [{k: a[k] for k in ("image_id", "category_id", "segmentation", "score")} for a in coco.anns.values()]
    )


def test_the_coco_files_of_shards_joined_are_that_of_the_whole(predictor, photos, tmp_path) -> None:
    for seed in range(6):
        draw(photos / f"more{seed}.png", seed)
    prompts = photos / "prompts.jsonl"
    names = [*(f"more{seed}.png" for seed in range(6)), "bad.jpg", "a.jpg", "b.png"]
    prompts.write_text(
        "\n".join(json.dumps({"image": n, "text": [*TEXTS, f"{n} itself"][: k % 3 + 1]}) for k, n in enumerate(names))
    )
    for shard in (Shard(), Shard(1, 2), Shard(2, 2)):
        options = BatchOptions(formats=("coco",), shard=shard, no_target_pixels=0)
        run_batch(photos, tmp_path / f"out{shard.count}", predictor=predictor, prompts=prompts, options=options)
    whole, first, second = (
        json.loads((tmp_path / f"out{shard.count}" / shard.name("coco", ".json")).read_text())
        for shard in (Shard(), Shard(1, 2), Shard(2, 2))
    )
    for key in ("images", "annotations"):
        assert first[key]
        assert second[key]
        assert first[key] + second[key] == whole[key]
    assert {c["id"]: c["name"] for c in first["categories"] + second["categories"]} == {
        c["id"]: c["name"] for c in whole["categories"]
    }


def test_the_parquet_file_has_the_lines_as_rows(predictor, photos, tmp_path, monkeypatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pip install 'sspsam[ray]' to test Parquet")
    draw(photos / os.fsdecode(b"not-\xff-text.png"), 9)
    run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor, options=BatchOptions(formats=("parquet",)))
    rows = parquet.read_table(tmp_path / "out" / "results.parquet").to_pylist()
    results = lines(tmp_path / "out" / "results.jsonl")
    assert len(rows) == len(results) == 10
    for row, line in zip(rows, results, strict=True):
        assert {name: row[name] for name in ("text", "number", "no_target", "box", "mask_box", "mask")} == {
            name: line[name] for name in ("text", "number", "no_target", "box", "mask_box", "mask")
        }
    assert [row["image"] for row in rows if "not" in row["image"]] == ["not-\\udcff-text.png"] * 2
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(errors.MissingExtraError, match=r"sspsam\[ray\]"):
        run_batch(photos, tmp_path / "no", TEXTS, predictor=predictor, options=BatchOptions(formats=("parquet",)))
    assert not (tmp_path / "no").exists()


def test_tables_ask_each_picture_its_own(predictor, photos, tmp_path) -> None:
    table = tmp_path / "prompts.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([["image", "text"], ["sub/a.jpg", "a, b"], ["a.jpg", "der rote Kreis"], ["sub/a.jpg", "two"]])
    json_lines = photos / "prompts.jsonl"
    json_lines.write_text(
        '{"image": "sub/a.jpg", "text": ["a, b", "two"]}\n\n{"image": "./a.jpg", "text": "der rote Kreis"}'
    )
    expected = [("sub/a.jpg", "a, b"), ("sub/a.jpg", "two"), ("a.jpg", "der rote Kreis")]
    for number, (source, prompts) in enumerate([(photos, table), (json_lines, None)]):
        run_batch(source, tmp_path / f"out{number}", predictor=predictor, prompts=prompts)
        results = lines(tmp_path / f"out{number}" / "results.jsonl")
        assert [(line["image"], line["text"]) for line in results] == expected
    table.write_text("image,text\na.jpg,another\n")
    with pytest.raises(errors.BatchError, match="texts was"):
        run_batch(photos, tmp_path / "out0", predictor=predictor, prompts=table)


def test_lists_name_pictures_anywhere(predictor, photos, tmp_path) -> None:
    (tmp_path / "list.txt").write_text(
        f"photos/a.jpg\n{photos / 'b.png'}\nphotos/../photos/a.jpg\nphotos/missing.png\n"
    )
    run_batch(tmp_path / "list.txt", tmp_path / "out", TEXTS, predictor=predictor)
    results = lines(tmp_path / "out" / "results.jsonl")
    assert [line["image"] for line in results[::2]] == ["photos/a.jpg", (photos / "b.png").as_posix()]
    assert all((tmp_path / "out" / line["files"]["mask"]).is_file() for line in results)
    assert [line["error"] for line in lines(tmp_path / "out" / "errors.jsonl")] == ["ImageNotFoundError"]
    run_batch([photos / "a.jpg", str(photos / "b.png")], tmp_path / "other", TEXTS, predictor=predictor)
    assert len(lines(tmp_path / "other" / "results.jsonl")) == 4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", "picture,text\na.jpg,x\n", "first line names the columns"),
        ("p.csv", "image,text\na.jpg,\n", "line 2 says no expression"),
        ("p.csv", "image,text\n,x\n", "line 2: no image"),
        ("p.csv", 'image,text\na.jpg,"x\n', r"p.csv, line \d: unexpected end"),
        ("p.csv", "image,text\na.jpg,the mug, the cat\n", "line 2 has more columns.*double quotes"),
        ("p.tsv", "image\ttext\na.jpg\tx\ty\n", "line 2 has more columns"),
        ("p.json", '["x"]', r"p.json is no file of prompts.*\.txt"),
        ("p.jsonl", '{"image": "\\ud800.jpg", "text": "x"}', "cannot be the path"),
        ("p.jsonl", '{"image": "a.jpg", "text": "x"}\n{"image": 3}\n', "line 2"),
        ("p.jsonl", '{"image": "a.jpg"', "line 1 is not JSON"),
        ("p.jsonl", '{"image": "a.jpg", "text": "  "}\n', "line 1.*empty"),
        ("p.txt", "\n\n", "no expression"),
    ],
)
def test_what_cannot_be_understood_is_named_before_anything_is_done(
    predictor, photos, tmp_path, name, content, message
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises((errors.ManifestError, errors.TextError), match=message):
        run_batch(photos, tmp_path / "out", predictor=predictor, prompts=tmp_path / name)
    assert not (tmp_path / "out").exists()


def test_a_pattern_chooses_files(predictor, photos, tmp_path) -> None:
    patterns = [("*.png", 2), ("sub/*", 2), ("*.md", 0), ("**/*.jpg", 2), ("./*.png", 2), ("sub/**/*.png", 1)]
    for number, (glob, expected) in enumerate(patterns):
        options = BatchOptions(glob=glob)
        run_batch(photos, tmp_path / str(number), TEXTS, predictor=predictor, options=options)
        assert len(lines(tmp_path / str(number) / "results.jsonl")) == 2 * expected
    with pytest.raises(errors.ManifestError, match=r"no pictures that match '\*.tif'"):
        run_batch(photos, tmp_path / "none", TEXTS, predictor=predictor, options=BatchOptions(glob="*.tif"))
    with pytest.raises(errors.ManifestError, match="a list or table names its pictures"):
        run_batch([photos / "a.jpg"], tmp_path / "no", TEXTS, predictor=predictor, options=BatchOptions(glob="*"))


def test_what_only_begins_like_a_picture_is_passed_over(predictor, photos, tmp_path) -> None:
    (photos / "cars.txt").write_text("BMW, and others")
    draw(photos / "preview.tif", 3)
    (photos / "preview.tif").rename(photos / "DSC1.NEF")
    draw(photos / "drawn.bmp", 3)
    (photos / "drawn.bmp").rename(photos / "drawn")
    summary = run_batch(photos, tmp_path / "out", "the star", predictor=predictor)
    assert summary.passed_over == 3
    assert "drawn" in {line["image"] for line in lines(tmp_path / "out" / "results.jsonl")}


def test_an_entry_that_cannot_be_looked_at_is_listed_and_passed(predictor, photos, tmp_path) -> None:
    (photos / "loop.png").symlink_to("loop.png")
    (photos / "sub" / "a.jpg-1.png").mkdir()
    draw(photos / "sub" / "a.jpg-1.png" / "x.png", 1)  # a folder of the name that a mask has
    run_batch(photos, tmp_path / "out", "the star", predictor=predictor)
    assert [line["image"] for line in lines(tmp_path / "out" / "errors.jsonl")] == ["bad.jpg", "loop.png"]
    results = lines(tmp_path / "out" / "results.jsonl")
    assert len({line["files"]["mask"] for line in results}) == len(results) == 5
    assert all((tmp_path / "out" / line["files"]["mask"]).is_file() for line in results)


def test_one_picture_too_many_for_the_memory_costs_no_other(predictor, photos, tmp_path, monkeypatch) -> None:
    model, load = predictor._model, predictor._encoder.read
    seen = count()

    def encode_image(*inputs: Any) -> Any:
        if next(seen) == 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return type(model).encode_image(model, *inputs)

    def read(image: Path, max_pixels: int) -> Any:
        if image.name == "c.png":
            raise MemoryError
        return load(image, max_pixels)

    monkeypatch.setattr(model, "encode_image", encode_image)
    monkeypatch.setattr(predictor._encoder, "read", read)
    summary = run_batch(photos, tmp_path / "out", "the star", predictor=predictor)
    assert (summary.done, summary.failed) == (2, 3)
    failed = {line["image"]: line["error"] for line in lines(tmp_path / "out" / "errors.jsonl")}
    assert failed == {"b.png": "OutOfMemoryError", "bad.jpg": "ImageError", "sub/deeper/c.png": "OutOfMemoryError"}


def test_what_goes_wrong_inside_keeps_its_own_words(predictor, photos, tmp_path, monkeypatch) -> None:
    def broken(*inputs: Any) -> Any:
        raise ValueError("sizes do not match")

    monkeypatch.setattr(predictor._model, "encode_image", broken)
    with pytest.raises(ValueError, match=r"^sizes do not match$"):
        run_batch(photos, tmp_path / "out", "the star", predictor=predictor)


def test_what_is_made_of_the_results_can_be_had_later(predictor, photos, tmp_path) -> None:
    both = BatchOptions(formats=("mask", "coco"))
    run_batch(photos, tmp_path / "once", TEXTS, predictor=predictor, options=both)
    run_batch(photos, tmp_path / "later", TEXTS, predictor=predictor)
    assert run_batch(photos, tmp_path / "later", TEXTS, predictor=predictor, options=both).done == 0
    assert tree(tmp_path / "later") == tree(tmp_path / "once")


def test_answers_do_not_depend_on_what_is_in_the_cache(tiny_model, photos, tmp_path) -> None:
    options = BatchOptions(batch_size=3)
    results = []
    for known in ([], ["a.jpg"], ["b.png", "sub/a.jpg"]):
        cache = tmp_path / f"cache{len(known)}"
        cached = SSPSAMPredictor.from_pretrained(tiny_model, device="cpu", embedding_cache=cache)
        for name in known:
            cached.encode(photos / name)
        run_batch(photos, tmp_path / f"out{len(known)}", TEXTS, predictor=cached, options=options)
        results.append(tree(tmp_path / f"out{len(known)}"))
    assert results[0] == results[1] == results[2]


def test_bad_pictures_of_every_sort_are_reported_and_the_others_done(predictor, tmp_path) -> None:
    folder = tmp_path / "photos"
    good, bad = write_bad_pictures(folder)
    for seed in range(20):
        draw(folder / f"{seed}.png", seed)
    summary = run_batch(
        folder, tmp_path / "out", TEXTS, predictor=predictor, options=BatchOptions(max_pixels=1_000_000)
    )
    results = lines(tmp_path / "out" / "results.jsonl")
    assert {line["image"] for line in results} == {f"{seed}.png" for seed in range(20)} | good
    assert {line["image"] for line in lines(tmp_path / "out" / "errors.jsonl")} == bad
    assert (summary.done, summary.failed) == (20 + len(good), len(bad))
    assert all((tmp_path / "out" / line["files"]["mask"]).is_file() for line in results)


def resident() -> int:
    """Bytes of memory that this process holds, what it could give back given back."""
    gc.collect()
    return int(psutil.Process().memory_info().rss)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_two_thousand_pictures_are_done_in_a_memory_that_does_not_grow(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "photos"
    good, bad = write_bad_pictures(folder / "odd")
    for seed in range(2000):
        draw(folder / f"{seed % 40}" / f"{seed}.png", seed, (48, 64))
    for seed, name in enumerate(("a.jpg", "b.png", "c.webp", "d.tif", "e.gif")):
        (folder / f"{seed}" / f"bad-{name}").write_bytes((b"", b"no picture", bytes(90), b"GIF8", b"\x89PNG")[seed])
    predictor = SSPSAMPredictor.from_pretrained("shapes", device="cpu")
    held: list[int] = []
    record = Recorder.record

    def measured(self: Recorder, lines: Any) -> None:
        record(self, lines)
        if self.pictures % 200 == 0:
            held.append(resident())

    monkeypatch.setattr(Recorder, "record", measured)
    options = BatchOptions(formats=("mask", "overlay", "coco"), max_pixels=1_000_000)
    summary = run_batch(folder, tmp_path / "out", TEXTS, predictor=predictor, options=options)
    assert (summary.done, summary.failed) == (2000 + len(good), 5 + len(bad))
    assert {line["image"] for line in lines(tmp_path / "out" / "errors.jsonl")} == {
        *(f"odd/{name}" for name in bad),
        *("0/bad-a.jpg", "1/bad-b.png", "2/bad-c.webp", "3/bad-d.tif", "4/bad-e.gif"),
    }
    print("bytes held after each 200 pictures:", held)
    assert held[-1] - held[1] < 20 << 20


PATHS = st.lists(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=90), min_size=1, max_size=3
    ).map("/".join),
    min_size=1,
    max_size=8,
    unique=True,
)


@given(PATHS)
def test_names_never_collide_and_fit_every_file_system(images: list[str]) -> None:
    images = list(dict.fromkeys(os.path.normpath(image) for image in images if image.strip("./")))
    stems = stems_of(images)
    folded = {unicodedata.normalize("NFKC", stem.casefold()) for stem in stems}
    assert len(folded) == len(images)
    for stem in stems:
        parts = PurePosixPath(stem).parts
        assert not PurePosixPath(stem).is_absolute()
        assert ".." not in parts
        assert all(len(os.fsencode(f"{part}-100.overlay.png")) <= 255 for part in parts)
        assert not any(character in part for part in parts for character in '<>:"|?*\\\n')


def test_names_stay_as_they_are_where_they_can() -> None:
    assert stems_of(["a.jpg", "a.png", "sub/a.jpg", "Ünï cödé (1).jpg"]) == [
        *("a.jpg", "a.png", "sub/a.jpg", "Ünï cödé (1).jpg")
    ]
    first, second = stems_of(["A.jpg", "a.jpg"])
    assert first.startswith("A.jpg~")
    assert second.startswith("a.jpg~")
    assert stems_of(["../x.jpg"])[0].startswith("_/x.jpg~")
    [composed, decomposed] = stems_of(["é.jpg", "e\u0301.jpg"])
    assert composed[-12:] != decomposed[-12:]


KILLS_AND_IMAGES = [
    (2, 20),
    pytest.param(10, 60, marks=pytest.mark.slow),
    pytest.param(300, 60, marks=[pytest.mark.nightly, pytest.mark.timeout(7200)]),
]


def command(photos: Path, out: Path) -> list[str]:
    words = [sys.executable, "-m", "sspsam", "batch", str(photos), str(out), "--model", "shapes", "--device", "cpu"]
    return [*words, "-t", "the red circle", "-t", "all stars", "--format", "mask", "--format", "overlay"]


def killed(words: list[str], out: Path, chance: Random, lines_at: int, inside: bool) -> bool:
    """Kill a run when so many lines are written, or in the middle of a picture's files after that; False: too late."""
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    results = out / "results.jsonl"
    try:
        while process.poll() is None:
            written = results.read_bytes().count(b"\n") if results.exists() else 0
            if written >= lines_at and (not inside or any(out.glob(".sspsam-tmp/*"))):
                time.sleep(0 if inside else chance.uniform(0, 0.02))
                break
            time.sleep(0.0005)
    finally:
        process.kill()
    return process.wait() != 0


def kill_and_resume(photos: Path, tmp_path: Path, kills: int) -> Iterator[bool]:
    whole = tmp_path / "whole"
    assert CliRunner().invoke(main, command(photos, whole)[3:]).exit_code == 0
    expected = tree(whole)
    total = expected["results.jsonl"].count(b"\n")  # type: ignore[union-attr]
    chance = Random(7)
    for number in range(kills):
        out = tmp_path / "killed"
        shutil.rmtree(out, ignore_errors=True)
        cut = killed(command(photos, out), out, chance, chance.randrange(total), inside=number % 4 == 0)
        assert CliRunner().invoke(main, command(photos, out)[3:]).exit_code == 0
        assert tree(out) == expected
        yield cut


@pytest.mark.parametrize(("kills", "images"), KILLS_AND_IMAGES)
def test_a_run_that_is_killed_anywhere_ends_with_the_bytes_of_one_that_was_not(tmp_path, kills, images) -> None:
    for seed in range(images):
        draw(tmp_path / "photos" / f"{seed % 7}" / f"{seed}.png", seed, (160, 200))
    cut = list(kill_and_resume(tmp_path / "photos", tmp_path, kills))
    assert sum(cut) >= 0.8 * kills
