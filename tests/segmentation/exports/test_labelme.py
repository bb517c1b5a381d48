"""LabelMe files and Label Studio tasks give the masks again."""

import json
from pathlib import Path

import numpy as np
import PIL
import pytest

from sspsam.segmentation import to_label_studio, to_labelme
from tests.support.answers import answer, iou
from tests.support.filling import filled, filled_by_labelme
from tests.support.masks import two_mugs

PILLOW = tuple(int(number) for number in PIL.__version__.split(".")[:2])


def test_labelme_refuses_images_without_a_name_or_with_one_file() -> None:
    for name in ("", ".", "a/.."):
        with pytest.raises(ValueError, match="is no path of an image"):
            to_labelme({name: answer(two_mugs())})
    with pytest.raises(ValueError, match=r"share the file a.json"):
        to_labelme({"A.jpg": answer(two_mugs()), "a.png": answer(two_mugs())})


def test_labelme_files_give_the_masks_again_and_name_image_label_and_expression(masks, images) -> None:
    files = to_labelme(images, labels={"the mug": "mug"})
    for name, mask in list(masks.items())[-60:]:
        data = json.loads(json.dumps(files[Path(name).with_suffix(".json").as_posix()]))
        assert (data["imagePath"], data["imageHeight"], data["imageWidth"]) == (Path(name).name, *mask.shape)
        rings = [[value for point in shape["points"] for value in point] for shape in data["shapes"]]
        assert all(len(ring) >= 6 for ring in rings)
        if PILLOW >= (11, 2) or name.startswith("drawn"):  # 11.0 and 11.1 lose ends of diagonal lines
            assert iou(filled_by_labelme(rings, *mask.shape), mask) >= 0.99, name
        for shape in data["shapes"]:
            assert (shape["label"], shape["description"], shape["group_id"]) == ("mug", "the mug", 1)
            assert shape["shape_type"] == "polygon"
    with pytest.raises(ValueError, match=r"share the file a.json"):
        to_labelme({"a.jpg": answer(two_mugs()), "a.png": answer(two_mugs())})


def test_label_studio_tasks_give_the_masks_again_in_percent(masks, images) -> None:
    tasks = json.loads(json.dumps(to_label_studio(images, labels={"the mug": "mug"}, from_name="tag")))
    assert [task["data"]["image"] for task in tasks] == list(masks)
    for task in tasks[-60:]:
        [prediction] = task["predictions"]
        mask = masks[task["data"]["image"]]
        assert prediction["model_version"].startswith("sspsam ")
        rings = []
        for region in prediction["result"]:
            assert (region["from_name"], region["to_name"], region["type"]) == ("tag", "image", "polygonlabels")
            assert (region["original_height"], region["original_width"]) == mask.shape
            assert region["value"]["polygonlabels"] == ["mug"]
            points = np.array(region["value"]["points"]) * (mask.shape[1], mask.shape[0]) / 100
            rings.append(points.ravel().tolist())
        assert len({region["id"] for region in prediction["result"]}) == len(rings)
        assert iou(filled(rings, *mask.shape), mask) >= 0.99
