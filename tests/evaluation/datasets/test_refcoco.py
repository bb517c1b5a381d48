"""RefCOCO, RefCOCO+, RefCOCOg and RefCLEF, compared with what refer.py gives on drawn data."""

import copy
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sspsam.errors import DatasetError, DatasetMissingError, MissingExtraError
from sspsam.evaluation.datasets.entries import read_dataset
from sspsam.evaluation.datasets.places import require_images
from tests.support.datasets import DATASETS, INSTANCES, decoded, ref, write_refcoco

REFER = DATASETS / "refer"
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools

EXPECTED: dict[str, dict[str, Any]] = json.loads((REFER / "expected.json").read_text())


@pytest.fixture(params=[".p", ".py2-protocol2.p", ".py3-protocol4.p"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """All data sets of refer.py, with pickles of one protocol."""
    for name in EXPECTED:
        dataset, split_by = name.rstrip(")").split("(")
        (tmp_path / dataset).mkdir(exist_ok=True)
        shutil.copy(REFER / dataset / "instances.json", tmp_path / dataset)
        shutil.copy(REFER / dataset / f"refs({split_by}){request.param}", tmp_path / dataset / f"refs({split_by}).p")
    return tmp_path


@pytest.mark.parametrize("name", EXPECTED)
def test_every_split_box_and_mask_is_that_of_refer(root: Path, name: str) -> None:
    dataset, split_by = name.rstrip(")").split("(")
    masks = np.load(REFER / "masks.npz")
    listings = {split: rows for split, rows in EXPECTED[name].items() if isinstance(rows, list)}
    assert len(listings) == 9
    for split, rows in listings.items():
        found = read_dataset(dataset, split, data_root=root, split_by=split_by)
        expected = [
            (f"{row['ref_id']}/{sent_id}", text, str(row["image_id"]), (x, y, x + width, y + height))
            for row in rows
            for x, y, width, height in [row["box_xywh"]]
            for sent_id, text in zip(row["sent_ids"], row["sents"], strict=True)
        ]
        assert [(entry.key, entry.text, entry.image_id, entry.box) for entry in found] == expected
        for entry in found:
            mask, packed = entry.mask(), masks[f"{name}/{entry.key.partition('/')[0]}"]
            assert mask.shape == entry.size
            assert np.array_equal(mask.ravel(), np.unpackbits(packed)[: mask.size])
            assert not entry.no_target


@pytest.mark.parametrize("name", EXPECTED)
def test_splits_that_refer_does_not_know_are_refused(name: str) -> None:
    dataset, split_by = name.rstrip(")").split("(")
    unknown = [split for split, rows in EXPECTED[name].items() if not isinstance(rows, list)]
    assert unknown == ["trainval", "testABC"]
    for split in unknown:
        with pytest.raises(DatasetError, match=f"no split '{split}'"):
            read_dataset(dataset, split, data_root=REFER, split_by=split_by)


def test_the_usual_division_into_splits_is_the_default() -> None:
    for dataset, split_by in (("refcoco", "unc"), ("refcoco+", "unc"), ("refcocog", "umd"), ("refclef", "unc")):
        default = read_dataset(dataset, "val", data_root=REFER)
        assert default == read_dataset(dataset, "val", data_root=REFER, split_by=split_by) != []


def test_truth_is_that_of_the_authors_evaluation(reference: Path) -> None:
    folder = reference / "evaluation"
    official = np.load(folder / "eval_official.npz")
    for prefix, dataset, split in (("ref_", "refcoco", "testA"), ("gref_", "grefcoco", "val")):
        found = read_dataset(dataset, split, data_root=folder / "eval_data")
        require_images(found, dataset)
        assert [entry.text for entry in found] == official[f"{prefix}expression"].tolist()
        assert [list(entry.size) for entry in found] == official[f"{prefix}size_hw"].tolist()
        boxes = np.array([entry.box or (0, 0, 0, 0) for entry in found], np.float32)
        assert np.allclose(boxes, official[f"{prefix}gt_box_xyxy"], rtol=1e-6)
        for entry, rle in zip(found, official[f"{prefix}gt_rle"], strict=True):
            assert np.array_equal(entry.mask(), decoded(entry.size, str(rle)))


def test_limit_counts_expressions() -> None:
    everything = read_dataset("refcoco", "test", data_root=REFER)
    assert read_dataset("refcoco", "test", data_root=REFER, limit=4) == everything[:4]
    with pytest.raises(ValueError, match="at least 1"):
        read_dataset("refcoco", "test", data_root=REFER, limit=0)


def test_images_are_in_the_first_usual_place_or_below_the_image_root(tmp_path: Path) -> None:
    root = write_refcoco(tmp_path, [ref()])
    (root / "train2014").mkdir()
    entry = read_dataset("refcoco", "val", data_root=root)[0]
    assert entry.image == root / "train2014" / "seven.jpg"
    (root / "coco" / "train2014").mkdir(parents=True)
    assert read_dataset("refcoco", "val", data_root=root)[0].image == root / "coco" / "train2014" / "seven.jpg"
    entry = read_dataset("refcoco", "val", data_root=root, image_root=tmp_path / "x")[0]
    assert entry.image == tmp_path / "x" / "seven.jpg"


def test_missing_images_are_listed_with_their_source(tmp_path: Path) -> None:
    found = read_dataset("refcoco", "val", data_root=write_refcoco(tmp_path, [ref()]))
    with pytest.raises(DatasetMissingError, match=r"1 of 1 images.*seven\.jpg.*train2014\.zip"):
        require_images(found, "refcoco")


def test_the_folder_of_another_data_set_is_not_read_as_this_one(tmp_path: Path) -> None:
    folder = write_refcoco(tmp_path, [ref()]) / "refcoco"
    assert read_dataset("refcoco", "val", data_root=folder)
    with pytest.raises(DatasetError, match=r"is the folder of refcoco by its name, not of refcoco\+"):
        read_dataset("refcoco+", "val", data_root=folder)


def test_a_file_that_is_missing_is_named_in_the_folder_of_the_others(tmp_path: Path) -> None:
    folder = write_refcoco(tmp_path, [ref()]) / "refcoco"
    (folder / "instances.json").unlink()
    (folder / "refcoco+").mkdir()
    with pytest.raises(DatasetMissingError) as failure:
        read_dataset("refcoco", "val", data_root=folder)
    assert f"refcoco lacks {folder / 'instances.json'}: get" in str(failure.value)


def test_missing_annotations_are_listed_with_their_source(tmp_path: Path) -> None:
    with pytest.raises(DatasetMissingError, match=r"refs\(unc\)\.p.*instances\.json.*lichengunc/refer"):
        read_dataset("refcoco", "val", data_root=tmp_path)
    with pytest.raises(DatasetMissingError, match=r"refcoco\+/refs\(unc\)\.p"):  # where the data root exists, too
        read_dataset("refcoco+", "val", data_root=tmp_path)
    (write_refcoco(tmp_path, [ref()]) / "refcoco" / "instances.json").unlink()
    with pytest.raises(DatasetMissingError) as failure:
        read_dataset("refcoco", "val", data_root=tmp_path)
    assert "instances.json" in str(failure.value)
    assert "refs(unc)" not in str(failure.value)


@pytest.mark.parametrize(
    ("refs", "message"),
    [
        ({}, r"refs\(unc\)\.p must be a list, not dict"),
        ([3], r"refs\(unc\)\.p: entry 0 must be an object"),
        ([{"image_id": 7}], r"entry 0 lacks 'ref_id'"),
        ([ref(), ref(split=None)], r"entry 1 \(ref_id 5\): 'split' must be a string, not NoneType"),
        ([ref(sentences=[{"sent_id": 1, "sent": 2}])], r"entry 0 \(ref_id 5\): sentence 0: 'sent' must be a string"),
        ([ref(image_id=70)], r"entry 0 \(ref_id 5\) refers to image 70, which .*instances\.json lacks"),
        ([ref(ann_id=9)], r"entry 0 \(ref_id 5\) refers to annotation 9"),
        ([ref(ann_id=True)], r"'ann_id' must be an integer or a string, not bool"),
        ([ref(ann_id=[1, 2])], r"must refer to one annotation, not to 2"),
    ],
)
def test_malformed_refs_name_file_and_entry(tmp_path: Path, refs: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_dataset("refcoco", "val", data_root=write_refcoco(tmp_path, refs))


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("images", {"height": 0}, r"instances\.json: image 7: 'height' must be a positive integer"),
        ("images", {"file_name": "../seven.jpg"}, r"image 7: 'file_name' must be a path below the folder"),
        ("images", {"id": None}, r"instances\.json: images\[0\]: 'id' must be an integer"),
        ("annotations", {"bbox": [1, 2, 3]}, r"annotation 1: 'bbox' must have 4 numbers, not 3"),
        ("annotations", {"bbox": [9, 9, -4, 3]}, r"annotation 1: 'bbox' must be x, y, width, height, not .*negative"),
        ("annotations", {"bbox": [1, 2, 3, float("nan")]}, r"annotation 1: 'bbox' must be a finite number"),
        ("annotations", {"segmentation": []}, r"annotation 1: 'segmentation' is empty"),
        ("annotations", {"segmentation": None}, r"annotation 1: 'segmentation' must be a list, not NoneType"),
        ("annotations", {"segmentation": [[1, 2, 3, 4, 5]]}, r"'segmentation', part 0 must have an even count"),
        ("annotations", {"segmentation": [[1, 2, 3, "4"]]}, r"part 0 must be a finite number, not str"),
        ("annotations", {"segmentation": [{"size": [8, 6], "counts": "0"}]}, r"part 0 is of size \[8, 6\]"),
        ("annotations", {"segmentation": [{"size": [6, 8]}]}, r"part 0 must have 'counts'"),
    ],
)
def test_malformed_instances_name_file_and_entry(tmp_path: Path, part: str, change: Any, message: str) -> None:
    instances = copy.deepcopy(INSTANCES)
    instances[part][0] |= change
    with pytest.raises(DatasetError, match=message):
        read_dataset("refcoco", "val", data_root=write_refcoco(tmp_path, [ref()], instances))


@pytest.mark.parametrize("counts", [[50], [-2, 50], "PPP", "0 X", [5, 43, 7], "00l"])
def test_run_lengths_of_other_than_all_pixels_are_refused_and_name_the_entry(tmp_path: Path, counts: Any) -> None:
    instances = copy.deepcopy(INSTANCES)
    instances["annotations"][0]["segmentation"] = [{"size": [6, 8], "counts": counts}]
    entry = read_dataset("refcoco", "val", data_root=write_refcoco(tmp_path, [ref()], instances))[0]
    with pytest.raises(DatasetError, match=r"entry 0 \(ref_id 5\): the segmentation cannot be decoded"):
        entry.mask()


def test_json_that_is_cut_off_names_the_file(tmp_path: Path) -> None:
    (write_refcoco(tmp_path, [ref()]) / "refcoco" / "instances.json").write_text('{"images": [')
    with pytest.raises(DatasetError, match=r"instances\.json cannot be read as JSON"):
        read_dataset("refcoco", "val", data_root=tmp_path)


def test_keys_stay_unique_where_ids_occur_again(tmp_path: Path) -> None:
    found = read_dataset("refcoco", "val", data_root=write_refcoco(tmp_path, [ref(), ref(2)]))
    assert [entry.key for entry in found] == ["5/11", "5/12", "5/11#2", "5/12#2"]
    assert found[0].box != found[2].box


def test_a_missing_pycocotools_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    with pytest.raises(MissingExtraError, match=r"sspsam\[eval\]"):
        read_dataset("refcoco", "val", data_root=write_refcoco(tmp_path, [ref()]))


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        ("coco", {}, "there is no data set 'coco': use one of refcoco, "),
        ("lmms-lab/RefCOCO", {}, "are refused, because they join the parts"),
        ("refcoco", {"split_by": "../unc"}, "split_by must be letters"),
        ("phrasecut", {"split_by": "unc"}, "phrasecut has only one division into splits"),
    ],
)
def test_other_data_sets_and_names_are_refused(dataset: str, options: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_dataset(dataset, "val", data_root=REFER, **options)
