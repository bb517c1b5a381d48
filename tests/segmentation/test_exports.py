"""Exports are read back by other programs, and give the masks again."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from sspsam import errors
from sspsam.segmentation import to_coco, to_label_studio, to_labelme, to_supervision, to_yolo
from sspsam.segmentation.exports.answer_files import ANSWER_SUFFIXES, Answer, answer_file
from sspsam.segmentation.exports.yolo import joined_ring
from tests.support.answers import answer, iou
from tests.support.masks import Mask, drawn_masks, odd_masks, supervision_that_fills


@pytest.fixture(scope="module", params=[20, pytest.param(200, marks=pytest.mark.slow)])
def masks(request: pytest.FixtureRequest) -> dict[str, Mask]:
    """Drawn masks and 50 odd masks, by names of images."""
    drawn = {f"drawn/{number}.jpg": mask for number, mask in enumerate(drawn_masks()[: request.param])}
    return {**drawn, **{f"odd/{name}.png": mask for name, mask in odd_masks().items()}}


@pytest.fixture(scope="module")
def images(masks: dict[str, Mask]) -> dict[str, Any]:
    return {name: answer(mask) for name, mask in masks.items()}


def two_mugs() -> Mask:
    mask = np.zeros((40, 60), dtype=bool)
    mask[5:15, 5:20] = mask[20:35, 30:50] = True
    mask[25:28, 35:40] = False
    return mask


def filled(rows: list[list[float]], height: int, width: int) -> Mask:
    """Fill polygons by the even-odd rule at the centres of pixels, slowly: a second implementation."""
    mask = np.zeros((height, width), dtype=bool)
    y, x = np.mgrid[0:height, 0:width] + 0.5
    for row in rows:
        inside = np.zeros_like(mask)
        ring = np.reshape(row, (-1, 2))
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            if y0 != y1:
                crosses = (y >= min(y0, y1)) & (y < max(y0, y1))
                inside ^= crosses & (x > x0 + (y - y0) * (x1 - x0) / (y1 - y0))
        mask |= inside
    return mask


def filled_with_outline(ring: NDArray[np.float64], height: int, width: int) -> Mask:
    """Fill an outline of whole numbers with the pixels on it, slowly: a second implementation of OpenCV's way."""
    mask = np.zeros((height, width), dtype=bool)
    y, x = np.mgrid[0:height, 0:width].astype(float)
    for first, second in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        line = np.linspace(first, second, int(np.abs(second - first).max()) + 1)
        columns, rows = np.rint(line).astype(int).T
        mask[rows, columns] = True
    inside = np.zeros_like(mask)
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        if y0 != y1:
            inside ^= (y >= min(y0, y1)) & (y < max(y0, y1)) & (x > x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return mask | inside


# ---------------------------------------------------------------- COCO


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


# ---------------------------------------------------------------- YOLO


def yolo_polygons(text: str, height: int, width: int) -> list[list[float]]:
    rows = [[float(value) for value in line.split()[1:]] for line in text.splitlines()]
    return [[value * (height if place % 2 else width) for place, value in enumerate(row)] for row in rows]


@pytest.mark.parametrize("whole_numbers", [np.round, np.trunc])  # supervision's way, and that of Ultralytics
def test_yolo_files_give_the_masks_again_to_programs_that_fill_the_outline_too(masks, images, whole_numbers) -> None:
    files = to_yolo(images, instances=True)
    assert len(files) == len(masks) + 1
    for name, mask in masks.items():
        height, width = mask.shape
        polygons = yolo_polygons(files[f"labels/{Path(name).with_suffix('.txt')}"], height, width)
        assert len(polygons) == len(answer(mask).components())
        if name.startswith("drawn/") and not name.endswith("7.jpg"):  # the second implementation is slow
            continue
        read = np.zeros_like(mask)
        for polygon in polygons:
            assert len(polygon) >= 6
            read |= filled_with_outline(whole_numbers(np.reshape(polygon, (-1, 2))), height, width)
        assert iou(read, mask) >= 0.99, name


def test_corners_of_yolo_files_stay_in_their_pixels_in_wide_images_read_as_float32() -> None:
    size = 10_007
    mask = np.zeros((3, size), dtype=bool)
    mask[1, ::33] = True
    text = to_yolo({"a.jpg": answer(mask)}, instances=True)["labels/a.txt"]
    values = np.array([line.split()[1:] for line in text.splitlines()], dtype=np.float32)
    columns = values[:, ::2] * np.float32(size)
    for whole_numbers in (np.round, np.trunc):
        assert sorted(whole_numbers(columns).max(axis=1)) == list(range(0, size, 33))


def test_a_yolo_row_of_a_whole_mask_has_all_parts_and_lines_between_them(masks, images) -> None:
    files = to_yolo(images)
    several = 0
    for name, mask in masks.items():
        rows = yolo_polygons(files[f"labels/{Path(name).with_suffix('.txt')}"], *mask.shape)
        assert len(rows) == mask.any()
        parts = len(answer(mask).components())
        if rows and parts < 20:
            read = filled_with_outline(np.trunc(np.reshape(rows[0], (-1, 2))), *mask.shape)
            assert np.count_nonzero(mask & ~read) <= 0.01 * mask.sum(), name
            several += parts > 1
            # at most as many pixels more as a line for each further part may have
            allowed = 0.01 * mask.sum() + (parts - 1) * max(mask.shape)
            assert np.count_nonzero(read & ~mask) <= allowed, name
    assert several >= 5


def test_data_file_of_yolo_is_yaml_whatever_the_categories_are() -> None:
    yaml = pytest.importorskip("yaml")
    names = ["the mug", 'a "b"', "c: d # e", "back\\slash", "naïve 🦊", "line\nbreak\x85\u2028\x7f", "null", ""]
    names[-1] = "7"
    images = {f"{number}.jpg": answer(two_mugs(), name) for number, name in enumerate(names)}
    data = yaml.safe_load(to_yolo(images)["data.yaml"])
    assert data == {"train": "images", "val": "images", "nc": len(names), "names": dict(enumerate(names))}
    assert yaml.safe_load(to_yolo({})["data.yaml"])["names"] == {}


def test_an_image_without_a_target_is_a_background_image_of_yolo() -> None:
    files = to_yolo({"a.jpg": answer(two_mugs() & False), "sub/b.jpg": answer(two_mugs())})
    assert files["labels/a.txt"] == ""
    assert len(files["labels/sub/b.txt"].splitlines()) == 1


def test_two_images_that_would_share_a_yolo_file_are_named() -> None:
    with pytest.raises(ValueError, match=r"a.jpg and a.png would share the YOLO file labels/a.txt"):
        to_yolo({"a.jpg": answer(two_mugs()), "a.png": answer(two_mugs())})
    for name in ("/abs/a.jpg", "../a.jpg", ""):
        with pytest.raises(ValueError, match="relative to the folder"):
            to_yolo({name: answer(two_mugs())})


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_hundred_thousand_parts_are_joined_in_time_that_is_not_quadratic() -> None:
    y, x = np.random.default_rng(0).permutation(np.argwhere(np.ones((316, 316), bool)))[:, :, None].swapaxes(0, 1) * 10
    rings = np.concatenate([x, y, x + 3, y, x + 3, y + 3, x, y + 3], axis=1).reshape(-1, 4, 2).astype(float)
    joined = joined_ring(list(rings))
    assert len(joined) == len(rings) * 6 - 2


def test_a_mask_of_thousands_of_parts_is_one_yolo_row_with_short_bridges() -> None:
    mask = np.zeros((600, 600), dtype=bool)
    for row in range(3):
        for column in range(3):
            mask[row::10, column::10] = True  # 3,600 squares
    ring = np.reshape(yolo_polygons(to_yolo({"a.jpg": answer(mask)})["labels/a.txt"], 600, 600), (-1, 2))
    assert not (mask & ~filled_by_labelme([ring.ravel().tolist()], 600, 600)).any()
    lengths = np.hypot(*(np.roll(ring, -1, axis=0) - ring).T)
    assert lengths.sum() / 3600 < 12 + 2 * 40  # the outline of each square, and both ways of its bridge


# ---------------------------------------------------------------- LabelMe and Label Studio


PILLOW = tuple(int(number) for number in PIL.__version__.split(".")[:2])


def filled_by_labelme(rings: list[list[float]], height: int, width: int) -> Mask:
    """Fill polygons as LabelMe's `shape_to_mask` does."""
    mask = np.zeros((height, width), dtype=bool)
    for ring in rings:
        image = Image.new("L", (width, height))
        ImageDraw.Draw(image).polygon(ring, fill=1, outline=1)
        mask |= np.asarray(image) == 1
    return mask


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


# ---------------------------------------------------------------- supervision


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


# ---------------------------------------------------------------- files of one answer


def test_every_file_of_an_answer_has_its_content() -> None:
    from io import BytesIO

    from sspsam import Segmentation

    mask = two_mugs()
    pixels = np.full((*mask.shape, 3), 77, np.uint8)
    result = answer(mask, pixels=pixels)
    content = {kind: answer_file(kind, Answer("a.jpg", "mug", result)) for kind in ANSWER_SUFFIXES}
    assert np.array_equal(np.asarray(Image.open(BytesIO(content["mask"]))) == 255, mask)
    assert np.asarray(Image.open(BytesIO(content["overlay"]))).shape == pixels.shape
    cutout = np.asarray(Image.open(BytesIO(content["cutout"])))
    assert np.array_equal(cutout[..., 3] == 255, mask)
    again = Segmentation.from_dict(json.loads(content["json"]))
    assert np.array_equal(again.mask, mask)
    polygons = json.loads(content["polygons"])
    assert (polygons["image"], polygons["text"], polygons["label"]) == ("a.jpg", "the mug", "mug")
    assert iou(filled(polygons["polygons"], *mask.shape), mask) == 1
