"""Overlays of the worst answers: which are chosen, what is drawn, and the index."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sspsam import SSPSAMPredictor
from sspsam.evaluation.datasets.entries import read_dataset
from sspsam.evaluation.job import EvaluationJob
from sspsam.evaluation.records import Record, read_records
from sspsam.evaluation.run import run_evaluation
from sspsam.evaluation.worst_cases import worst_cases
from sspsam.images.encoder import ImageEncoder
from sspsam.segmentation.rle import rle_encode
from tests.support.evaluated import write_scenes

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools

GREEN, ORANGE = (0, 158, 115), (213, 94, 0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"), scenes=3, questions=4)


def predictions(folder: Path, data: Path) -> Path:
    """Good masks with one bad, one missed target and one mask where nothing is meant."""
    entries = read_dataset("jsonl", "val", data_root=data)
    present = [number for number, entry in enumerate(entries) if not entry.no_target]
    absent = [number for number, entry in enumerate(entries) if entry.no_target]
    masks = [entry.mask() for entry in entries]
    masks[present[0]] = np.roll(masks[present[0]], 7, axis=1)
    masks[absent[0]][10:30, 5:60] = True
    path = folder / "predictions.jsonl"
    lines = [{"rle": rle_encode(mask), "no_target": not mask.any()} for mask in masks]
    lines[present[1]]["no_target"] = True  # a mask that the answer takes back
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def near(image: Path, color: tuple[int, int, int]) -> int:
    """Number of pixels of about a colour."""
    return int((np.abs(np.asarray(Image.open(image), int) - color).max(axis=2) < 25).sum())


def test_the_worst_of_each_kind_come_first() -> None:
    base = Record(0, False, False, 50, 100, 100)
    records = [
        base,
        replace(base, index=1, intersection=10),
        replace(base, index=2, intersection=10),
        replace(base, index=3, predicted_no_target=True, target_area=200),
        replace(base, index=4, predicted_no_target=True, target_area=300),
        replace(base, index=5, no_target=True, target_area=0, intersection=0, predicted_area=70),
        replace(base, index=6, no_target=True, target_area=0, intersection=0, predicted_area=80),
        replace(base, index=7, no_target=True, target_area=0, intersection=0, predicted_no_target=True),
    ]
    cases = worst_cases(reversed(records), 2)
    assert [case.record.index for case in cases] == [1, 2, 4, 3, 6, 5]
    assert [case.file_name for case in cases[::2]] == ["low-iou-001.jpg", "missed-001.jpg", "absent-001.jpg"]
    assert cases[0].iou == pytest.approx(10 / 190)
    assert worst_cases(records, 0) == []


def test_overlays_show_truth_and_prediction_in_two_colours(data: Path, tmp_path: Path) -> None:
    run_evaluation(job(data), predictions=predictions(tmp_path, data), output=tmp_path / "out", worst=1)
    folder = tmp_path / "out" / "worst"
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "absent-001.jpg",
        "low-iou-001.jpg",
        "missed-001.jpg",
    ]
    # labels are filled with the colour of their mask
    assert near(folder / "low-iou-001.jpg", GREEN) > 500
    assert near(folder / "low-iou-001.jpg", ORANGE) > 500
    assert near(folder / "missed-001.jpg", GREEN) > 500 > near(folder / "missed-001.jpg", ORANGE)
    assert near(folder / "absent-001.jpg", ORANGE) > 500 > near(folder / "absent-001.jpg", GREEN)
    index = (folder / "README.md").read_text()
    assert len(re.findall(r"\]\((?:low-iou|missed|absent)-001\.jpg\) \| ", index)) == 3
    records = read_records(tmp_path / "out" / "records.jsonl")
    worst = next(case for case in worst_cases(records, 1))
    assert f"| {worst.record.text} | {worst.record.image} | {worst.iou:.4f} |" in index


def job(data: Path) -> EvaluationJob:
    return EvaluationJob("jsonl", "val", data)


def test_a_predictors_worst_cases_are_drawn_once(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = SSPSAMPredictor.from_pretrained("shapes", device="cpu")
    run_evaluation(job(data), predictor=predictor, output=tmp_path, worst=2)
    before = {path.name: path.read_bytes() for path in (tmp_path / "worst").iterdir()}
    assert {"README.md", "low-iou-001.jpg", "low-iou-002.jpg"} <= before.keys()
    with monkeypatch.context() as patch:
        patch.setattr(ImageEncoder, "encode", None)
        run_evaluation(job(data), predictor=predictor, output=tmp_path, worst=2)
    (tmp_path / "worst" / "low-iou-002.jpg").unlink()
    (tmp_path / "worst" / "my notes.txt").write_text("kept")
    run_evaluation(job(data), predictor=predictor, output=tmp_path, worst=1)
    left = {path.name: path.read_bytes() for path in (tmp_path / "worst").iterdir()}
    assert "low-iou-002.jpg" not in left
    assert left["low-iou-001.jpg"] == before["low-iou-001.jpg"]
    assert left["my notes.txt"] == b"kept"
    run_evaluation(job(data), predictor=predictor, output=tmp_path, overwrite=True)
    assert [path.name for path in (tmp_path / "worst").iterdir()] == ["my notes.txt"]


def test_images_that_cannot_be_used_are_left_out_and_words_cannot_break_the_index(tmp_path: Path) -> None:
    rle = rle_encode(np.ones((20, 30), np.bool_))
    for name, size in (("good.png", (30, 20)), ("other size.png", (31, 20))):
        Image.new("RGB", size).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes(b"no image")
    names = ("good.png", "other size.png", "missing.png", "broken.png")
    text = "a | *b* [c](d)\n<e>"
    lines = [{"image": name, "text": text, "rle": rle} for name in names[:1] + names[2:3]]
    (tmp_path / "val.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "p.jsonl").write_text('{"mask": null}\n' * 2)
    run_evaluation(job(tmp_path), predictions=tmp_path / "p.jsonl", output=tmp_path / "out", worst=9)
    assert sorted(path.name for path in (tmp_path / "out" / "worst").iterdir()) == ["README.md", "missed-001.jpg"]
    rows = [line for line in (tmp_path / "out" / "worst" / "README.md").read_text().splitlines() if "missing" in line]
    assert len(rows) == 1
    assert rows[0].startswith(r"| (image not found) | a \| \*b\* \[c\](d)")
    assert len(re.findall(r"(?<!\\)\|", rows[0])) == 8
