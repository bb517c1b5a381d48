"""Several answers drawn over one image, and the colours of the drawing."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageFont

from sspsam import Segmentation
from sspsam.errors import ImageError, SSPSAMWarning, StorageError
from sspsam.segmentation import draw
from sspsam.segmentation.colors import PALETTE, palette, readable_on, rgb
from sspsam.segmentation.labels import font_for, short_label

GREY = np.full((120, 180, 3), 128, np.uint8)


def answer(text: str, rows: slice | None = None, columns: slice | None = None) -> Segmentation:
    mask = np.zeros((120, 180), bool)
    box = None
    if rows is not None and columns is not None:
        mask[rows, columns] = True
        box = (columns.start, rows.start, columns.stop, rows.stop)
    return Segmentation(text, mask, box is None, int(mask.sum()), 0.5, (5.0, 6.0, 170.0, 110.0), box)


MUG = answer("the mug", slice(30, 60), slice(20, 50))
CUP = answer("the cup", slice(70, 100), slice(100, 150))
CAT = answer("a cat")


def test_each_mask_is_tinted_in_its_colour_and_nothing_else_changes() -> None:
    values = np.asarray(draw(GREY, [MUG, CUP], labels=False, outlines=False, opacity=0.5)).astype(int)
    for result, color in zip((MUG, CUP), PALETTE, strict=False):
        assert np.abs(values[result.mask] - (128 + np.array(color)) / 2).max() <= 2
    assert (values[~(MUG.mask | CUP.mask)] == 128).all()


def test_an_outline_lies_around_the_mask() -> None:
    values = np.asarray(draw(GREY, MUG, labels=False, opacity=0, colors=["red"])).astype(int)
    assert (values[32:58, 22:48] == 128).all()  # smoothing of the outline changes up to two pixels inside
    assert (values[28:30, 35, 0] - values[28:30, 35, 1] > 60).any()  # red
    assert (values[:20] == 128).all()


def test_a_smaller_mask_inside_a_larger_one_stays_visible() -> None:
    inner = answer("the handle", slice(40, 50), slice(30, 40))
    for order in ([MUG, inner], [inner, MUG]):
        values = np.asarray(draw(GREY, order, colors=["red", "blue"], labels=False, outlines=False, opacity=1))
        inner_color = (255, 0, 0) if order[0] is inner else (0, 0, 255)
        assert tuple(values[45, 35]) == inner_color


def label_pixels(results: list[Segmentation], color: str, **options) -> np.ndarray:
    values = np.asarray(draw(GREY, results, colors=[color], opacity=0, outlines=False, **options))
    return (values == rgb(color)).all(axis=-1)


def test_a_label_has_the_colour_of_its_mask_and_stands_above_it() -> None:
    rows, columns = np.nonzero(label_pixels([MUG], "orange"))
    assert rows.max() < 30
    assert columns.min() == 20
    assert not label_pixels([MUG], "orange", labels=False).any()
    assert label_pixels([MUG], "orange", labels=["a much longer label"]).sum() > len(rows)


def test_labels_do_not_cover_each_other() -> None:
    alone = label_pixels([MUG], "orange").sum()
    values = np.asarray(draw(GREY, [MUG, MUG, MUG], colors=["orange", "lime", "aqua"], opacity=0, outlines=False))
    for color in ("orange", "lime", "aqua"):
        assert (values == rgb(color)).all(axis=-1).sum() == pytest.approx(alone, abs=2)


def test_labels_stay_inside_the_image() -> None:
    areas = {
        int(label_pixels([answer("in the corner", rows, columns)], "orange").sum())
        for rows in (slice(0, 10), slice(110, 120))
        for columns in (slice(0, 10), slice(170, 180))
    }
    assert max(areas) - min(areas) <= 2  # none is cut off


def test_a_label_of_a_narrow_image_is_shortened_to_fit() -> None:
    mask = np.zeros((100, 60), bool)
    mask[40:60, 20:40] = True
    narrow = dataclasses.replace(MUG, mask=mask, mask_box=(20, 40, 40, 60), text="the mug on the left of the table")
    image = np.full((100, 60, 3), 128, np.uint8)
    values = np.asarray(draw(image, narrow, colors=["orange"], opacity=0, outlines=False))
    background = (values == (255, 165, 0)).all(axis=-1)
    assert background.any()
    rows, columns = np.nonzero(background)
    end = values[rows.min() : rows.max(), columns.max() - 1 : columns.max() + 1].astype(int)
    assert columns.max() < 60
    assert (end.sum(axis=-1) > 250).all()  # the padding at the end of the label has no letters
    assert draw(image[:, :3], dataclasses.replace(narrow, mask=mask[:, :3], mask_box=(0, 40, 2, 60))).size == (3, 100)


def test_an_answer_without_target_is_a_grey_label() -> None:
    values = np.asarray(draw(GREY, [MUG, CAT], opacity=0, outlines=False))
    assert (values == (90, 90, 90)).all(axis=-1)[90:].sum() > 100
    assert np.array_equal(draw(GREY, [CAT], labels=False), GREY)


def test_boxes_are_drawn_on_request() -> None:
    plain, tight, head = (
        np.asarray(draw(GREY, MUG, labels=False, outlines=False, opacity=0, boxes=boxes, colors=["red"]))
        for boxes in (None, "mask", "head")
    )
    assert (plain == 128).all()
    for values, (x0, y0, x1, y1) in ((tight, (20, 30, 50, 60)), (head, (5, 6, 170, 110))):
        for side in (values[y0, x0:x1], values[y1 - 1, x0:x1], values[y0:y1, x0], values[y0:y1, x1 - 1]):
            assert (side == (255, 0, 0)).all()
    assert not np.array_equal(draw(GREY, CAT, labels=False, boxes="head"), GREY)


def test_drawing_changes_neither_image_nor_answers() -> None:
    image = GREY.copy()
    draw(image, [MUG, CUP, CAT], boxes="mask")
    assert np.array_equal(image, GREY)
    assert np.array_equal(draw(GREY, []), GREY)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ImageError, match=r"60 x 120 pixels, the mask of 'the mug' 180 x 120"):
        draw(GREY[:, :60], MUG)
    with pytest.raises(TypeError, match=r"results\[1\] must be a Segmentation, not str"):
        draw(GREY, [MUG, "the cup"])
    with pytest.raises(ValueError, match="boxes must be None"):
        draw(GREY, MUG, boxes="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="opacity must be a number from 0 to 1"):
        draw(GREY, MUG, opacity=45)
    for labels in (["one"], None, 2):
        with pytest.raises(ValueError, match="list of 2 texts"):
            draw(GREY, [MUG, CUP], labels=labels)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"colors\[1\] must be RGB"):
        draw(GREY, [MUG, CUP], colors=["red", "reddish"])
    with pytest.raises(ValueError, match="list of colours"):
        draw(GREY, MUG, colors="red")
    with pytest.raises(StorageError, match=r"no-such-font\.ttf"):
        draw(GREY, MUG, font="no-such-font.ttf")


def seen_by(color: tuple[int, ...], matrix: np.ndarray) -> np.ndarray:
    """A colour as people with a colour deficiency see it (Machado, Oliveira and Fernandes 2009), in CIELAB."""
    linear = ((np.array(color) / 255 + 0.055) / 1.055) ** 2.4
    seen = np.clip(matrix @ linear, 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ seen
    f = np.cbrt(xyz / np.array([0.9505, 1.0, 1.089]))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


DEFICIENCIES = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


@pytest.mark.parametrize("matrix", DEFICIENCIES.values(), ids=DEFICIENCIES)
def test_colours_of_the_palette_differ_for_every_colour_vision(matrix) -> None:
    seen = [seen_by(color, np.array(matrix)) for color in PALETTE]
    distances = [np.linalg.norm(one - other) for one, other in itertools.combinations(seen, 2)]
    assert min(distances) > 10  # a difference of 2 is just noticeable
    assert min(np.linalg.norm(one - other) for one, other in itertools.pairwise(seen)) > 35


def test_the_palette_starts_again_after_its_last_colour() -> None:
    assert palette(9) == [*PALETTE, *PALETTE[:2]]
    assert palette(3, ["red", (0, 0, 1)]) == [(255, 0, 0), (0, 0, 1), (255, 0, 0)]


def test_letters_contrast_with_their_label() -> None:
    assert readable_on((0, 0, 0)) == (255, 255, 255)
    assert readable_on((255, 255, 255)) == (0, 0, 0)
    assert readable_on(PALETTE[2]) == (255, 255, 255)  # blue
    assert readable_on(PALETTE[5]) == (0, 0, 0)  # yellow


def test_english_texts_are_drawn_in_pillows_own_font() -> None:
    assert font_for('the "mug" (left) & 2 cups, no. 3', 20).getname() == ImageFont.load_default(20).getname()


def test_a_text_that_no_font_has_is_drawn_all_the_same_with_a_warning(monkeypatch) -> None:
    monkeypatch.setattr("sspsam.segmentation.labels._SYSTEM_FONTS", ())
    with pytest.warns(SSPSAMWarning, match="'мяч'"):
        draw(GREY, dataclasses.replace(MUG, text="мяч"))


def test_a_font_of_the_system_has_what_pillows_own_lacks() -> None:
    try:
        expected = ImageFont.truetype("DejaVuSans.ttf", 20)
    except OSError:
        pytest.skip("this system has no DejaVu Sans")
    assert font_for("мяч", 20).getname() == expected.getname()


def test_a_given_font_is_used(tmp_path: Path) -> None:
    default = ImageFont.load_default(20)
    (tmp_path / "font.ttf").write_bytes(default.font_bytes)
    assert font_for("мяч", 20, tmp_path / "font.ttf").getname() == default.getname()
    assert draw(GREY, MUG, font=tmp_path / "font.ttf").size == (180, 120)


def test_a_label_is_one_short_line() -> None:
    assert short_label(" the\nmug \t on\x1b[31m the left ") == "the mug on\\x1b[31m the left"
    assert len(short_label("word " * 50)) <= 40
