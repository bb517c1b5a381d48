"""`Segmentation` as JSON, as a mask file, as an overlay and as text."""

import copy as copy_module
import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from pycocotools import mask as coco

from sspsam import Explanation, Segmentation
from sspsam.errors import ImageError, ResultError, StorageError


@pytest.fixture
def result(image: np.ndarray) -> Segmentation:
    mask = np.zeros((60, 90), dtype=bool)
    mask[10:30, 20:50] = True
    explanation = Explanation(
        similarity=np.eye(6, dtype=np.float32),
        word_attention=np.full(77, 1 / 77, dtype=np.float32),
        words=(("the", 0.25), ("mug", 0.5)),
        verification=np.ones((6, 6), dtype=np.float32),
        area=(0.0, 1 / 6, 1.0, 5 / 6),
        pixels=image,
    )
    return Segmentation(
        text="the mug ☕",
        mask=mask,
        no_target=False,
        foreground_pixels=1234,
        score=0.75,
        box=(20.5, 10.25, 50.0, 30.0),
        mask_box=(20, 10, 50, 30),
        explanation=explanation,
        pixels=image,
        text_truncated="or the cup",
    )


def test_to_dict_survives_json_and_pycocotools_reads_its_mask(result: Segmentation) -> None:
    content = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert content["version"] == 2
    assert content["text"] == "the mug ☕"
    assert (content["height"], content["width"]) == (60, 90)
    assert content["box"] == [20.5, 10.25, 50.0, 30.0]
    assert content["mask_box"] == [20, 10, 50, 30]
    assert content["explanation"]["words"] == [["the", 0.25], ["mug", 0.5]]
    assert np.array_equal(coco.decode(content["mask"]).astype(bool), result.mask)
    assert coco.area(content["mask"]) == result.mask.sum()


def test_from_dict_restores_everything_that_to_dict_holds(result: Segmentation) -> None:
    stored = json.loads(json.dumps(result.to_dict()))
    copy = Segmentation.from_dict(stored)
    assert copy.to_dict() == result.to_dict()
    assert np.array_equal(copy.mask, result.mask)
    assert copy.mask.dtype == bool
    assert isinstance(copy.explanation.similarity, np.ndarray)
    assert copy.explanation.area == (0.0, 1 / 6, 1.0, 5 / 6)
    assert copy.pixels is None
    assert copy.text_truncated == "or the cup"


def test_from_dict_reads_version_1_and_lines_of_a_batch(result: Segmentation) -> None:
    line = {"image": "a.jpg", "number": 1, "of": 1, **result.to_dict(), "version": 1}
    del line["text_truncated"], line["explanation"]["area"]
    copy = Segmentation.from_dict(line)
    assert np.array_equal(copy.mask, result.mask)
    assert copy.text_truncated is None
    assert copy.explanation.area is None
    with pytest.raises(ImageError, match="explain=True"):
        copy.explanation.figure(result.pixels)


def test_from_dict_accepts_counts_as_pycocotools_returns_them(result: Segmentation) -> None:
    encoded = coco.encode(np.asfortranarray(result.mask.astype(np.uint8)))
    assert np.array_equal(Segmentation.from_dict({**result.to_dict(), "mask": encoded}).mask, result.mask)


MAPS = {"similarity": [[1.0]], "verification": [[1.0]], "words": [["mug", 0.5]], "word_attention": [1.0]}


