"""The authors' prepared data, compared with the owners' files that it was prepared from."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sspsam.errors import DatasetError, DatasetMissingError
from sspsam.evaluation.datasets.entries import read_dataset
from tests.support.datasets import DATASETS

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools

ROOT = DATASETS / "eval_data"


def prepared(folder: Path, dataset: str) -> Path:
    """The authors' annotations, with the masks that their script writes: counts of parts, uint8."""
    (folder / "anns").mkdir(exist_ok=True)
    (folder / "masks" / dataset).mkdir(parents=True)
    shutil.copy(ROOT / f"authors_anns_{dataset}.json", folder / "anns" / f"{dataset}.json")
    for split in ("train", "val", "testA", "testB"):
        for entry in read_dataset(dataset, split, data_root=ROOT):
            path = folder / "masks" / dataset / f"{entry.key.partition('/')[0]}.npy"
            np.save(path, entry.mask().astype(np.uint8) * 2)
    return folder


@pytest.mark.parametrize("dataset", ["refcoco", "grefcoco"])
def test_prepared_data_gives_the_entries_of_the_owners_files(tmp_path: Path, dataset: str) -> None:
    prepared(tmp_path, dataset)
    for split in ("train", "val", "testA", "testB"):
        expected = read_dataset(dataset, split, data_root=ROOT)
        found = read_dataset("authors", split, data_root=tmp_path)
        assert len({entry.key for entry in found}) == len(found) == len(expected)
        for entry, other in zip(found, expected, strict=True):
            assert (entry.text, entry.box, entry.no_target) == (other.text, other.box, other.no_target)
            assert (entry.size, entry.image_id, entry.image.name) == (other.size, other.image_id, other.image.name)
            assert np.array_equal(entry.mask(), other.mask())


def test_one_of_several_annotations_is_chosen_by_its_name(tmp_path: Path) -> None:
    prepared(tmp_path, "refcoco")
    prepared(tmp_path, "grefcoco")
    assert read_dataset("authors", "val", data_root=tmp_path, split_by="refcoco")[0].text == "ref 5 says 0"
    with pytest.raises(DatasetError, match="split_by: grefcoco, refcoco"):
        read_dataset("authors", "val", data_root=tmp_path)
    with pytest.raises(DatasetError, match=r"refcoco\.json has no split 'test': it has train, val, testA, testB"):
        read_dataset("authors", "test", data_root=tmp_path, split_by="refcoco")


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetMissingError, match=r"anns holds no annotations: get anns/<name>\.json"):
        read_dataset("authors", "val", data_root=tmp_path)
    (prepared(tmp_path, "refcoco") / "masks" / "refcoco" / "505.npy").unlink()
    with pytest.raises(DatasetMissingError, match=r"val entry 0 refers to the mask .*505\.npy"):
        read_dataset("authors", "val", data_root=tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_id": "../505"}, "cannot be part of a file name"),
        ({"bbox": None}, "'bbox' must be a list"),
        ({"refs": [None]}, "'refs' must be a string"),
        ({"iid": 1.5}, "'iid' must be an integer or a string"),
    ],
)
def test_malformed_annotations_name_file_and_entry(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = prepared(tmp_path, "refcoco") / "anns" / "refcoco.json"
    content = json.loads(path.read_text())
    content["val"][0] |= changes
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=rf"refcoco\.json: val entry 0: .*{message}"):
        read_dataset("authors", "val", data_root=tmp_path)


@pytest.mark.parametrize("array", [np.zeros((2, 3, 1)), np.zeros(3), None])
def test_masks_of_another_kind_name_the_entry(tmp_path: Path, array: Any) -> None:
    path = prepared(tmp_path, "refcoco") / "masks" / "refcoco" / "505.npy"
    if array is None:
        path.write_bytes(b"no array")
    else:
        np.save(path, array)
    with pytest.raises(DatasetError, match=r"val entry 0: the mask .*505\.npy"):
        read_dataset("authors", "val", data_root=tmp_path)


def test_a_mask_with_nan_is_refused(tmp_path: Path) -> None:
    path = prepared(tmp_path, "refcoco") / "masks" / "refcoco" / "505.npy"
    np.save(path, np.full(np.load(path).shape, np.nan))
    entry = read_dataset("authors", "val", data_root=tmp_path)[0]
    with pytest.raises(DatasetError, match=r"505\.npy cannot be read: it must hold finite numbers"):
        entry.mask()
