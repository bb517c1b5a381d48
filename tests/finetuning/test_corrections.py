"""Files corrected by hand go straight back in."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sspsam.errors import DatasetError
from sspsam.evaluation.datasets.jsonl import Line
from sspsam.finetuning.corrections import corrected_lines, is_corrected

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
SQUARE = [[10, 10], [30, 10], [30, 20], [10, 20]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "a b.png")
    return tmp_path


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def lines_of(path: Path) -> dict[str, Line]:
    lines = list(corrected_lines(path))
    assert not [line for line in lines if isinstance(line, DatasetError)], lines
    return {line.entry.text: line for line in lines if isinstance(line, Line)}


def shape(text: str, points: Any, **changes: Any) -> dict[str, Any]:
    return {"label": text, "points": points, "shape_type": "polygon", "description": "", **changes}


def task_with(kind: str) -> dict[str, Any]:
    """A task of Label Studio whose only region is of a kind that is not read."""
    region = {"type": kind, "value": {kind: ["x"]}}
    return {"data": {"image": "a b.png", "texts": ["x"]}, "annotations": [{"result": [region]}]}


def test_a_file_of_labelme_is_read_with_its_flags(folder: Path) -> None:
    content = {
        "imagePath": "a b.png",
        "flags": {"a cup": True, "the box": False},
        "shapes": [
            shape("box", SQUARE, description="the box"),
            shape("the lid", SQUARE),
            shape("the lid", [[0, 0], [5, 0], [5, 5]]),
        ],
    }
    write(folder / "a b.json", content)
    assert is_corrected(folder)
    lines = lines_of(folder)
    assert set(lines) == {"the box", "the lid", "a cup"}
    assert lines["the box"].entry.box == (10, 10, 30, 20)
    assert int(lines["the box"].entry.mask().sum()) == 200
    assert lines["the lid"].entry.box == (0, 0, 30, 20)
    assert lines["a cup"].entry.no_target
    assert not lines["a cup"].annotated


def test_an_export_of_label_studio_is_read_in_percent_and_without_tasks_that_nobody_annotated(folder: Path) -> None:
    points = [[100 * x / 60, 100 * y / 40] for x, y in SQUARE]
    region = {
        "type": "polygonlabels",
        "value": {"points": points, "polygonlabels": ["box"]},
        "meta": {"text": ["the box"]},
    }
    plain = {"type": "polygonlabels", "value": {"points": points, "polygonlabels": ["the lid"]}}
    tasks = [
        {
            "data": {"image": "/data/local-files/?d=a%20b.png", "texts": ["the box", "a cup"]},
            "annotations": [{"result": [region, plain, {"type": "choices", "value": {}}]}],
        },
        {"data": {"image": "a b.png"}, "annotations": [], "predictions": [{"result": [region]}]},
    ]
    lines = lines_of(write(folder / "export.json", tasks))
    assert set(lines) == {"the box", "the lid", "a cup"}
    assert int(lines["the box"].entry.mask().sum()) == 200
    assert lines["a cup"].entry.no_target


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"imagePath": "a b.png", "shapes": [shape("x", SQUARE, shape_type="circle")]}, "circle"),
        ({"imagePath": "a b.png", "shapes": [shape("x", SQUARE[:2])]}, "at least 3 corners"),
        ({"imagePath": "gone.png", "shapes": [shape("x", SQUARE)]}, "gone.png"),
        ({"imagePath": "a b.png", "shapes": [shape("x", SQUARE)], "flags": {"x": True}}, "no target"),
        ({"shapes": []}, "imagePath"),
        ([{"data": {}, "annotations": [{"result": []}]}], "names no image"),
        ([3], "must be an object"),
        ({"imagePath": "a b.png", "shapes": [], "flags": ["x"]}, "'flags' must be an object"),
        ([{"data": {"image": "a b.png"}, "annotations": 5}], "'annotations' must be a list"),
        ([{"data": {"image": "a b.png", "texts": 5}, "annotations": [{"result": []}]}], "'texts' must be a list"),
        ([{"data": {"image": "http://[::1"}, "annotations": [{"result": []}]}], "http://[::1 is not a URL"),
        ([task_with("brushlabels")], "region 1 is of the type brushlabels; only polygons with labels"),
        ([task_with("rectanglelabels")], "region 1 is of the type rectanglelabels; only polygons with labels"),
        ([task_with("polygon")], "region 1 is of the type polygon; only polygons with labels"),
    ],
)
def test_a_malformed_file_is_an_error_that_names_it(folder: Path, content: Any, words: str) -> None:
    [error] = corrected_lines(write(folder / "bad.json", content))
    assert isinstance(error, DatasetError)
    assert words in str(error)
    assert "bad.json" in str(error)