def nested(depth: int) -> list[object]:
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("version", 3),
        ("version", None),
        ("version", True),
        ("height", 61),
        ("height", -1),
        ("width", "90"),
        ("mask", None),
        ("mask", {"size": [60, 90], "counts": "0"}),
        ("mask", {"size": [60, 90], "counts": "o" * 20}),
        ("mask", {"size": [60, 90], "counts": "PPPPPPPPPP1"}),  # a run of 2**50 pixels
        ("mask", {"size": [60, 90], "counts": "o" * 3_000_000 + "0"}),  # a number of 15 million bits
        ("mask", {"size": [60, 90]}),
        ("mask", {"size": [60, 90], "counts": "\ud800é"}),
        ("no_target", True),
        ("no_target", 0),
        ("text", None),
        ("score", "high"),
        ("score", float("nan")),
        ("box", [1, 2, 3]),
        ("box", None),
        ("foreground_pixels", 1.5),
        ("explanation", []),
        ("explanation", {"words": []}),
        ("text_truncated", 7),
        ("version", np.array([1, 2])),
        ("version", 10**5000),  # a number that Python does not print
        ("score", 10**5000),
        ("text", nested(5000)),  # a list that Python does not print
        ("mask", {"size": [60, 90], "counts": nested(5000)}),
        ("height", 0),
        ("width", 0),
        ("explanation", {**MAPS, "area": [5, 5, 6, 6]}),
        ("explanation", {**MAPS, "area": [0, 0, 0, 0]}),
        ("explanation", {**MAPS, "similarity": [[1e300]]}),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 30 else type(value).__name__,
)
@pytest.mark.filterwarnings("error")
def test_from_dict_names_the_entry_that_is_damaged(result: Segmentation, entry: str, value) -> None:
    with pytest.raises(ResultError, match=entry if entry not in ("height", "width") else "height|width|mask"):
        Segmentation.from_dict({**result.to_dict(), entry: value})


def test_from_dict_names_a_missing_entry_and_refuses_what_is_no_dictionary(result: Segmentation) -> None:
    stored = result.to_dict()
    for entry in set(stored) - {"version", "mask_box", "explanation", "presence"}:
        with pytest.raises(ResultError, match=entry):
            Segmentation.from_dict({name: value for name, value in stored.items() if name != entry})
    with pytest.raises(ResultError, match="list"):
        Segmentation.from_dict([stored])  # type: ignore[arg-type]


def test_from_dict_refuses_a_huge_mask_before_it_is_allocated(result: Segmentation) -> None:
    huge = {**result.to_dict(), "height": 10**6, "width": 10**6}
    for side in (10**6, 10**5000):
        with pytest.raises(ResultError, match="max_pixels"):
            Segmentation.from_dict({**huge, "width": side})
    with pytest.raises(ResultError, match="max_pixels"):
        Segmentation.from_dict(result.to_dict(), max_pixels=5399)
    assert Segmentation.from_dict(result.to_dict(), max_pixels=5400)


def test_from_dict_reads_rows_of_tables_with_their_numbers_and_missing_values(result: Segmentation) -> None:
    stored = result.to_dict()
    del stored["explanation"]
    row = {name: np.array([value])[0] if isinstance(value, int | float) else value for name, value in stored.items()}
    copy = Segmentation.from_dict({**row, "box": np.array(stored["box"]), "text_truncated": float("nan")})
    assert copy.to_dict() == {**stored, "explanation": None, "text_truncated": None}
    json.dumps(copy.to_dict())


def test_with_image_refuses_none_which_a_failed_read_returns(result: Segmentation) -> None:
    with pytest.raises(ImageError, match="None"):
        result.with_image(None)  # type: ignore[arg-type]


def test_a_pickle_holds_no_image_and_little_for_the_mask(result: Segmentation) -> None:
    copy = pickle.loads(pickle.dumps(result))
    assert copy.pixels is None
    assert copy.explanation.pixels is None
    assert copy.to_dict() == result.to_dict()
    with pytest.raises(ImageError, match="unpickled"):
        copy.overlay()
    noise = np.random.default_rng(0).random((1000, 1200)) < 0.5  # nothing that can be compressed
    large = dataclasses.replace(result, mask=noise, pixels=np.zeros((1000, 1200, 3), np.uint8), explanation=None)
    assert len(pickle.dumps(large)) < 0.13 * noise.size
    assert np.array_equal(pickle.loads(pickle.dumps(large)).mask, noise)


def test_an_image_can_be_pickled_beside_the_result_and_joined_again(result: Segmentation) -> None:
    copy, pixels = pickle.loads(pickle.dumps((result, result.pixels)))
    joined = copy.with_image(pixels)
    assert np.array_equal(joined.overlay(), result.overlay())
    assert np.array_equal(joined.explanation.figure(), result.explanation.figure())
    with pytest.raises(ImageError, match="90 x 60"):
        copy.with_image(pixels[:10])


def test_a_copy_keeps_the_image(result: Segmentation) -> None:
    assert copy_module.copy(result).pixels is result.pixels
    deep = copy_module.deepcopy(result)
    assert np.array_equal(deep.pixels, result.pixels)
    assert not np.shares_memory(deep.mask, result.mask)
    assert deep.explanation.pixels is deep.pixels


