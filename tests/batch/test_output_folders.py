"""Output folders: below the input, around it, behind links, and with files of other programs."""

import json
import shutil
from typing import Any

import pytest

from sspsam import SSPSAMPredictor, errors
from sspsam.batch import BatchOptions, run_batch
from tests.support.batches import TEXT, draw, needs_links, tree


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


def test_a_folder_of_masks_inside_an_output_folder_is_refused_and_one_of_images_is_not(predictor, images) -> None:
    run_batch(images, images / "out", TEXT, predictor=predictor)
    with pytest.raises(errors.ManifestError, match=r"belongs to .*out, the output folder of a batch"):
        run_batch(images / "out" / "sub", images.parent / "masks", TEXT, predictor=predictor)
    draw(images / "out" / "new" / "c.png", 3)
    assert run_batch(images / "out" / "new", images.parent / "others", TEXT, predictor=predictor).pictures == 1


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


def test_combined_outputs_of_other_programs_are_not_replaced(predictor, images, tmp_path) -> None:
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
