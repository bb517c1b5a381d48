"""Files of one answer."""

import json

import numpy as np
from PIL import Image

from sspsam.segmentation.exports.answer_files import ANSWER_SUFFIXES, NamedAnswer, answer_file
from tests.support.answers import answer, iou
from tests.support.filling import filled
from tests.support.masks import two_mugs


def test_every_file_of_an_answer_has_its_content() -> None:
    from io import BytesIO

    from sspsam import Segmentation

    mask = two_mugs()
    pixels = np.full((*mask.shape, 3), 77, np.uint8)
    result = answer(mask, pixels=pixels)
    content = {kind: answer_file(kind, NamedAnswer("a.jpg", "mug", result)) for kind in ANSWER_SUFFIXES}
    assert np.array_equal(np.asarray(Image.open(BytesIO(content["mask"]))) == 255, mask)
    assert np.asarray(Image.open(BytesIO(content["overlay"]))).shape == pixels.shape
    cutout = np.asarray(Image.open(BytesIO(content["cutout"])))
    assert np.array_equal(cutout[..., 3] == 255, mask)
    again = Segmentation.from_dict(json.loads(content["json"]))
    assert np.array_equal(again.mask, mask)
    polygons = json.loads(content["polygons"])
    assert (polygons["image"], polygons["text"], polygons["label"]) == ("a.jpg", "the mug", "mug")
    assert iou(filled(polygons["polygons"], *mask.shape), mask) == 1
