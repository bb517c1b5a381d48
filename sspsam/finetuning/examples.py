"""Training examples: an image by its key, token ids, and the ground truth in the model's squares; and their batches."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sspsam.config import ModelConfig
from sspsam.finetuning.objective import Counts, Targets
from sspsam.images.preprocessing import Geometry
from sspsam.utils.arrays import FloatBox, Mask


@dataclass(frozen=True, eq=False)
class Example:
    """One expression about one image.

    Args:
        image: key of the image's embedding.
        text: expression.
        token_ids: (L,).
        coverage: compressed (R/2, R/2) uint8 coverage of SAM's square, 0 to 255; None: empty.
        box: x0, y0, x1, y1 as fractions of CLIP's square; None without a target.
    """

    image: str
    text: str
    token_ids: NDArray[np.int64]
    coverage: bytes | None
    box: FloatBox | None

    @classmethod
    def of(
        cls,
        image: str,
        text: str,
        token_ids: NDArray[np.int64],
        mask: Mask,
        box: FloatBox | None,
        geometry: Geometry,
        config: ModelConfig,
    ) -> Self:
        """Make an example from the mask and the box of an expression.

        Args:
            image: key of the image's embedding.
            text: the expression.
            token_ids: (L,) of the expression.
            mask: (h, w); empty: no target.
            box: x0, y0, x1, y1 in pixels of the image; None: no target.
            geometry: of the image.
            config: of the model.
        """
        if box is None or not mask.any():
            return cls(image, text, token_ids, None, None)
        coverage = sam_coverage(mask, geometry, config.architecture.sam.image_size, target_side(config))
        fractions = clip_box(box, geometry, config.architecture.clip.image_size)
        return cls(image, text, token_ids, zlib.compress(coverage.tobytes(), 1), fractions)


def target_side(config: ModelConfig) -> int:
    """R/2, the side in which masks are compared: half of SAM's square, 512 of the published sizes."""
    return config.architecture.sam.image_size // 2


def sam_coverage(mask: Mask, geometry: Geometry, sam_size: int, side: int) -> NDArray[np.uint8]:
    """(h, w) mask -> (side, side) uint8 coverage of each pixel of SAM's square, 0 to 255."""
    square = np.zeros((side, side), dtype=np.uint8)
    height, width = (max(1, round(length * side / sam_size)) for length in (geometry.sam_height, geometry.sam_width))
    image = Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
    square[:height, :width] = np.asarray(image.resize((width, height), Image.Resampling.BOX))
    return square


def clip_box(box: FloatBox, geometry: Geometry, clip_size: int) -> FloatBox:
    """x0, y0, x1, y1 in pixels, clipped to the image -> fractions of CLIP's square."""
    x0, x1 = (min(max(x, 0.0), geometry.width) * geometry.clip_width / geometry.width for x in (box[0], box[2]))
    y0, y1 = (min(max(y, 0.0), geometry.height) * geometry.clip_height / geometry.height for y in (box[1], box[3]))
    left, top = geometry.clip_left, geometry.clip_top
    return (x0 + left) / clip_size, (y0 + top) / clip_size, (x1 + left) / clip_size, (y1 + top) / clip_size


@dataclass(frozen=True)
class Batch:
    """E examples about B images, without the embeddings."""

    images: tuple[str, ...]  # keys of B images
    image: Tensor  # (E,) index of the image of each example
    token_ids: Tensor  # (E, L)
    targets: Targets

    def to(self, device: torch.device) -> "Batch":
        """Copy to a device."""
        targets = Targets(*(tensor.to(device) for tensor in self.targets))
        return Batch(self.images, self.image.to(device), self.token_ids.to(device), targets)


def collate(examples: Sequence[Example], side: int) -> Batch:
    """Join examples; (side, side) is the shape of their coverage."""
    images = tuple(dict.fromkeys(example.image for example in examples))
    index = {key: number for number, key in enumerate(images)}
    masks = np.stack([_coverage(example, side) for example in examples])
    targets = Targets(
        torch.from_numpy(masks).float() / 255,
        torch.tensor([example.box or (0.0, 0.0, 0.0, 0.0) for example in examples]),
        torch.tensor([example.box is not None for example in examples]),
    )
    token_ids = torch.from_numpy(np.stack([example.token_ids for example in examples]))
    return Batch(images, torch.tensor([index[example.image] for example in examples]), token_ids, targets)


def counts_of(examples: Sequence[Example]) -> Counts:
    """Return the counts that the losses are divided by."""
    return Counts(len(examples), sum(example.box is not None for example in examples))


def _coverage(example: Example, side: int) -> NDArray[np.uint8]:
    if example.coverage is None:
        return np.zeros((side, side), dtype=np.uint8)
    return np.frombuffer(zlib.decompress(example.coverage), dtype=np.uint8).reshape(side, side)
