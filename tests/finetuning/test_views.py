"""Mirrored images and crops."""

from pathlib import Path

import numpy as np
from PIL import Image

from sspsam.finetuning.views import View, holds, image_views


def test_image_mask_and_box_of_a_view_stay_together(tmp_path: Path) -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[10:20, 30:50] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    mask = pixels[..., 0] > 0
    for view in (
        View("m", mirrored=True),
        View("c", crop=(20, 5, 58, 30)),
        View("b", mirrored=True, crop=(20, 5, 58, 30)),
    ):
        shown, part = view.pixels(tmp_path / "a.png"), view.mask(mask)
        assert np.array_equal(shown[..., 0] > 0, part)
        x0, y0, x1, y1 = (int(side) for side in view.box((30, 10, 50, 20), (40, 60)))
        box = np.zeros_like(part)
        box[y0:y1, x0:x1] = True
        assert np.array_equal(box, part)


def test_a_crop_that_cuts_the_target_is_not_used() -> None:
    mask = np.zeros((40, 60), np.bool_)
    mask[10:20, 30:50] = True
    assert holds(View("c", crop=(20, 5, 58, 30)), "the cup", mask)
    assert not holds(View("c", crop=(35, 5, 58, 30)), "the cup", mask)


def test_crops_lie_in_the_image() -> None:
    views = image_views((31, 57), mirrored=True, crops=30, rng=np.random.default_rng(0))
    assert [view.name for view in views][:2] == ["mirrored", "crop 0"]
    for view in views[1:]:
        assert view.crop is not None
        x0, y0, x1, y1 = view.crop
        assert 0 <= x0 < x1 <= 57
        assert 0 <= y0 < y1 <= 31
