"""Files of a batch in every format, labels, and batches that an earlier version began."""

import json
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from sspsam import Segmentation, SSPSAMPredictor, errors
from sspsam.batch import BatchOptions, Shard, run_batch
from tests.support.answers import iou
from tests.support.batches import TEXTS, draw, lines, tree


@pytest.fixture(scope="module")
def shapes() -> SSPSAMPredictor:
    """The bundled model, whose masks have several parts, holes and nothing."""
    return SSPSAMPredictor.from_pretrained("shapes", device="cpu")


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    for seed, name in enumerate(["a.png", "sub/a.png", "sub/b.jpg"]):
        draw(tmp_path / "scenes" / name, seed + 3, (120, 160))
    return tmp_path / "scenes"


def test_every_file_of_an_answer_is_written_beside_its_mask(predictor, photos, tmp_path) -> None:
    formats = ("mask", "overlay", "cutout", "json", "polygons")
    out = tmp_path / "out"
    options = BatchOptions(formats=formats, no_target_pixels=0)
    run_batch(photos, out, TEXTS, predictor=predictor, labels=["circle", "dog"], options=options)
    for line in lines(out / "results.jsonl"):
        stem = f"{line['image']}-{line['number']}"
        assert line["label"] == {"the red circle": "circle", "a dog": "dog"}[line["text"]]
        assert line["files"] == {
            "mask": f"{stem}.png",
            "overlay": f"{stem}.overlay.png",
            "cutout": f"{stem}.cutout.png",
            "json": f"{stem}.json",
            "polygons": f"{stem}.polygons.json",
        }
        mask = np.asarray(Image.open(out / line["files"]["mask"])) == 255
        cutout = np.asarray(Image.open(out / line["files"]["cutout"]))
        assert np.array_equal(cutout[..., 3] == 255, mask)
        for record in (line, json.loads((out / line["files"]["json"]).read_text())):
            assert np.array_equal(Segmentation.from_dict(record).mask, mask)
            assert (record["image"], record["label"]) == (line["image"], line["label"])
        polygons = json.loads((out / line["files"]["polygons"]).read_text())
        assert (polygons["image"], polygons["label"], polygons["width"]) == (line["image"], line["label"], 90)
        assert bool(polygons["polygons"]) == mask.any()
    assert not [path for path in tree(out) if path.endswith(".tmp")]


def test_labels_are_the_categories_of_coco_and_yolo(shapes, scenes, tmp_path) -> None:
    texts = ["the red shape", "the blue shape", "the largest shape", "a dog"]
    labels = ["shape", "shape", "largest", "dog"]
    options = BatchOptions(formats=("mask", "coco", "yolo"), instances=True, coco_polygons=True)
    run_batch(scenes, tmp_path / "out", texts, predictor=shapes, labels=labels, options=options)
    coco = COCO(tmp_path / "out" / "coco.json")
    assert [about["name"] for about in coco.cats.values()] == ["shape", "largest", "dog"]
    results = lines(tmp_path / "out" / "results.jsonl")
    assert {line["label"] for line in results} == set(labels)
    for number, about in coco.imgs.items():
        of_image = [line for line in results if line["image"] == about["file_name"]]
        for category, name in ((about["id"], about["name"]) for about in coco.cats.values()):
            annotations = coco.loadAnns(coco.getAnnIds(imgIds=[number], catIds=[category]))
            parts = [
                part for line in of_image if line["label"] == name for part in Segmentation.from_dict(line).components()
            ]
            assert len(annotations) == len(parts)
            for annotation, part in zip(annotations, parts, strict=True):
                assert isinstance(annotation["segmentation"], list)
                assert iou(coco.annToMask(annotation) == 1, part.mask) >= 0.99
        rows = (tmp_path / "out" / "yolo" / "labels" / about["file_name"]).with_suffix(".txt").read_text().splitlines()
        counts = [len(Segmentation.from_dict(line).components()) for line in of_image]
        assert [int(row.split()[0]) for row in rows] == [
            ["shape", "largest", "dog"].index(line["label"])
            for line, n in zip(of_image, counts, strict=True)
            for _ in range(n)
        ]
    assert '  2: "dog"\n' in (tmp_path / "out" / "yolo" / "data.yaml").read_text()


