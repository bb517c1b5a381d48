"""Answers as detections of supervision, and exports that supervision reads back."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sspsam import errors
from sspsam.segmentation import to_coco, to_labelme, to_supervision, to_yolo
from tests.support.answers import answer, iou
from tests.support.masks import Mask, supervision_that_fills, two_mugs


def test_detections_have_a_row_for_each_answer_with_a_target() -> None:
    pytest.importorskip("supervision", reason="pip install '.[supervision]' to test it")
    mask = two_mugs()
    results = [answer(mask & False, "a cat"), answer(mask, "the red mug", 0.75), answer(~mask, "the table", 0.25)]
    found = to_supervision(results)
    assert found.xyxy.tolist() == [[5, 5, 50, 35], [0, 0, 60, 40]]
    assert np.array_equal(found.mask, [mask, ~mask])
    assert found.confidence.tolist() == [0.75, 0.25]
    assert found.class_id.tolist() == [1, 2]  # indices of the expressions
    assert found.data["class_name"].tolist() == ["the red mug", "the table"]
    assert found.area.tolist() == [mask.sum(), (~mask).sum()]
    assert to_supervision(results, labels={"the table": "mug", "the red mug": "mug"}).class_id.tolist() == [1, 1]
    nothing = to_supervision(results[0])
    assert (len(nothing), nothing.mask.shape) == (0, (0, 40, 60))
    assert to_supervision(results[1])[0].data["class_name"].tolist() == ["the red mug"]


def test_supervision_draws_the_detections() -> None:
    tools = pytest.importorskip("supervision", reason="pip install '.[supervision]' to test it")
    mask = two_mugs()
    scene = np.full((*mask.shape, 3), 200, np.uint8)
    drawn = tools.MaskAnnotator(opacity=1).annotate(scene.copy(), to_supervision(answer(mask)))
    assert np.array_equal((drawn != 200).any(axis=-1), mask)
    nothing = tools.MaskAnnotator().annotate(scene.copy(), to_supervision(answer(mask & False)))
    assert np.array_equal(nothing, scene)


def masks_read_by_supervision(dataset: Any) -> dict[str, Mask]:
    """Return the union of the masks of each image, by the name of its file."""
    return {Path(path).name: np.logical_or.reduce(found.mask, axis=0) for path, _, found in dataset if len(found)}


@pytest.fixture(scope="module")
def image_folder(masks: dict[str, Mask], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of the sizes of the masks, in one folder."""
    folder = tmp_path_factory.mktemp("images")
    for name, mask in masks.items():
        Image.new("RGB", mask.shape[::-1]).save(folder / Path(name).name)
    return folder


@pytest.fixture(scope="module")
def named(masks: dict[str, Mask]) -> dict[str, Mask]:
    """The masks by the names of files without folders."""
    return {Path(name).name: mask for name, mask in masks.items()}


def test_supervision_reads_the_masks_of_coco_files_exactly(named, image_folder, tmp_path: Path) -> None:
    tools = pytest.importorskip("supervision", reason="pip install '.[supervision]' to test it")
    data = to_coco({name: answer(mask) for name, mask in named.items()})
    (tmp_path / "coco.json").write_text(json.dumps(data))
    dataset = tools.DetectionDataset.from_coco(str(image_folder), str(tmp_path / "coco.json"), force_masks=True)
    assert dataset.classes == ["the mug"]
    assert len(dataset) == len(named)
    read = masks_read_by_supervision(dataset)
    for name, mask in named.items():
        assert np.array_equal(read.get(name, mask & False), mask)


def test_supervision_reads_the_masks_of_yolo_files(named, image_folder, tmp_path: Path) -> None:
    tools = supervision_that_fills()
    for path, text in to_yolo({name: answer(mask) for name, mask in named.items()}, instances=True).items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    places = (image_folder, tmp_path / "labels", tmp_path / "data.yaml")
    dataset = tools.DetectionDataset.from_yolo(*map(str, places), force_masks=True)
    assert len(dataset) == len(named)
    read = masks_read_by_supervision(dataset)
    for name, mask in named.items():
        assert iou(read.get(name, mask & False), mask) >= 0.99, name


def test_supervision_fills_polygons_of_labelme_to_the_masks(masks, images) -> None:
    tools = supervision_that_fills()
    files = to_labelme(images)
    for name, mask in masks.items():
        read = np.zeros_like(mask)
        for shape in files[Path(name).with_suffix(".json").as_posix()]["shapes"]:
            corners = np.round(shape["points"]).astype(np.int32)  # as supervision's reader of LabelMe's files does
            read |= tools.polygon_to_mask(corners, mask.shape[::-1]) == 1
        assert iou(read, mask) >= 0.99, name


def test_missing_supervision_names_the_extra(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(errors.MissingExtraError, match=r"sspsam\[supervision\]"):
        to_supervision(answer(two_mugs()))
