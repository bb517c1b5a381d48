"""One expression of a data set, with its image and its ground truth."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from sspsam.utils.arrays import FloatBox, HeightWidth, Mask


class MaskSource(Protocol):
    """Annotation that a ground-truth mask is computed from."""

    def decode(self, size: HeightWidth) -> Mask:
        """Return the (h, w) mask on an image of `size`."""


class ImageContent(Protocol):
    """An image that is part of a file of annotations."""

    def read(self) -> bytes:
        """Return the bytes of the image file."""


@dataclass(frozen=True)
class Entry:
    """One expression with its image and its ground truth.

    Args:
        image: image file; it need not exist, see `sspsam.evaluation.datasets.places.require_images`. Where the image
            is embedded, only its name counts.
        image_id: of the image in the data set.
        size: height and width of the image, pixels.
        text: expression, unchanged.
        no_target: whether the annotation says that the expression refers to nothing in the image.
        box: x0, y0, x1, y1 of the ground truth in pixels of the image, as the owners of the data set compute it; None
            where there is no target.
        key: unique in the split and the same in every run.
        source: annotation of the mask; None: an empty mask.
        embedded: the image, where the file of annotations holds it; None: it is the file `image`.
    """

    image: Path
    image_id: str
    size: HeightWidth
    text: str
    no_target: bool
    box: FloatBox | None
    key: str
    source: MaskSource | None = field(default=None, repr=False, compare=False)
    embedded: ImageContent | None = field(default=None, repr=False, compare=False)

    @property
    def image_input(self) -> Path | bytes:
        """The image as a predictor takes it: its file, or the bytes of the embedded file."""
        return self.image if self.embedded is None else self.embedded.read()

    def mask(self) -> Mask:
        """Compute the (h, w) ground-truth mask; True: target.

        Raises:
            DatasetError: the annotation is malformed; the message names file and entry.
            MissingExtraError: pycocotools, which decodes this annotation, is not installed.
        """
        return np.zeros(self.size, np.bool_) if self.source is None else self.source.decode(self.size)


def unique_key(key: str, counts: dict[str, int]) -> str:
    """Return `key`, followed by the number of its occurrence from the second one on.

    Args:
        key: of an entry.
        counts: occurrences of each key so far; updated.
    """
    counts[key] = counts.get(key, 0) + 1
    return key if counts[key] == 1 else f"{key}#{counts[key]}"
