"""gRefCOCO, compared with what G_REFER and the authors' preparation give on drawn data."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sspsam.errors import DatasetError
from sspsam.evaluation.datasets.entries import read_dataset
from tests.support.datasets import DATASETS, decoded, ref, write_grefcoco

ROOT = DATASETS / "eval_data"
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools

EXPECTED: dict[str, Any] = json.loads((ROOT / "grefcoco_expected.json").read_text())
AUTHORS: dict[str, Any] = json.loads((ROOT / "authors_anns_grefcoco.json").read_text())


@pytest.mark.parametrize("split", EXPECTED)
def test_every_split_and_merged_mask_is_that_of_g_refer(split: str) -> None:
    found = read_dataset("grefcoco", split, data_root=ROOT)
    expected = [(str(row["ref_id"]), text, row) for row in EXPECTED[split] for text in row["sents"]]
    assert [(entry.key.partition("/")[0], entry.text) for entry in found] == [each[:2] for each in expected]
    for entry, (_, _, row) in zip(found, expected, strict=True):
        assert entry.no_target == row["empty"]
        assert entry.image_id == str(row["image_id"])
        mask = entry.mask()
        assert mask.sum() == row["mask_pixels"]
        assert np.array_equal(mask, decoded(entry.size, row["mask_rle"]))


@pytest.mark.parametrize("split", AUTHORS)
def test_boxes_are_the_hulls_that_the_authors_prepare(split: str) -> None:
    found = read_dataset("grefcoco", split, data_root=ROOT)
    boxes = [tuple(row["bbox"]) for row in AUTHORS[split] for _ in row["refs"]]
    assert [entry.box or (0, 0, 0, 0) for entry in found] == boxes


def test_crowds_count_for_the_box_but_not_for_the_mask(tmp_path: Path) -> None:
    root = write_grefcoco(tmp_path, [ref([1, 3]), ref([3], ref_id=6), ref([1, 2], ref_id=8)])
    crowd, only_crowd, two = read_dataset("grefcoco", "val", data_root=root)[::2]
    assert crowd.box == (0, 1, 8, 6)
    assert np.argwhere(crowd.mask()).tolist() == [[y, x] for y in (1, 2) for x in (1, 2, 3)]
    assert not only_crowd.no_target
    assert not only_crowd.mask().any()
    assert two.mask().sum() == 6 + 6
    assert two.box == (1, 1, 7, 5)


def test_an_expression_without_a_target_has_an_empty_mask_and_no_box(tmp_path: Path) -> None:
    entry = read_dataset("grefcoco", "val", data_root=write_grefcoco(tmp_path, [ref([-1])]))[0]
    assert entry.no_target
    assert entry.box is None
    assert entry.mask().shape == (6, 8)
    assert not entry.mask().any()


def test_a_pickle_is_preferred_to_json_as_in_g_refer(tmp_path: Path) -> None:
    root = write_grefcoco(tmp_path, [ref([1])])
    (root / "grefcoco" / "grefs(unc).p").write_bytes(pickle.dumps([ref([2])]))
    assert read_dataset("grefcoco", "val", data_root=root)[0].box == (5, 2, 7, 5)


@pytest.mark.parametrize("split", ["test", "trainval", "A"])
def test_split_names_are_exact(split: str) -> None:
    with pytest.raises(DatasetError, match=f"no split '{split}': it has .*testA"):
        read_dataset("grefcoco", split, data_root=ROOT)


@pytest.mark.parametrize(
    ("ann_id", "message"), [([], r"entry 0 \(ref_id 5\) has an empty 'ann_id'"), ([1, -1], "refers to annotation -1")]
)
def test_malformed_targets_name_file_and_entry(tmp_path: Path, ann_id: list[int], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_dataset("grefcoco", "val", data_root=write_grefcoco(tmp_path, [ref(ann_id)]))
