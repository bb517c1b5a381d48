"""Faults found in real use of batches: foreign files, names of models, wrong values, hostile files, odd paths."""

import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sspsam import SSPSAMPredictor, errors
from sspsam.batch import BatchOptions, Shard, run_batch
from sspsam.batch.ray import Cluster
from tests.support.batches import TEXTS, draw, lines, tree

needs_links = pytest.mark.skipif(os.name == "nt", reason="links and pipes of Unix")
TEXT = "the red circle"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for seed, name in enumerate(("a.png", "sub/b.png")):
        draw(tmp_path / "images" / name, seed)
    return tmp_path / "images"


# ---------------------------------------------------------------- output folders and inputs


def test_output_folders_below_the_input_are_skipped_and_counted(predictor, images) -> None:
    first = run_batch(images, images / "out", TEXT, predictor=predictor)
    assert (first.pictures, first.skipped_outputs) == (2, 0)
    second = run_batch(images, images / "deep" / "out2", TEXT, predictor=predictor)
    assert (second.pictures, second.skipped_outputs) == (2, 1)
    outside = run_batch(images, images.parent / "outside", TEXT, predictor=predictor)
    assert (outside.pictures, outside.skipped_outputs) == (2, 2)
    assert "2 output folders of other batches skipped" in str(outside)
    again = run_batch(images, images / "out", TEXT, predictor=predictor)
    assert (again.done, again.earlier) == (0, 2)
    with pytest.raises(errors.ManifestError, match="is the output folder of a batch"):
        run_batch(images / "out", images.parent / "masks", TEXT, predictor=predictor)
    options = BatchOptions(glob="*-1.png")
    masks = run_batch(images / "out", images.parent / "masks", TEXT, predictor=predictor, options=options)
    assert masks.pictures == 2


def test_a_job_file_of_another_program_does_not_hide_images(predictor, images, tmp_path) -> None:
    for number, content in enumerate((b"{}", b"[1]", b"\xff", b"[" * 100_000)):
        draw(images / f"{number}" / "c.png", number)
        (images / f"{number}" / "job.json").write_bytes(content)
    assert run_batch(images, tmp_path / "out", TEXT, predictor=predictor).pictures == 6


def test_the_cache_below_the_input_is_not_part_of_the_input(tiny_model, images, tmp_path) -> None:
    cached = SSPSAMPredictor.from_pretrained(tiny_model, device="cpu", embedding_cache=images / "cache")
    run_batch(images, tmp_path / "out", TEXT, predictor=cached)
    draw(images / "cache" / "in.png", 5)
    summary = run_batch(images, tmp_path / "out", TEXT, predictor=cached)
    assert (summary.pictures, summary.passed_over) == (2, 0)


@needs_links
@pytest.mark.parametrize("kind", ["equal", "above", "link", "list", "table", "one image", "linked image"])
def test_an_output_folder_that_holds_the_input_is_refused(predictor, images, tmp_path, kind) -> None:
    (tmp_path / "parent").mkdir()
    folder = shutil.move(images, tmp_path / "parent" / "images")
    run_batch([folder / "a.png"], tmp_path / "other", TEXT, predictor=predictor)
    output = tmp_path / "parent"
    shutil.copy(tmp_path / "other" / "job.json", output / "job.json")  # looks like the output of a batch
    source: Any = folder
    if kind == "equal":
        output = folder
    elif kind == "link":
        source = tmp_path / "elsewhere"
        source.symlink_to(folder)
    elif kind == "list":
        source = [folder / "a.png"]
    elif kind == "table":
        source = tmp_path / "t.csv"
        source.write_text(f"image,text\n{folder / 'a.png'},x\n")
    elif kind == "one image":
        source = folder / "a.png"
    elif kind == "linked image":
        source = tmp_path / "links"
        source.mkdir()
        (source / "a.png").symlink_to(folder / "a.png")
    before = tree(tmp_path)
    with pytest.raises(errors.ManifestError, match="choose another folder"):
        run_batch(source, output, None if kind == "table" else TEXT, predictor=predictor)
    assert tree(tmp_path) == before


@needs_links
@pytest.mark.parametrize("name", ["results.jsonl", "errors.jsonl", "coco.json", ".sspsam-tmp"])
def test_a_link_in_the_output_folder_never_leads_to_a_foreign_file(predictor, images, tmp_path, name) -> None:
    out, foreign = tmp_path / "out", tmp_path / "foreign"
    run_batch(images, out, TEXT, predictor=predictor)
    foreign.mkdir()
    target = foreign if name == ".sspsam-tmp" else foreign / "precious"
    if name != ".sspsam-tmp":
        target.write_text("precious\n")
    (out / name).unlink(missing_ok=True)
    (out / name).symlink_to(target)
    before = tree(foreign)
    for overwrite in (False, True):
        options = BatchOptions(formats=("mask", "coco"), overwrite=overwrite)
        with pytest.raises(errors.StorageError, match="link"):
            run_batch(images, out, TEXT, predictor=predictor, options=options)
        assert tree(foreign) == before


