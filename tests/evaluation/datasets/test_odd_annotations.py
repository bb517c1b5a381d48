"""Annotations that no program should write: each gives one message with file and entry, or the owners' answer."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sspsam import SSPSAMPredictor
from sspsam.errors import DatasetError
from sspsam.evaluation.datasets.entries import read_dataset
from sspsam.evaluation.job import EvaluationJob
from sspsam.evaluation.records import read_records
from sspsam.evaluation.run import run_evaluation

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools

IMAGE: dict[str, Any] = {"id": 1, "file_name": "a.png", "height": 30, "width": 40}
OBJECT: dict[str, Any] = {
    "id": 1,
    "image_id": 1,
    "bbox": [1, 1, 10, 10],
    "segmentation": [[1, 1, 11, 1, 11, 11, 1, 11]],
}
REF: dict[str, Any] = {"ref_id": 1, "image_id": 1, "ann_id": [1], "split": "val"}


def write(
    folder: Path, text: str = "thing", image: dict[str, Any] | None = None, thing: dict[str, Any] | None = None
) -> Path:
    (folder / "grefcoco").mkdir()
    (folder / "images").mkdir()
    Image.new("RGB", (40, 30)).save(folder / "images" / "a.png")
    instances = {"images": [{**IMAGE, **(image or {})}], "annotations": [{**OBJECT, **(thing or {})}]}
    refs = [{**REF, "sentences": [{"sent_id": 1, "sent": text}]}]
    (folder / "grefcoco" / "instances.json").write_text(json.dumps(instances))
    (folder / "grefcoco" / "grefs(unc).json").write_text(json.dumps(refs))
    return folder


def masks(folder: Path) -> np.ndarray:
    (entry,) = read_dataset("grefcoco", "val", data_root=folder)
    return entry.mask()


@pytest.mark.parametrize("coordinate", [1e300, -1e300, 1e9, 2**31, 100_001])
def test_coordinates_that_crash_pycocotools_are_refused(tmp_path: Path, coordinate: float) -> None:
    folder = write(tmp_path, thing={"segmentation": [[1, 1, coordinate, 1, 11, 11]]})
    with pytest.raises(DatasetError, match=r"annotation 1: 'segmentation', part 0 has the coordinate .* far outside"):
        masks(folder)


def test_an_object_of_another_image_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, thing={"image_id": 3})
    with pytest.raises(DatasetError, match=r"entry 0 \(ref_id 1\) is about image 1, but .* annotation 1 is of image 3"):
        masks(folder)


def test_an_id_of_thousands_of_digits_is_refused_and_its_place_named(tmp_path: Path) -> None:
    folder = write(tmp_path)
    refs = [{**REF, "ann_id": [10**5000], "sentences": [{"sent_id": 1, "sent": "thing"}]}]
    (folder / "grefcoco" / "grefs(unc).p").write_bytes(pickle.dumps(refs, 2))
    with pytest.raises(DatasetError, match=r"entry 0 \(ref_id 1\): 'ann_id' must be an integer of at most 64 bits"):
        masks(folder)


def test_a_corner_outside_the_image_is_usual(tmp_path: Path) -> None:
    folder = write(tmp_path, thing={"segmentation": [[-500, 0, 5000, 0, 5000, 5000, -500, 5000]]})
    assert masks(folder).all()


@pytest.mark.parametrize("side", [10**6, 2**40])
def test_an_image_that_cannot_be_loaded_is_refused_before_its_mask_is_made(tmp_path: Path, side: int) -> None:
    folder = write(tmp_path, image={"height": side, "width": side})
    with pytest.raises(DatasetError, match=r"image 1: \d+ x \d+ pixels .* more than the 100,000,000"):
        masks(folder)


@pytest.mark.parametrize(
    ("counts", "words"),
    [([-5, 1205], "a run length is negative"), ([1200, 10**12], "give 1,000,000,001,200 pixels"), ("o", "cut off")],
)
def test_damaged_run_lengths_are_named(tmp_path: Path, counts: Any, words: str) -> None:
    folder = write(tmp_path, thing={"segmentation": {"size": [30, 40], "counts": counts}})
    with pytest.raises(DatasetError, match=rf"entry 0 \(ref_id 1\): the segmentation cannot be decoded: .*{words}"):
        masks(folder)


@pytest.mark.parametrize("text", ["half \ud83d a pair", "a\0b\nc", "\u2028 line"])
def test_unusual_words_come_back_from_the_records(tmp_path: Path, text: str) -> None:
    folder = write(tmp_path, text)
    (tmp_path / "p.jsonl").write_text('{"mask": null}\n')
    for _ in range(2):  # the second run reads the records of the first
        run_evaluation(
            EvaluationJob("grefcoco", "val", folder), predictions=tmp_path / "p.jsonl", output=tmp_path / "out", worst=1
        )
    assert [record.text for record in read_records(tmp_path / "out" / "records.jsonl")] == [text]


def test_an_empty_expression_is_named_before_the_work(tmp_path: Path) -> None:
    folder = write(tmp_path, " ")
    predictor = SSPSAMPredictor.from_pretrained("shapes", device="cpu")
    with pytest.raises(DatasetError, match=r"entry 1/1 about .*a\.png is empty"):
        run_evaluation(EvaluationJob("grefcoco", "val", folder), predictor=predictor, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_mask_file_with_an_impossible_name_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    (tmp_path / "val.jsonl").write_text(
        json.dumps({"image": "a.png", "text": "x", "mask": "a\0.png", "box": [0, 0, 1, 1]})
    )
    (entry,) = read_dataset("jsonl", "val", data_root=tmp_path)
    with pytest.raises(DatasetError, match=r"val\.jsonl, line 1: the mask .* cannot be read"):
        entry.mask()