def test_a_table_may_have_a_column_of_labels(predictor, photos, tmp_path) -> None:
    table = tmp_path / "prompts.csv"
    table.write_text("image,text,label\na.jpg,the red circle,circle\na.jpg,a dog,\nb.png,the star,star\n")
    run_batch(photos, tmp_path / "csv", predictor=predictor, prompts=table)
    rows = [
        {"image": "a.jpg", "text": ["the red circle", "a dog"], "label": ["circle", None]},
        {"image": "b.png", "text": "the star", "label": "star"},
    ]
    other = tmp_path / "prompts.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_batch(
        photos, tmp_path / "jsonl", predictor=predictor, prompts=other, options=BatchOptions(formats=("mask", "coco"))
    )
    for name in ("csv", "jsonl"):
        assert [(line["text"], line.get("label")) for line in lines(tmp_path / name / "results.jsonl")] == [
            *(("the red circle", "circle"), ("a dog", None), ("the star", "star"))
        ]
    coco = json.loads((tmp_path / "jsonl" / "coco.json").read_text())
    assert {about["name"] for about in coco["categories"]} == {"circle", "a dog", "star"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", "image,text,label\na.jpg,,circle\n", "line 2 has the label 'circle' and no text"),
        ("p.jsonl", '{"image": "a.jpg", "text": ["x", "y"], "label": "z"}', "one value for each text, 2"),
        ("p.jsonl", '{"image": "a.jpg", "text": "x", "label": 3}', "one value for each text, 1, not 3"),
        ("p.jsonl", '{"image": "a.jpg", "text": "x", "label": [3]}', "a label must be a string"),
    ],
)
def test_bad_labels_of_a_table_are_named_with_their_line(predictor, photos, tmp_path, name, content, message) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(errors.ManifestError, match=message):
        run_batch(photos, tmp_path / "out", predictor=predictor, prompts=tmp_path / name)
    assert not (tmp_path / "out").exists()


def test_as_many_labels_as_expressions_are_needed(predictor, photos, tmp_path) -> None:
    for texts, labels in ((TEXTS, ["circle"]), (TEXTS, "circle"), (None, ["circle"])):
        prompts = None
        if texts is None:
            prompts = tmp_path / "p.txt"
            prompts.write_text("the star")
        with pytest.raises(errors.ManifestError, match="one label for each expression"):
            run_batch(photos, tmp_path / "out", texts, predictor=predictor, prompts=prompts, labels=labels)
    with pytest.raises(errors.ManifestError, match="a label must be a name"):
        run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor, labels=["circle", " "])


def test_other_labels_with_the_same_output_are_refused(predictor, photos, tmp_path) -> None:
    run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor, labels=["circle", "dog"])
    before = tree(tmp_path / "out")
    for labels in (None, ["circle", "animal"]):
        with pytest.raises(errors.BatchError, match="labels was"):
            run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor, labels=labels)
    assert run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor, labels=["circle", "dog"]).done == 0
    assert tree(tmp_path / "out") == before


