"""Rehearsal of the knowledge of a model, so that it is not forgotten: drawn scenes, or lines of the user."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from sspsam.evaluation.datasets.entry import Entry
from sspsam.finetuning.embeddings import ImageSource
from sspsam.segmentation.postprocessing import box_of_mask
from sspsam.shapes import Question, ask, draw_scene
from sspsam.shapes.drawing import Pixels
from sspsam.utils.arrays import HeightWidth, Mask

_FIRST_SEED: Final = 500_000_000  # of scenes that neither the training of the bundled model nor its evaluation uses
_HELD_OUT_SEED: Final = 600_000_000
_QUESTIONS: Final = 8  # about each scene
HELD_OUT_SCENES: Final = 16


@dataclass(frozen=True, eq=False)
class PackedMask:
    """A mask in memory, eight pixels a byte.

    Args:
        bits: of `np.packbits`.
    """

    bits: bytes

    @classmethod
    def of(cls, mask: Mask) -> "PackedMask":
        """Pack an (h, w) mask."""
        return cls(np.packbits(mask).tobytes())

    def decode(self, size: HeightWidth) -> Mask:
        """Return the (h, w) mask."""
        bits = np.unpackbits(np.frombuffer(self.bits, dtype=np.uint8), count=size[0] * size[1])
        return bits.astype(np.bool_).reshape(size)


@dataclass(frozen=True, eq=False)
class DrawnEntries:
    """The expressions about one drawn scene.

    Args:
        key: of the image.
        source: draws the image again.
        entries: of the expressions.
    """

    key: str
    source: ImageSource
    entries: list[Entry]


def drawn_entries(scenes: int, seed: int, *, held_out: bool = False) -> Iterator[DrawnEntries]:
    """Yield drawn scenes with their expressions.

    Args:
        scenes: number of scenes.
        seed: chooses them.
        held_out: whether to yield scenes that are not among those of `held_out=False`.
    """
    first = (_HELD_OUT_SEED if held_out else _FIRST_SEED) + 1_000_000 * (seed % 50)
    for number in range(first, first + scenes):
        scene = draw_scene(number)
        key, size = f"drawn scene {number}", (scene.pixels.shape[0], scene.pixels.shape[1])
        entries = []
        for index, question in enumerate(_chosen(ask(scene, number, 2 * _QUESTIONS), balanced=not held_out)):
            box = box_of_mask(question.mask)
            source = None if box is None else PackedMask.of(question.mask)
            entries.append(Entry(Path(key), key, size, question.text, box is None, box, f"{number}-{index}", source))
        yield DrawnEntries(key, partial(_pixels, number), entries)


def _chosen(questions: list[Question], *, balanced: bool) -> list[Question]:
    """Return some of the questions: as they come, or half of them without a target as far as there are so many.

    What is forgotten first is that something is absent.
    """
    if not balanced:
        return questions[:_QUESTIONS]
    absent = [question for question in questions if question.no_target][: _QUESTIONS // 2]
    present = [question for question in questions if not question.no_target][: _QUESTIONS - len(absent)]
    return [*present, *absent]


def _pixels(seed: int) -> Pixels:
    return draw_scene(seed).pixels