@needs_links
def test_a_job_file_behind_a_link_is_not_overwritten(predictor, images, tmp_path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    run_batch(images, other, TEXT, predictor=predictor)
    before = tree(other)
    out.mkdir()
    (out / "job.json").symlink_to(other / "job.json")
    with pytest.raises(errors.StorageError, match="link"):
        run_batch(images, out, "the star", predictor=predictor, options=BatchOptions(overwrite=True))
    assert tree(other) == before


def test_summary_files_of_other_programs_are_not_replaced(predictor, images, tmp_path) -> None:
    out = tmp_path / "out"
    run_batch(images, out, TEXT, predictor=predictor)
    for name in ("coco.json", "results.parquet"):
        (out / name).write_text('{"annotations": ["mine"]}')
    with pytest.raises(errors.BatchError, match=r"coco.json was not written by sspsam"):
        run_batch(images, out, TEXT, predictor=predictor, options=BatchOptions(formats=("mask", "coco")))
    run_batch(images, out, TEXT, predictor=predictor, options=BatchOptions(overwrite=True))
    for name in ("coco.json", "results.parquet"):
        assert (out / name).read_text() == '{"annotations": ["mine"]}'


def test_overwriting_removes_only_masks_and_overlays_that_the_lines_name(predictor, images, tmp_path) -> None:
    out = tmp_path / "out"
    run_batch(images, out, TEXT, predictor=predictor)
    (out / "thesis.tex").write_text("mine")
    results = out / "results.jsonl"
    [first, second] = results.read_text().splitlines()
    hostile = json.loads(second) | {"files": {"mask": "thesis.tex", "overlay": "nul\0-1.png"}}
    results.write_text(f"{first}\n{json.dumps(hostile)}\n")
    run_batch(images, out, TEXT, predictor=predictor, options=BatchOptions(overwrite=True))
    assert (out / "thesis.tex").read_text() == "mine"


# ---------------------------------------------------------------- resuming with another name of the model


def test_a_moved_checkpoint_resumes_and_the_result_has_the_same_bytes(
    tiny_model, photos, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model, "m")
    run_batch(photos, "whole", TEXTS, predictor=SSPSAMPredictor.from_pretrained("m", device="cpu"))
    run_batch(photos, "out", TEXTS, predictor=SSPSAMPredictor.from_pretrained("m", device="cpu"))
    for number, name in enumerate(("./m", str(tmp_path / "m"), "moved")):
        if name == "moved":
            shutil.move("m", "moved")
        results = Path("out/results.jsonl")
        results.write_bytes(b"".join(results.read_bytes().splitlines(keepends=True)[: 2 * number]))
        other = SSPSAMPredictor.from_pretrained(name, device="cpu")
        summary = run_batch(photos, "out", TEXTS, predictor=other)
        assert summary.earlier == number
        assert tree(Path("out")) == tree(Path("whole"))


def test_shards_with_other_names_of_one_model_agree_and_another_model_is_refused(tiny_model, photos, tmp_path) -> None:
    first = SSPSAMPredictor.from_pretrained(tiny_model, device="cpu")
    shutil.copytree(tiny_model, tmp_path / "copy")
    second = SSPSAMPredictor.from_pretrained(tmp_path / "copy", device="cpu")
    out = tmp_path / "out"
    for number, predictor in ((1, first), (2, second)):
        run_batch(photos, out, TEXTS, predictor=predictor, options=BatchOptions(shard=Shard(number, 2)))
    named = {line["model"] for number in (1, 2) for line in lines(out / f"results.{number}-of-2.jsonl")}
    assert named == {first.origin}
    bundled = SSPSAMPredictor.from_pretrained("shapes", device="cpu")
    with pytest.raises(errors.BatchError, match="fingerprint was"):
        run_batch(photos, out, TEXTS, predictor=bundled, options=BatchOptions(shard=Shard(2, 2)))


@pytest.mark.parametrize("name", ["@eaDir", "lost+found", ".thumbnails", "__MACOSX", "$RECYCLE.BIN", "#recycle"])
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


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("max_pixels", value) for value in (None, 0, True, 1.5, float("nan"), "9")),
        *(("batch_size", value) for value in (0, 2.0, "2", True)),
        *(("workers", value) for value in (0, 1.5)),
        *(("max_errors", value) for value in (-1, 0.5, False)),
        *(("no_target_pixels", value) for value in (-1, 0.5, True, "50")),
        *(("mask_threshold", value) for value in (0, 1, float("nan"), float("inf"), "0.5", True)),
        *(("formats", value) for value in (None, "tiff", ("mask", 3), 5, ())),
        *(("glob", value) for value in ("", 3, b"*.png")),
        *(("overwrite", value) for value in (None, "no", 1)),
        *(("retry_errors", value) for value in (None, "no")),
        *(("shard", value) for value in (None, "1/2", (1, 2))),
    ],
)
def test_wrong_options_are_refused_by_name_when_they_are_made(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        BatchOptions(**{name: value})


@pytest.mark.parametrize("values", [{"actors": 0}, {"actors": 1.5}, {"cpus": 0}, {"cpus": float("nan")}, {"gpus": -1}])
def test_wrong_sizes_of_a_cluster_are_refused_by_name(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        Cluster(**values)


def test_numbers_of_numpy_are_numbers(predictor, images, tmp_path) -> None:
    numbers: dict[str, Any] = {"batch_size": 2, "workers": 1, "max_errors": 3, "max_pixels": 10**6}
    numbers |= {"no_target_pixels": 50}
    run_batch(
        images, tmp_path / "plain", TEXT, predictor=predictor, options=BatchOptions(mask_threshold=0.5, **numbers)
    )
    options = BatchOptions(
        mask_threshold=np.float64(0.5),  # type: ignore[arg-type]  # on purpose, as below
        formats=["mask"],  # type: ignore[arg-type]
        shard=Shard(np.int64(1), np.int64(1)),  # type: ignore[arg-type]
        **{name: np.int64(value) for name, value in numbers.items()},
    )
    run_batch(images, tmp_path / "out", TEXT, predictor=predictor, options=options)
    assert tree(tmp_path / "out") == tree(tmp_path / "plain")


# ---------------------------------------------------------------- files that claim too much, or block


@pytest.mark.parametrize(
    "claim",
    [
        {"height": 1 << 16, "width": 1 << 15, "mask": {"size": [1 << 16, 1 << 15], "counts": "PPPPPP2"}},
        {"mask": {"size": [1 << 16, 1 << 15], "counts": "PPPPPP2"}},
        {"mask": {"size": [60, 90], "counts": "oooooooooooo1"}},
        {"mask": {"size": [60, 90], "counts": "oo"}},
        {"mask": None},
        {"mask_box": [1, 2]},
        {"height": None},
        {"text": 5},
    ],
)
@pytest.mark.parametrize("kind", ["coco", "parquet"])
def test_a_line_that_claims_a_huge_mask_is_named_and_nothing_is_allocated(
    predictor, images, tmp_path, claim, kind
) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow", reason="pip install '.[ray]' to test Parquet")
    out = tmp_path / "out"
    run_batch(images, out, TEXT, predictor=predictor)
    first, second = lines(out / "results.jsonl")
    forged = [first, {**second, "mask_box": [0, 0, 9, 9], **claim}]
    (out / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in forged))
    with pytest.raises(errors.BatchError, match=r"line 2 of .*results.jsonl is damaged"):
        run_batch(images, out, TEXT, predictor=predictor, options=BatchOptions(formats=("mask", kind)))
    assert not list(out.glob("coco*")) + list(out.glob("*.parquet"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["job.json", "results.jsonl", "list.txt", "table.csv", "table.jsonl"])
def test_a_file_of_two_gigabytes_is_refused_before_it_fills_the_memory(predictor, images, tmp_path, name) -> None:
    out = tmp_path / "out"
    run_batch(images, out, TEXT, predictor=predictor)
    huge = out / name if name.startswith(("job", "results")) else images / name
    os.truncate(huge, 2 << 30) if huge.exists() else huge.touch()
    os.truncate(huge, 2 << 30)
    source = images if huge.parent == out else huge
    with pytest.raises((errors.BatchError, errors.ManifestError), match=f"{name}.*(larger than|damaged)"):
        run_batch(source, out, TEXT, predictor=predictor)


def test_deep_json_is_damaged_and_no_traceback(predictor, images, tmp_path) -> None:
    deep = "[" * 200_000
    run_batch(images, tmp_path / "out", TEXT, predictor=predictor)
    (tmp_path / "out" / "job.json").write_text(deep)
    with pytest.raises(errors.BatchError, match=r"no batch|job.json is damaged"):
        run_batch(images, tmp_path / "out", TEXT, predictor=predictor)
    (images / "t.jsonl").write_text(deep)
    with pytest.raises(errors.ManifestError, match=r"t.jsonl, line 1 is not JSON"):
        run_batch(images / "t.jsonl", tmp_path / "other", TEXT, predictor=predictor)


@needs_links
@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["pipe", "folder", "socket", "device"])
@pytest.mark.parametrize(
    "name",
    ["job.json", "results.jsonl", "errors.jsonl", "coco.json", "list.txt", "table.csv", "t.jsonl", "prompts.txt"],
)
def test_what_is_no_regular_file_is_named_and_never_waited_for(
    predictor, images, tmp_path, name, kind, monkeypatch
) -> None:
    out = tmp_path / "out"
    run_batch(images, out, TEXT, predictor=predictor)
    monkeypatch.chdir(out if (out / name).exists() or name == "coco.json" else tmp_path)
    path = Path(name)
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(name)
    else:
        path.symlink_to("/dev/zero")
    is_input = path.suffix in (".txt", ".csv") or name == "t.jsonl"
    source = path.absolute() if is_input and name != "prompts.txt" else images
    prompts = path.absolute() if name == "prompts.txt" else None
    if kind == "folder" and name == "list.txt":
        return  # a folder is a valid input, whatever its name
    options = BatchOptions(formats=("mask", "coco") if name == "coco.json" else ("mask",))
    kinds = (errors.ManifestError,) if is_input else (errors.BatchError, errors.StorageError)
    with pytest.raises(kinds, match=name):
        run_batch(source, out, None if prompts else TEXT, predictor=predictor, prompts=prompts, options=options)


@needs_links
def test_a_pipe_called_job_in_a_subfolder_of_the_input_is_not_waited_for(predictor, images, tmp_path) -> None:
    os.mkfifo(images / "sub" / "job.json")
    assert run_batch(images, tmp_path / "out", TEXT, predictor=predictor).pictures == 2


# ---------------------------------------------------------------- odd paths


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


def test_a_value_of_a_wrong_type_in_a_line_is_an_error_of_the_batch(predictor, images, tmp_path) -> None:
    pytest.importorskip("pyarrow", reason="pip install '.[ray]' to test Parquet")
    out = tmp_path / "out"
    run_batch(images, out, TEXT, predictor=predictor)
    first, second = lines(out / "results.jsonl")
    (out / "results.jsonl").write_text(json.dumps(first) + "\n" + json.dumps(second | {"score": "x"}) + "\n")
    with pytest.raises(errors.BatchError, match="wrong type"):
        run_batch(images, out, TEXT, predictor=predictor, options=BatchOptions(formats=("mask", "parquet")))


@pytest.mark.parametrize("depth", [300, 900, 960, 980, 990])
def test_a_deep_value_in_a_job_file_is_an_error_of_the_batch(predictor, images, tmp_path, depth) -> None:
    run_batch(images, tmp_path / "out", TEXT, predictor=predictor)
    path = tmp_path / "out" / "job.json"
    job = path.read_text().replace('"glob": null', f'"glob": {"[" * depth}{"]" * depth}')
    path.write_text(job)
    with pytest.raises(errors.BatchError):
        run_batch(images, tmp_path / "out", TEXT, predictor=predictor)


def test_an_expression_or_a_row_of_a_megabyte_makes_a_short_message(predictor, images, tmp_path) -> None:
    long = "x" * 1_000_000
    for name, content in (
        ("p.txt", long),
        ("p.csv", f"image,text\na.png,{long}\n"),
        ("c.csv", f"{long},text\na.png,x\n"),
        ("p.jsonl", json.dumps({"image": "a.png", "text": long})),
        ("q.jsonl", "{" + long),
        ("r.jsonl", json.dumps({"image": long})),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises((errors.ManifestError, errors.TextError)) as raised:
            run_batch(images, tmp_path / "out", predictor=predictor, prompts=tmp_path / name)
        assert len(str(raised.value)) < 1000, name


def test_a_lack_of_memory_while_an_image_is_written_is_an_error_of_this_image_alone(
    predictor, photos, tmp_path, monkeypatch
) -> None:
    from sspsam.segmentation import rle

    encode = rle.rle_encode
    calls = iter(range(1000))

    def failing_once(mask: Any) -> Any:
        if next(calls) == 1:
            raise MemoryError
        return encode(mask)

    monkeypatch.setattr("sspsam.segmentation.result.rle_encode", failing_once)
    summary = run_batch(photos, tmp_path / "out", "the star", predictor=predictor)
    assert (summary.done, summary.failed) == (3, 2)
    errors_by_class = sorted(line["error"] for line in lines(tmp_path / "out" / "errors.jsonl"))
    assert errors_by_class == ["ImageError", "OutOfMemoryError"]
