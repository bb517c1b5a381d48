"""COCO files are read back by pycocotools, and the forms of results that every export refuses."""

import json
import sys

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from sspsam import errors
from sspsam.segmentation import to_coco, to_label_studio, to_labelme, to_yolo
from tests.support.answers import answer, iou
from tests.support.masks import two_mugs


@pytest.mark.parametrize("polygons", [False, True])
@pytest.mark.parametrize("instances", [False, True])
def test_pycocotools_reads_every_mask_back(masks, images, tmp_path, polygons, instances) -> None:
    (tmp_path / "coco.json").write_text(json.dumps(to_coco(images, polygons=polygons, instances=instances)))
    coco = COCO(tmp_path / "coco.json")
    assert {about["file_name"] for about in coco.imgs.values()} == set(masks)
    assert len(coco.anns) == len(coco.dataset["annotations"])  # all ids differ
    for number, about in coco.imgs.items():
        mask = masks[about["file_name"]]
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=[number]))
        assert (len(annotations) > 0) == mask.any()
        read = np.zeros(mask.shape, dtype=bool)
        for annotation in annotations:
            encoded = coco.annToRLE(annotation)
            assert annotation["area"] == coco_mask.area(encoded)
            assert annotation["bbox"] == list(coco_mask.toBbox(encoded))
            assert annotation["iscrowd"] == 0
            part = coco_mask.decode(encoded) == 1
            assert not (part & read).any() or polygons
            read |= part
        assert iou(read, mask) >= (0.99 if polygons else 1), about["file_name"]


def test_instances_are_annotations_of_their_own_and_their_ids_differ() -> None:
    images = {"a.jpg": [answer(two_mugs(), "mugs"), answer(two_mugs() & False, "a cat")], "b.jpg": answer(two_mugs())}
    whole, parts = to_coco(images), to_coco(images, instances=True)
    assert [each["id"] for each in whole["annotations"]] == [1, 3]  # the no-target answer has no annotation
    assert [each["id"] for each in parts["annotations"]] == [1, 2, 3, 4]
    assert [each["area"] for each in parts["annotations"]] == [15 * 20 - 15, 150] * 2
    assert [each["name"] for each in parts["categories"]] == ["mugs", "a cat", "the mug"]
    large = to_coco(images, instances=True, min_area=200)
    assert [(each["id"], each["area"]) for each in large["annotations"]] == [(1, 285), (2, 285)]
    assert len(to_yolo(images, instances=True)["labels/b.txt"].splitlines()) == 2
    assert len(to_yolo(images, instances=True, min_area=200)["labels/b.txt"].splitlines()) == 1


def test_a_category_is_a_label_and_the_expression_only_where_there_is_none() -> None:
    mask = two_mugs()
    images = {"a.jpg": [answer(mask, "the red mug"), answer(mask, "the blue mug"), answer(mask, "a spoon")]}
    data = to_coco(images, labels={"the red mug": "mug", "the blue mug": "mug"})
    assert data["categories"] == [{"id": 1, "name": "mug"}, {"id": 2, "name": "a spoon"}]
    assert [each["category_id"] for each in data["annotations"]] == [1, 1, 2]


def test_polygons_in_a_coco_file_without_pycocotools_name_the_extra(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    with pytest.raises(errors.MissingExtraError, match=r"sspsam\[coco\]"):
        to_coco({"a.jpg": answer(two_mugs())}, polygons=True)
    assert to_coco({"a.jpg": answer(two_mugs())})["annotations"]


@pytest.mark.parametrize("export", [to_coco, to_yolo, to_labelme, to_label_studio])
def test_results_in_another_form_are_named_with_the_form_that_is_needed(export) -> None:
    mask = two_mugs()
    with pytest.raises(TypeError, match=r"\{'photo.jpg': results\}, not list"):
        export([answer(mask)])
    with pytest.raises(TypeError, match=r"a.jpg must be a Segmentation"):
        export({"a.jpg": [mask]})
    with pytest.raises(ValueError, match=r"a.jpg has no results"):
        export({"a.jpg": []})
    with pytest.raises(ValueError, match="different sizes"):
        export({"a.jpg": [answer(mask), answer(mask.T)]})
    with pytest.raises(ValueError, match="label of 'the mug' must be a name"):
        export({"a.jpg": answer(mask)}, labels={"the mug": " "})
    for results in (None, 3):
        with pytest.raises(TypeError, match=r"a.jpg must be a Segmentation"):
            export({"a.jpg": results})
    for labels in (["mug"], "mug"):
        with pytest.raises(TypeError, match=r"labels must give .* such as \{'the mug': 'mug'\}, not "):
            export({"a.jpg": answer(mask)}, labels=labels)
