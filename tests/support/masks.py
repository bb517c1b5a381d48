"""Masks of every kind, drawn and odd, and answers with given masks."""

from collections.abc import Iterator

import numpy as np

from sspsam.segmentation import Segmentation
from sspsam.shapes import ask, draw_scene

Mask = np.ndarray


def answer(mask: Mask, text: str = "the mug", score: float = 0.5, pixels: np.ndarray | None = None) -> Segmentation:
    """Return an answer with a mask; an empty mask is a no-target answer."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = None
    if len(rows):
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return Segmentation(
        text=text,
        mask=mask,
        no_target=box is None,
        foreground_pixels=int(mask.sum()),
        score=score,
        box=(0.0, 0.0, 1.0, 1.0) if box is None else tuple(map(float, box)),
        mask_box=box,
        pixels=pixels,
    )


def drawn_masks(count: int, size: tuple[int, int] = (120, 160)) -> Iterator[Mask]:
    """Yield the exact masks of questions about drawn scenes, without empty ones."""
    seed = found = 0
    while found < count:
        for question in ask(draw_scene(seed, size), seed=seed, count=6):
            if question.mask.any() and found < count:
                found += 1
                yield question.mask
        seed += 1


def odd_masks() -> dict[str, Mask]:
    """Return 50 masks that are hard to outline: holes, single pixels, diagonals, borders, noise, empty and full."""
    masks: dict[str, Mask] = {}

    def add(name: str, mask: Mask) -> None:
        masks[name] = np.asarray(mask, dtype=bool)

    rows, columns = np.mgrid[0:24, 0:36]
    add("empty", np.zeros((24, 36)))
    add("full", np.ones((24, 36)))
    for height, width in ((1, 1), (1, 9), (9, 1), (2, 2)):
        add(f"full {height} x {width}", np.ones((height, width)))
    for y, x in ((0, 0), (0, 35), (23, 0), (23, 35), (11, 17)):
        single = np.zeros((24, 36))
        single[y, x] = 1
        add(f"one pixel {y} {x}", single)
        add(f"all but {y} {x}", 1 - single)
    add("diagonal", rows == columns)
    add("other diagonal", rows + columns == 23)
    add("cross of diagonals", (rows == columns) | (rows + columns == 23))
    add("chessboard", (rows + columns) % 2)
    add("rows", rows % 2)
    add("columns", columns % 3 == 0)
    add("frame", (rows == 0) | (rows == 23) | (columns == 0) | (columns == 35))
    for number, side in enumerate((3, 5, 8)):
        ring = (abs(rows - 11) <= side) & (abs(columns - 17) <= side)
        add(f"hole {number}", ring & ~((abs(rows - 11) < side) & (abs(columns - 17) < side)))
        add(f"island {number}", masks[f"hole {number}"] | ((rows == 11) & (columns == 17)))
        add(f"touching corners {number}", ((rows // side) + (columns // side)) % 2)
    distance = np.hypot(rows - 11.5, columns - 17.5)
    add("disc", distance < 9)
    add("thin ring", abs(distance - 9) < 0.7)
    add("rings", distance % 6 < 3)
    add("two discs", (distance < 4) | (np.hypot(rows - 4, columns - 30) < 3))
    add("two equal holes", (distance < 11) & ~((rows == 11) & ((columns == 12) | (columns == 22))))
    generator = np.random.default_rng(0)
    for number in range(50 - len(masks)):
        add(f"noise {number}", generator.random((17, 23)) < (number + 1) / 20)
    assert len(masks) == 50, len(masks)
    return masks


def iou(first: Mask, second: Mask) -> float:
    """Return intersection over union; 1 for two empty masks."""
    union = (first | second).sum()
    return 1.0 if union == 0 else float((first & second).sum() / union)
