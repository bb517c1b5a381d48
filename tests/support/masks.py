"""Masks for tests of polygons and exports: 200 of drawn scenes, and more than 50 odd ones."""

import importlib.util
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from sspsam.shapes import ask, draw_scene

Mask = NDArray[np.bool_]


def supervision_that_fills() -> Any:
    """The package `supervision`, where it fills polygons by the rules of OpenCV; otherwise the test is skipped.

    Without OpenCV it fills them by NumPy, and before 0.31 beyond the ends of lines.
    """
    tools = pytest.importorskip("supervision", reason="pip install '.[supervision]' to test it")
    release = tuple(int(part) for part in version("supervision").split(".")[:2])
    if importlib.util.find_spec("cv2") is None and release < (0, 31):
        pytest.skip("supervision before 0.31 needs opencv-python to fill polygons as OpenCV does")
    return tools


def drawn_masks() -> list[Mask]:
    """200 masks of the shapes in drawn scenes, of several parts and with none."""
    sizes = [(240, 320), (320, 180), (200, 200), (97, 301)]
    masks: list[Mask] = []
    seed = 0
    while len(masks) < 200:
        scene = draw_scene(seed, sizes[seed % len(sizes)])
        masks += [question.mask for question in ask(scene, seed=seed, count=5)]
        seed += 1
    return masks[:200]


def two_mugs() -> Mask:
    """A small and a large rectangle, the large one with a hole."""
    mask = np.zeros((40, 60), dtype=bool)
    mask[5:15, 5:20] = mask[20:35, 30:50] = True
    mask[25:28, 35:40] = False
    return mask


def odd_masks() -> dict[str, Mask]:
    """Masks of every awkward kind, by name."""
    return dict(_odd_masks())


def _odd_masks() -> Iterator[tuple[str, Mask]]:
    yield "empty", np.zeros((9, 7), bool)
    yield "full", np.ones((9, 7), bool)
    yield "one pixel in all", np.ones((1, 1), bool)
    yield "no pixel in one", np.zeros((1, 1), bool)
    yield "one row", np.ones((1, 9), bool)
    yield "one column", np.ones((9, 1), bool)
    yield "dashes", np.arange(30)[None] % 3 == 0
    for row, column in ((0, 0), (0, 9), (7, 0), (7, 9), (4, 5)):
        mask = np.zeros((8, 10), bool)
        mask[row, column] = True
        yield f"the pixel {row}, {column}", mask
    yield "a diagonal", np.eye(20, dtype=bool)
    yield "the other diagonal", np.eye(20, dtype=bool)[:, ::-1].copy()
    yield "a cross of diagonals", np.eye(21, dtype=bool) | np.eye(21, dtype=bool)[:, ::-1]
    for side in (2, 3, 20, 31):
        yield f"a checkerboard of {side}", np.indices((side, side + 1)).sum(axis=0) % 2 == 0
    for thickness in (1, 2, 5):
        frame = np.ones((30, 40), bool)
        frame[thickness:-thickness, thickness:-thickness] = False
        yield f"the border, {thickness} wide", frame
        yield f"all but the border, {thickness} wide", ~frame
    yield "a pixel missing", ~np.pad(np.ones((1, 1), bool), 6)
    yield "a pixel missing in a corner", np.arange(63).reshape(9, 7) != 0
    holes = np.ones((40, 60), bool)
    holes[5:35:6, 5:55:6] = False
    yield "many holes of one pixel", holes
    holes = np.ones((40, 60), bool)
    holes[5:10, 5:15] = holes[5:10, 15:25] = holes[10:20, 25:30] = holes[3:37, 40:50] = False
    yield "holes that touch", holes
    rings = np.maximum(*np.abs(np.indices((41, 41)) - 20)) % 4 < 2
    yield "rings in rings", rings
    yield "a spiral", _spiral(31)
    yield "a comb", (np.indices((20, 41))[1] % 2 == 0) | (np.indices((20, 41))[0] > 15)
    for slope in (1, 2, 3, 7, 20):
        yield f"a thin line of slope 1 in {slope}", _line(slope, 1)
        yield f"a line of slope 1 in {slope}", _line(slope, 4)
    for density in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98):
        yield f"noise of density {density}", np.random.default_rng(1).random((37, 53)) < density
    for radius in (1, 2, 5, 20, 60):
        yield f"a disc of radius {radius}", _disc(radius)
        yield f"a hole of radius {radius}", ~_disc(radius)


def _spiral(side: int) -> Mask:
    """A path of one pixel from the outside to the middle, with one pixel between its turns."""
    mask = np.zeros((side, side), bool)
    row = column = 0
    length = side - 1
    mask[0, 0] = True
    steps = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    for turn in range(2 * side):
        down, across = steps[turn % 4]
        for _ in range(length):
            row, column = row + down, column + across
            mask[row, column] = True
        length -= 2 if turn % 2 == 0 and turn > 0 else 0
        if length <= 0:
            break
    return mask


def _line(slope: int, width: int) -> Mask:
    image = Image.new("L", (80, 60))
    ImageDraw.Draw(image).line((3, 50, 76, 50 - 73 // slope if slope > 1 else 2), fill=1, width=width)
    return np.asarray(image) > 0


def _disc(radius: int) -> Mask:
    y, x = np.mgrid[-radius - 2 : radius + 3, -radius - 2 : radius + 3]
    return x**2 + y**2 <= radius**2
