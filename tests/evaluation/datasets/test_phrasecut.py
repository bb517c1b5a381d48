"""PhraseCut, compared with its authors' drawing of the masks."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sspsam.errors import DatasetError, DatasetMissingError
from sspsam.evaluation.datasets.entries import read_dataset
from tests.support.datasets import DATASETS


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of the data set that a test may change."""
    shutil.copytree(DATASETS / "phrasecut", tmp_path / "phrasecut")
    return tmp_path


def change_task(root: Path, **changes: Any) -> None:
    path = root / "phrasecut" / "refer_miniv.json"
    tasks = json.loads(path.read_text())
    path.write_text(json.dumps([{**tasks[0], **changes}]))


def test_masks_are_those_that_the_authors_draw() -> None:
    masks = np.load(DATASETS / "phrasecut" / "gt_masks.npz")
    found = [
        entry for split in ("test", "val", "miniv") for entry in read_dataset("phrasecut", split, data_root=DATASETS)
    ]
    assert {entry.key for entry in found} == set(masks.files)
    for entry in found:
        assert np.array_equal(entry.mask(), masks[entry.key])


def test_tasks_are_read_in_the_order_of_the_files() -> None:
    folder = DATASETS / "phrasecut"
    for split in ("train", "test", "val_miniv", "miniv_val"):
        tasks = [task for part in split.split("_") for task in json.loads((folder / f"refer_{part}.json").read_text())]
        found = read_dataset("phrasecut", split, data_root=DATASETS)
        assert [(entry.key, entry.text) for entry in found] == [(task["task_id"], task["phrase"]) for task in tasks]
        assert not any(entry.no_target for entry in found)


def test_every_task_of_the_evaluator_is_there(reference: Path) -> None:
    folder = reference / "evaluation"
    expected = json.loads((folder / "phrasecut" / "expected.json").read_text())
    for split, results in expected.items():
        found = read_dataset("phrasecut", split, data_root=folder)
        assert len(found) == results["tasks"]
        keys = {entry.key for entry in found}
        assert keys >= set(results["per_task_iou"])
        assert all(entry.image.is_file() for entry in found)


def test_the_last_column_and_row_belong_to_a_box(root: Path) -> None:
    change_task(root, instance_boxes=[[10, 20, 5, 6], [12, 18, 9, 3]])
    assert read_dataset("phrasecut", "miniv", data_root=root)[0].box == (10, 18, 20, 25)


def test_points_and_empty_polygons_draw_nothing_and_lines_draw_their_pixels(root: Path) -> None:
    change_task(root, Polygons=[[[[3.9, 4.9]], []], [[[1.9, 2.9], [4.2, 2.1]]]])
    mask = read_dataset("phrasecut", "miniv", data_root=root)[0].mask()
    assert np.argwhere(mask).tolist() == [[2, 1], [2, 2], [2, 3], [2, 4]]


def test_the_list_of_3000_test_images_is_preferred(root: Path) -> None:
    images = json.loads((root / "phrasecut" / "image_data_split.json").read_text())
    larger = [{**image, "height": image["height"] + 1} for image in images]
    (root / "phrasecut" / "image_data_split3000.json").write_text(json.dumps(larger))
    assert read_dataset("phrasecut", "miniv", data_root=root)[0].size == (121, 120)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": 1}, r"refer_miniv\.json: task 0 \(105__105000_105001\) refers to image 1, which"),
        ({"task_id": None}, r"refer_miniv\.json: task 0: 'task_id' must be a string"),
        ({"phrase": 3}, r"task 0 \(105__105000_105001\): 'phrase' must be a string"),
        ({"Polygons": [[[1, 2]]]}, r"\(105__105000_105001\): 'Polygons' must be a list, not int"),
        ({"Polygons": [[[[1, 2, 3]]]]}, r"'Polygons' must have corners of 2 numbers, not 3"),
        ({"Polygons": [[[[1, float("inf")]]]]}, r"'Polygons' must be a finite number"),
        ({"instance_boxes": [[1, 2, 3]]}, r"'instance_boxes' must have 4 numbers"),
    ],
)
def test_malformed_tasks_name_file_and_task(root: Path, changes: dict[str, Any], message: str) -> None:
    change_task(root, **changes)
    with pytest.raises(DatasetError, match=message):
        read_dataset("phrasecut", "miniv", data_root=root)


def test_unknown_splits_and_missing_files_are_named(root: Path) -> None:
    for split in ("testA", "val_", "trainval"):
        with pytest.raises(DatasetError, match="phrasecut has no split"):
            read_dataset("phrasecut", split, data_root=root)
    (root / "phrasecut" / "image_data_split.json").unlink()
    with pytest.raises(DatasetMissingError, match=r"image_data_split\.json: get VGPhraseCut_v0"):
        read_dataset("phrasecut", "test", data_root=root)
