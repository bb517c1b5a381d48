"""`Explanation`: attention maps and word weights behind an answer, and a figure of them."""

import copy
import dataclasses
import os
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sspsam.errors import ImageError
from sspsam.images.loading import ImageInput, Pixels, load_image
from sspsam.segmentation.explanation_figure import explanation_figure
from sspsam.utils.arguments import true_or_false

Area = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Explanation:
    """Attention maps and word weights behind an answer.

    Args:
        similarity: (G, G) float32 in [0, 1], similarity of the sentence and every patch of CLIP's square.
        word_attention: (L,) float32, attention weight of every text position; sums to 1, start and end markers
            included.
        words: each word of the expression with its weight; without the start and end markers. The model's template adds
            a full stop to every expression, which is the last word or a part of it.
        verification: (G, G) float32, word-level verification score of every patch.
        area: x0, y0, x1, y1 of the image in CLIP's square, as fractions of its side; the rest is padding. None
            in an answer that was stored in version 1 of `to_dict`, which did not hold it.
        pixels: (h, w, 3) uint8, the image, shared with its embedding; None if the embedding was read from a file, and
            after pickling.
    """

    similarity: NDArray[np.float32]
    word_attention: NDArray[np.float32]
    words: tuple[tuple[str, float], ...]
    verification: NDArray[np.float32]
    area: Area | None = None
    pixels: Pixels | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        words = ", ".join(f"{word!r} {weight:.2f}" for word, weight in self.words)
        return f"Explanation({words}; maps of {len(self.similarity)} x {len(self.similarity)} patches)"

    def figure(
        self, image: ImageInput | None = None, *, dark: bool = False, font: str | os.PathLike[str] | None = None
    ) -> Image.Image:
        """Draw the maps over the image, without the padding, and a bar for the weight of each word.

        The weights, with those of the start and end markers, sum to 1. They are attention, not importance: weight on a
        full stop or on a marker belongs to no word of the expression, and often most of the weight is there.

        Args:
            image: None: the image that was encoded. It must be given when the embedding was read from a file.
            dark: whether the background is dark instead of white.
            font: path of a TrueType or OpenType font for the words; None: as in `sspsam.segmentation.draw`.

        Returns:
            An RGB image.

        Raises:
            ImageError: no image is known, or its shape is not that of the explained image.
        """
        pixels = self.pixels if image is None else load_image(image)
        if pixels is None:
            raise ImageError("the explanation has no image (it was stored or pickled without): call figure(image)")
        return explanation_figure(self, pixels, true_or_false("dark", dark), font)

    def __copy__(self) -> Self:
        return dataclasses.replace(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return dataclasses.replace(self, **copy.deepcopy(vars(self), memo))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without `pixels`, which all results about an image share."""
        return _unpickled, (type(self), {**vars(self), "pixels": None})


def _unpickled(kind: type[Explanation], values: dict[str, Any]) -> Explanation:
    return kind(**values)
