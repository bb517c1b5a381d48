"""Files corrected by hand go straight back in."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image

from sspsam.errors import DatasetError
from sspsam.evaluation.datasets.entry import Mask
from sspsam.evaluation.datasets.jsonl import Line
from sspsam.finetuning.corrections import corrected_lines, is_corrected
from sspsam.segmentation import Segmentation, to_label_studio, to_labelme
from sspsam.segmentation.postprocessing import box_of_mask

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
PILLOW = tuple(int(number) for number in PIL.__version__.split(".")[:2])
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
    assert lines["the box"].entry.box == (10, 10, 31, 21)  # LabelMe fills the pixels on the outline too
    assert int(lines["the box"].entry.mask().sum()) == 21 * 11
    assert lines["the lid"].entry.box == (0, 0, 31, 21)
    assert lines["a cup"].entry.no_target
    assert not lines["a cup"].annotated


def odd_masks() -> dict[str, Mask]:
    """Masks that lose pixels, or all of them, where a reader means other corners than the writer."""
    masks = {name: np.zeros((40, 60), np.bool_) for name in ("pixel", "row", "column", "frame", "ring")}
    masks["pixel"][39, 59] = True
    masks["row"][20] = True
    masks["column"][:, 0] = True
    masks["frame"][:] = True
    masks["frame"][1:-1, 1:-1] = False
    masks["ring"][5:30, 5:30] = True
    masks["ring"][10:20, 10:20] = False
    masks["full"] = np.ones((40, 60), np.bool_)
    if PILLOW < (11, 2):  # loses ends of diagonal lines
        return masks
    masks["touching"] = np.zeros((40, 60), np.bool_)
    masks["touching"][5:10, 5:10] = masks["touching"][10:15, 10:15] = True
    masks["checks"] = np.indices((40, 60)).sum(axis=0) % 2 == 0
    return masks


def test_exported_masks_come_back_from_both_programs_without_a_correction(folder: Path) -> None:
    masks = odd_masks()
    box = (0.0, 0.0, 1.0, 1.0)
    results = [Segmentation(name, mask, False, int(mask.sum()), 1.0, box, box) for name, mask in masks.items()]
    [labelme] = to_labelme({"a b.png": results}).values()
    [task] = to_label_studio({"/data/local-files/?d=a%20b.png": results})
    task["annotations"] = [{"result": task["predictions"][0]["result"]}]
    for content in (labelme, [task]):
        lines = lines_of(write(folder / "export.json", content))
        assert set(lines) == set(masks)
        for name, mask in masks.items():
            read = lines[name].entry.mask()
            assert (read & mask).sum() >= 0.99 * (read | mask).sum(), name
            assert np.allclose(lines[name].entry.box or (), box_of_mask(mask) or (), atol=0.01), name


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
        (
            {"imagePath": "a b.png", "shapes": [], "flags": {"x": False}, "texts": ["x"]},
            "'x' has no shape, and its flag",
        ),
        ({"imagePath": "a b.png", "shapes": [], "texts": 5}, "'texts' must be a list"),
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