def test_yolo_keeps_what_the_user_put_beside_the_labels_and_goes_with_overwrite(predictor, photos, tmp_path) -> None:
    out, options = tmp_path / "out", BatchOptions(formats=("mask", "yolo"))
    run_batch(photos, out, TEXTS, predictor=predictor, options=options)
    labels = {path.relative_to(out / "yolo" / "labels").as_posix() for path in (out / "yolo").rglob("*.txt")}
    assert labels == {"a.txt", "b.txt", "sub/a.txt", "sub/deeper/c.txt"}
    (out / "yolo" / "images").mkdir()
    (out / "yolo" / "images" / "a.jpg").write_text("mine")
    (out / "yolo" / "labels" / "b.txt").write_text("changed")
    before = tree(out / "yolo")
    run_batch(photos, out, TEXTS, predictor=predictor, options=options)
    after = tree(out / "yolo")
    assert {path for path in after if after[path] != before[path]} == {"labels/b.txt"}  # made from the results again
    run_batch(photos, out, TEXTS, predictor=predictor, options=BatchOptions(overwrite=True))
    assert set(tree(out / "yolo")) == {"images", "images/a.jpg"}


def test_a_folder_of_another_program_with_the_name_of_a_combined_output_is_not_replaced(
    predictor, photos, tmp_path
) -> None:
    run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor)
    (tmp_path / "out" / "yolo" / "labels").mkdir(parents=True)
    (tmp_path / "out" / "yolo" / "labels" / "a.txt").write_text("mine")
    before = tree(tmp_path / "out")
    with pytest.raises(errors.BatchError, match=r"yolo was not written by sspsam"):
        run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor, options=BatchOptions(formats=("yolo",)))
    run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor)
    assert tree(tmp_path / "out") == before


def test_two_images_that_would_share_a_yolo_file_are_named_before_the_run(predictor, photos, tmp_path) -> None:
    draw(photos / "a.png", 1)
    with pytest.raises(errors.BatchError, match=r"a.jpg and a.png would share the YOLO file labels/a.txt"):
        run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor, options=BatchOptions(formats=("yolo",)))
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.name == "nt", reason="names that Windows does not allow")
def test_yolo_files_have_the_names_of_their_images_by_which_yolo_finds_them(predictor, tmp_path) -> None:
    names = ['a"b.png', "12:30.png", "new\nline.png", "yolo", "x-1.png/a.png", "a.b.png", "ä" * 120 + ".png"]
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10)).save(tmp_path / "in" / name, "PNG")
    run_batch(
        tmp_path / "in", tmp_path / "out", ["x"], predictor=predictor, options=BatchOptions(formats=("yolo", "mask"))
    )
    labels = tmp_path / "out" / "yolo" / "labels"
    found = {path.relative_to(labels).as_posix() for path in labels.rglob("*.txt")}
    assert found == {PurePosixPath(name).with_suffix(".txt").as_posix() for name in names}


def test_an_image_folder_called_yolo_does_not_mix_with_the_labels(predictor, tmp_path) -> None:
    draw(tmp_path / "photos" / "yolo" / "labels" / "x.png", 1)
    options = BatchOptions(formats=("mask", "yolo"))
    for _ in range(2):
        run_batch(tmp_path / "photos", tmp_path / "out", TEXTS, predictor=predictor, options=options)
        for line in lines(tmp_path / "out" / "results.jsonl"):
            assert (tmp_path / "out" / line["files"]["mask"]).is_file()


def test_annotations_of_shards_have_different_ids_and_one_numbering_of_categories(shapes, scenes, tmp_path) -> None:
    for seed in range(8):
        draw(scenes / f"more{seed}.png", seed + 50, (120, 160))
    texts = ["the red shape", "a dog"]
    for number in (1, 2):
        options = BatchOptions(formats=("coco", "yolo"), instances=True, shard=Shard(number, 2))
        run_batch(scenes, tmp_path / "out", texts, predictor=shapes, options=options)
    parts = [json.loads((tmp_path / "out" / f"coco.{number}-of-2.json").read_text()) for number in (1, 2)]
    ids = [annotation["id"] for part in parts for annotation in part["annotations"]]
    assert len(ids) == len(set(ids)) > 2
    assert all(part["annotations"] for part in parts)
    yaml = [(tmp_path / "out" / f"yolo.{number}-of-2" / "data.yaml").read_text() for number in (1, 2)]
    assert yaml[0] == yaml[1]
    labels = [{p.name for p in (tmp_path / "out" / f"yolo.{n}-of-2").rglob("*.txt")} for n in (1, 2)]
    assert not labels[0] & labels[1] - {"a.txt"}


