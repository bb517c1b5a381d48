"""Files corrected by hand go straight back in."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image

from sspsam.errors import DatasetError
from sspsam.evaluation.datasets.jsonl import Line
from sspsam.evaluation.datasets.masks import DrawnMask
from sspsam.finetuning.corrections import Remark, corrected_lines, is_corrected
from sspsam.finetuning.lines import DataSource, SourceLine, read_lines
from sspsam.segmentation import Segmentation, to_label_studio, to_labelme
from sspsam.segmentation.postprocessing import box_of_mask
from sspsam.utils.arrays import Mask

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
        "value": {"points": points, "polygonlabels": ["the box"]},
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
    [remark] = [line for line in corrected_lines(folder / "export.json") if isinstance(line, Remark)]
    assert "without an annotation that was submitted" in remark.sentence
    assert remark.where.endswith("export.json, task 2")
    assert int(lines["the box"].entry.mask().sum()) == 200
    assert lines["a cup"].entry.no_target


TEXTS = ("the box", "The  lid")


def labelme(*shapes: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"imagePath": "a b.png", "flags": dict.fromkeys(TEXTS, False), "texts": TEXTS, "shapes": shapes, **changes}


def listed(text: str, group: int, **changes: Any) -> dict[str, Any]:
    """A shape as sspsam writes it."""
    return {**shape(text, SQUARE, description=text, group_id=group), **changes}


def region(label: str, note: str | None = None) -> dict[str, Any]:
    value = {"points": [[10, 10], [30, 10], [30, 20]], "polygonlabels": [label]}
    return {"type": "polygonlabels", "value": value, **({} if note is None else {"meta": {"text": [note]}})}


def label_studio(*regions: dict[str, Any], **data: Any) -> list[dict[str, Any]]:
    return [{"data": {"image": "a b.png", "texts": TEXTS, **data}, "annotations": [{"result": regions}]}]


BOX, LID = listed("the box", 1), listed("The  lid", 2)


@pytest.mark.parametrize(
    ("content", "shapes"),
    [
        (labelme(BOX, LID), {"the box": 1, "The  lid": 1}),
        (labelme(BOX, {**LID, "label": "the box"}, flags={"The  lid": True}), {"the box": 2, "The  lid": 0}),
        (labelme(BOX, {**LID, "description": "unsure, see 7"}), {"the box": 1, "The  lid": 1}),
        (labelme(BOX, {**LID, "label": "the lid", "description": ""}), {"the box": 1, "The  lid": 1}),
        (labelme(BOX, LID, {**LID, "label": "the red lid"}), {"the box": 1, "The  lid": 1, "the red lid": 1}),
        (labelme(BOX, LID, shape("a cup", SQUARE, group_id=None)), {"the box": 1, "The  lid": 1, "a cup": 1}),
        (labelme(BOX, LID, {**LID, "label": ""}), {"the box": 1, "The  lid": 2}),
        (label_studio(region("the box", "the box"), region("the box", "The  lid")), {"the box": 2, "The  lid": 0}),
        (label_studio(region("the box", "a note"), region("The  lid")), {"the box": 1, "The  lid": 1}),
        (label_studio(region("cup", "the cup"), texts=[]), {"the cup": 1}),
    ],
)
def test_a_label_that_was_changed_is_the_expression_and_a_note_is_not(
    folder: Path, content: Any, shapes: dict[str, int]
) -> None:
    lines = lines_of(write(folder / "a b.json", content))
    sources = {text: line.entry.source for text, line in lines.items()}
    assert {text: 0 if line.entry.no_target else 1 for text, line in lines.items()} == {
        text: min(1, count) for text, count in shapes.items()
    }
    for text, count in shapes.items():
        assert len(drawn_polygons(sources[text])) == count, text


def drawn_polygons(source: Any) -> list[Any]:
    """The polygons of a mask of either program."""
    if source is None:
        return []
    return list(source.polygons if isinstance(source, DrawnMask) else source.segmentations[0])


def test_descriptions_of_other_files_are_read_as_expressions_and_the_user_hears_of_it(folder: Path) -> None:
    content = {"imagePath": "a b.png", "shapes": [shape("cup", SQUARE, description="the red cup"), shape("b", SQUARE)]}
    path = write(folder / "a b.json", content)
    assert set(lines_of(path)) == {"the red cup", "b"}
    [remark] = [line for line in corrected_lines(path) if isinstance(line, Remark)]
    assert "shape 1, 'the red cup' with the label 'cup'" in remark.where


def test_the_images_of_an_export_are_found_from_anywhere(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("downloads")
    worst = elsewhere / "worst" / "labelme"
    worst.mkdir(parents=True)
    (folder / "labelme").mkdir()
    image = (folder / "a b.png").rename(folder / "labelme" / "a b.png")
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    name, other = "labelme/a b.png", tmp_path_factory.mktemp("other")
    for data, root in (({"folder": str(folder)}, None), ({"folder": str(folder)}, other), ({}, folder)):
        path = write(elsewhere / "export.json", label_studio(file=name, sha256=digest, **data))
        assert {line.entry.image for line in corrected_lines(path, root) if isinstance(line, Line)} == {image}
    path = write(elsewhere / "export.json", label_studio(file=name, sha256=digest))
    [error] = corrected_lines(path)
    assert str(error).endswith("--image-root)")
    assert "which does not exist: put the export into the folder worst/" in str(error)
    (worst / "a b.png").write_bytes(b"of a later run")
    [error] = corrected_lines(path)
    assert "another image than the one that was annotated" in str(error)
    image.rename(worst / "a b.png")
    assert {line.entry.image for line in corrected_lines(path) if isinstance(line, Line)} == {worst / "a b.png"}


def test_an_image_root_does_not_hide_images_beside_a_file(folder: Path, tmp_path: Path) -> None:
    path = write(folder / "a b.json", labelme(BOX, LID))
    assert all(isinstance(line, Line) for line in corrected_lines(path, tmp_path / "images"))
    data = {"image": "a b.png", "text": "a cup", "mask": None}
    path = write(folder / "lines.jsonl", data)
    [line] = read_lines(DataSource((path,), image_root=tmp_path / "images"))
    assert isinstance(line, SourceLine)


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
        ({"imagePath": "a b.png", "shapes": [], "flags": {"x": "false"}}, "'flags': 'x' must be true or false, not"),
        (labelme(BOX, LID, imageHeight=80, imageWidth=120), "an image of 120 x 80 pixels (width x height), but"),
        (labelme(BOX, LID, imageHeight="80", imageWidth=120), "the size of the image must be a finite number"),
        (label_studio({**region("the box"), "image_rotation": 90}), "region 1 was drawn on the image rotated by 90"),
        (
            label_studio({**region("the box"), "original_height": 60, "original_width": 40}),
            "region 1 was drawn on an image of 40 x 60 pixels (width x height), but",
        ),
        ([{"data": {"image": "a b.png"}, "annotations": 5}], "'annotations' must be a list"),
        ([{"data": {"image": "a b.png", "texts": 5}, "annotations": [{"result": []}]}], "'texts' must be a list"),
        ([{"data": {"image": "http://[::1"}, "annotations": [{"result": []}]}], "http://[::1 is not a URL"),
        (
            labelme(BOX, {**LID, "description": "the box"}),
            "shape 2 has the label 'The  lid' and the description 'the box', two expressions about this image: make",
        ),
        (labelme(BOX, {**LID, "label": "the box", "group_id": None}), "shape 2 has the label 'the box' and"),
        (labelme(BOX, {**LID, "label": "a cup"}), "a shape of it has the label 'a cup' now: if that replaces the"),
        (labelme(BOX, {**LID, "label": "", "description": ""}), "shape 2 has no label"),
        (
            label_studio(region("the box"), region("a cup", "The  lid")),
            "'The  lid' has no region, which says that it refers to nothing; a shape of it has the label 'a cup' now",
        ),
        (
            label_studio({**region("a"), "value": {"points": [], "polygonlabels": ["the box", "The  lid"]}}),
            "region 1 has 2 labels ('the box', 'The  lid'): draw one region",
        ),
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


def test_sizes_that_fit_are_no_error(folder: Path) -> None:
    assert set(lines_of(write(folder / "a.json", labelme(BOX, LID, imageHeight=40, imageWidth=60)))) == set(TEXTS)
    scaled = [{**region(text), "original_height": 401, "original_width": 600} for text in TEXTS]  # labelled larger
    assert set(lines_of(write(folder / "a.json", label_studio(*scaled)))) == set(TEXTS)


def test_flags_of_an_image_that_are_no_listed_expressions_are_remarked(folder: Path) -> None:
    flags = {**dict.fromkeys(TEXTS, False), "blurry": True, "dark": False}
    results = list(corrected_lines(write(folder / "a.json", labelme(BOX, LID, flags=flags))))
    assert [line.entry.text for line in results if isinstance(line, Line)] == list(TEXTS)
    [remark] = [result for result in results if isinstance(result, Remark)]
    assert "left out" in remark.sentence
    assert "'blurry'" in remark.where
    foreign = {"imagePath": "a b.png", "flags": {"blurry": True}, "shapes": [shape("the lid", SQUARE)]}
    results = list(corrected_lines(write(folder / "a.json", foreign)))
    [remark] = [result for result in results if isinstance(result, Remark)]
    assert "refer to nothing" in remark.sentence
    assert "'blurry'" in remark.where


def test_the_last_of_several_annotations_of_a_task_counts_with_a_remark(folder: Path) -> None:
    [task] = label_studio(*(region(text) for text in TEXTS))
    task["annotations"].insert(0, {"result": []})
    results = list(corrected_lines(write(folder / "a.json", [task])))
    assert [line.annotated for line in results if isinstance(line, Line)] == [True, True]
    [remark] = [result for result in results if isinstance(result, Remark)]
    assert "read by the last" in remark.sentence
