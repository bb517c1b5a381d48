"""Files for download: the library's own, under names that no visitor can steer."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sspsam.demo.answering import Answering
from sspsam.demo.files import file_name, write_files


def test_files_hold_masks_cut_outs_and_a_coco_data_set(answering: Answering, png: bytes, tmp_path: Path) -> None:
    results = answering.answer("page", png, ["the heart", "the purple star"]).results
    paths = write_files(tmp_path, "my scene.png", results)
    assert [path.name for path in paths] == [
        "1-the-heart.mask.png",
        "1-the-heart.cutout.png",
        "2-the-purple-star.mask.png",
        "my-scene.coco.json",
        "all-files.zip",
    ]
    for path, result in zip((paths[0], paths[2]), results, strict=True):
        assert np.array_equal(np.asarray(Image.open(path)) == 255, result.mask)
    assert np.array_equal(np.asarray(Image.open(paths[1])), np.asarray(results[0].cutout()))
    with zipfile.ZipFile(paths[4]) as archive:
        assert archive.namelist() == [path.name for path in paths[:4]]
        assert archive.read("1-the-heart.mask.png") == paths[0].read_bytes()


def test_pycocotools_reads_the_same_mask_from_the_coco_file(answering: Answering, png: bytes, tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    results = answering.answer("page", png, ["the heart", "the purple star"]).results
    *_, path, _ = write_files(tmp_path, "scene.png", results)
    data = coco.COCO(str(path))
    (annotation,) = data.anns.values()
    assert np.array_equal(data.annToMask(annotation) == 1, results[0].mask)
    assert [category["name"] for category in json.loads(path.read_text())["categories"]] == [
        "the heart",
        "the purple star",
    ]


def test_two_visitors_get_folders_of_their_own(answering: Answering, png: bytes, tmp_path: Path) -> None:
    results = answering.answer("page", png, ["the heart"]).results
    assert not {*write_files(tmp_path, "a.png", results)} & {*write_files(tmp_path, "a.png", results)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\photos\\a.png", "a.png"),
        ("a\nb\0.png", "ab.png"),
        ("", "image.png"),
        (None, "image.png"),
        ("é 猫.jpg", "é 猫.jpg"),
    ],
)
def test_names_of_uploaded_files_lose_folders_and_control_characters(name: object, expected: str) -> None:
    assert file_name(name) == expected


def test_expressions_of_any_script_give_file_names(answering: Answering, png: bytes, tmp_path: Path) -> None:
    results = answering.answer("page", png, ["../../../heart", "猫"]).results
    names = [path.name for path in write_files(tmp_path, "../x/../../.png", results)]
    assert names[0] == "1-heart.mask.png"
    assert any(name.startswith("2-expression") for name in names)
    assert all(path.parent.parent == tmp_path for path in tmp_path.glob("*/*"))