# ---------------------------------------------------------------- batches of earlier versions


def as_version_one(folder: Path, images: Sequence[str]) -> None:
    """Turn a batch into one that the version before labels left unfinished, with the given images."""
    kept: list[dict[str, Any]] = []
    for line in lines(folder / "results.jsonl"):
        if line["image"] in images:
            kept.append({key: value for key, value in line.items() if key != "text_truncated"} | {"version": 1})
        else:
            for name in line["files"].values():
                (folder / name).unlink()
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))


def test_a_batch_that_an_earlier_version_began_is_finished_in_every_format(predictor, photos, tmp_path) -> None:
    options = BatchOptions(formats=("mask", "overlay"), no_target_pixels=0)
    run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor, options=options)
    job = json.loads((tmp_path / "out" / "job.json").read_text())
    assert set(job) == {  # no key that the earlier version does not know
        *("version", "sspsam", "input", "model", "fingerprint", "precision", "rounded_to", "texts", "formats", "glob"),
        *("shard", "shards", "pictures", "batch_size", "mask_threshold", "no_target_pixels", "max_pixels"),
    }
    assert (job["version"], job["formats"]) == (1, ["mask", "overlay"])
    as_version_one(tmp_path / "out", ["a.jpg", "b.png"])
    options = BatchOptions(formats=("mask", "overlay", "coco", "yolo"), coco_polygons=True, no_target_pixels=0)
    summary = run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor, options=options)
    assert (summary.done, summary.earlier, summary.failed) == (2, 2, 1)
    results = lines(tmp_path / "out" / "results.jsonl")
    assert [line["version"] for line in results] == [1] * 4 + [2] * 4
    coco = COCO(tmp_path / "out" / "coco.json")
    for number, about in coco.imgs.items():
        for category, name in ((about["id"], about["name"]) for about in coco.cats.values()):
            [line] = [line for line in results if (line["image"], line["text"]) == (about["file_name"], name)]
            read = np.zeros((60, 90), dtype=bool)
            for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[number], catIds=[category])):
                read |= coco.annToMask(annotation) == 1
            mask = np.asarray(Image.open(tmp_path / "out" / line["files"]["mask"])) == 255
            assert iou(read, mask) >= 0.99


def test_a_damaged_line_is_named_when_its_mask_is_needed(predictor, photos, tmp_path) -> None:
    run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor, options=BatchOptions(no_target_pixels=0))
    results = lines(tmp_path / "out" / "results.jsonl")
    del results[2]["score"]
    (tmp_path / "out" / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in results))
    options = BatchOptions(formats=("mask", "yolo"), no_target_pixels=0)
    with pytest.raises(errors.BatchError, match=r"line of b.png and expression 1 .* is damaged"):
        run_batch(photos, tmp_path / "out", TEXTS, predictor=predictor, options=options)


# ---------------------------------------------------------------- output folders are never input


def test_files_of_every_format_in_output_folders_are_never_read_as_images(predictor, photos, tmp_path) -> None:
    options = BatchOptions(formats=("mask", "overlay", "cutout", "json", "polygons", "coco", "yolo"))
    run_batch(photos, photos / "out", TEXTS, predictor=predictor, options=options)
    summary = run_batch(photos, tmp_path / "again", TEXTS, predictor=predictor)
    assert (summary.done, summary.failed, summary.skipped_outputs) == (4, 1, 1)
    with pytest.raises(errors.ManifestError, match="is the output folder of a batch"):
        run_batch(photos / "out", tmp_path / "third", TEXTS, predictor=predictor)
    assert not (tmp_path / "third").exists()