def test_save_writes_the_mask_as_an_8_bit_grey_png(result: Segmentation, tmp_path: Path) -> None:
    result.save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as image:
        assert image.mode == "L"
        assert np.array_equal(np.asarray(image), result.mask * np.uint8(255))


def test_save_refuses_lossy_formats_and_missing_folders_and_writes_nothing(
    result: Segmentation, tmp_path: Path
) -> None:
    for name in ("mask.jpg", "mask"):
        with pytest.raises(StorageError, match=r"\.png"):
            result.save(tmp_path / name)
    with pytest.raises(StorageError, match="nowhere"):
        result.save(tmp_path / "nowhere" / "mask.png")
    assert list(tmp_path.iterdir()) == []


def test_an_overlay_tints_the_mask_draws_its_outline_and_changes_nothing_else(
    result: Segmentation, image: np.ndarray
) -> None:
    overlay = np.asarray(result.overlay(color=(255, 0, 0), opacity=0.5))
    inside, outline, outside = (20, 35), (9, 35), (50, 80)
    blended = (image[inside].astype(int) + np.array([255, 0, 0])) // 2
    assert np.abs(overlay[inside].astype(int) - blended).max() <= 2
    assert tuple(overlay[outline]) == (255, 0, 0)
    assert np.array_equal(overlay[outside], image[outside])
    assert np.array_equal(result.pixels, image)


def test_an_image_for_the_overlay_must_have_the_size_of_the_mask(result: Segmentation, image: np.ndarray) -> None:
    assert result.overlay(image[::-1].copy()).size == (90, 60)
    with pytest.raises(ImageError, match="90 x 60"):
        result.overlay(image[:30])
    with pytest.raises(ValueError, match="opacity"):
        result.overlay(opacity=2)


@pytest.mark.parametrize("radius", [1, 2, 3, 4, 7, 10, 25])
def test_dilation_equals_pillows_max_filter(radius: int) -> None:
    from sspsam.segmentation.rasters import dilated

    mask = np.random.default_rng(radius).random((40, 57)) < 0.01
    expected = Image.fromarray(mask.astype(np.uint8)).filter(ImageFilter.MaxFilter(2 * radius + 1))
    assert np.array_equal(dilated(mask, radius), np.asarray(expected).astype(bool))


def test_a_box_at_the_border_is_drawn_with_all_four_sides() -> None:
    pixels = np.zeros((60, 90, 3), np.uint8)
    result = Segmentation("x", np.zeros((60, 90), bool), True, 0, 0.0, (0.0, 0.0, 90.0, 60.0), None, pixels=pixels)
    overlay = np.asarray(result.overlay(draw_box=True, color=(9, 8, 7)))
    for side in (overlay[0], overlay[-1], overlay[:, 0], overlay[:, -1]):
        assert (side == (9, 8, 7)).all()


@pytest.mark.parametrize("color", [(300, 0, 0), (-1, 0, 0), (0.5, 0, 0), (1, 2), (1, 2, 3, 4), None, "reddish", 7])
def test_an_invalid_color_is_refused(result: Segmentation, color) -> None:
    with pytest.raises(ValueError, match="color must be RGB"):
        result.overlay(color=color)


def test_a_color_may_be_a_name_or_hexadecimal(result: Segmentation) -> None:
    expected = np.asarray(result.overlay(color=(255, 165, 0)))
    for color in ("orange", "#ffa500", " Orange "):
        assert np.array_equal(result.overlay(color=color), expected)


def test_a_color_may_consist_of_numpy_numbers(result: Segmentation) -> None:
    expected = np.asarray(result.overlay(color=(255, 0, 7)))
    for color in (np.array([255, 0, 7], np.uint8), tuple(np.array([255, 0, 7]))):
        assert np.array_equal(result.overlay(color=color), expected)


def test_draw_box_changes_the_overlay(result: Segmentation) -> None:
    assert np.asarray(result.overlay(draw_box=True)).tobytes() != np.asarray(result.overlay()).tobytes()


def test_a_result_is_frozen_and_its_repr_names_text_size_and_score(result: Segmentation) -> None:
    with pytest.raises(AttributeError):
        result.score = 1.0
    assert repr(result) == "Segmentation('the mug ☕': 600 of 90 x 60 pixels, score 0.750)"
