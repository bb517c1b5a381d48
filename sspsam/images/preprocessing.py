"""Pixels as the two networks want them, and the geometry that leads back (section 1)."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sspsam.config import ModelConfig
from sspsam.images.loading import ImageInput, Pixels, load_image, load_image_with_digest


@dataclass(frozen=True)
class Geometry:
    """Where a picture lies in the padded squares that CLIP and SAM see. All sizes in pixels.

    Args:
        height, width: of the upright picture.
        clip_height, clip_width: of the picture inside CLIP's square.
        clip_top, clip_left: its offset there.
        sam_height, sam_width: of the picture inside SAM's square; it lies at the top left.
    """

    height: int
    width: int
    clip_height: int
    clip_width: int
    clip_top: int
    clip_left: int
    sam_height: int
    sam_width: int

    @classmethod
    def of(cls, height: int, width: int, clip_size: int, sam_size: int) -> "Geometry":
        """The geometry of a height x width picture in squares of `clip_size` and `sam_size`.

        A side never shrinks below one pixel, so that even a 12000 x 3 picture can be asked about.
        """
        longest = max(height, width)
        clip_height, clip_width = (max(1, round(side * clip_size / longest)) for side in (height, width))
        scale = sam_size / longest  # in this order, as segment_anything's ResizeLongestSide rounds
        sam_height, sam_width = (max(1, int(side * scale + 0.5)) for side in (height, width))
        return cls(
            height=height,
            width=width,
            clip_height=clip_height,
            clip_width=clip_width,
            clip_top=round((clip_size - clip_height) / 2 - 0.1),
            clip_left=round((clip_size - clip_width) / 2 - 0.1),
            sam_height=sam_height,
            sam_width=sam_width,
        )


@dataclass(frozen=True, eq=False)
class PreprocessedImage:
    """A picture, read and made ready for a model.

    Args:
        pixels: (height, width, 3) uint8 RGB, upright; read-only, for every result about it shares them.
        inputs: what CLIP sees, (3, S, S), and what SAM sees, (3, image size, image size).
        digest: SHA-256 of the file's bytes, or of the pixels where there was no file; None: nobody asked.
    """

    pixels: Pixels
    inputs: tuple[Tensor, Tensor]
    digest: str | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width, _ = self.pixels.shape
        return height, width


def preprocess_image(
    image: ImageInput, config: ModelConfig, max_pixels: int, digest: bool = False
) -> PreprocessedImage:
    """Read a picture and make it ready; threads may do so side by side.

    Args:
        image: see `sspsam.images`.
        config: of the model.
        max_pixels: see `load_image`.
        digest: whether its digest is wanted.

    Raises:
        ImageError: it cannot be taken.
    """
    pixels, found = load_image_with_digest(image, max_pixels) if digest else (load_image(image, max_pixels), None)
    pixels.flags.writeable = False
    geometry = geometry_of(pixels, config)
    return PreprocessedImage(pixels, (clip_input(pixels, geometry, config), sam_input(pixels, geometry, config)), found)


def geometry_of(pixels: Pixels, config: ModelConfig) -> Geometry:
    """The geometry of (h, w, 3) pixels for a model."""
    height, width = pixels.shape[:2]
    return Geometry.of(height, width, config.architecture.clip.image_size, config.architecture.sam.image_size)


def clip_input(pixels: Pixels, geometry: Geometry, config: ModelConfig) -> Tensor:
    """(h, w, 3) uint8 RGB -> (3, S, S) float32: resized, normalised, then pasted into the middle of zeros."""
    size, constants = config.architecture.clip.image_size, config.preprocessing
    resized = _resize(pixels, geometry.clip_height, geometry.clip_width)
    normalised = (resized.to(torch.float32) / 255 - _channels(constants.clip_mean)) / _channels(constants.clip_std)
    canvas = torch.zeros(3, size, size, dtype=torch.float32, device="cpu")
    rows = slice(geometry.clip_top, geometry.clip_top + geometry.clip_height)
    columns = slice(geometry.clip_left, geometry.clip_left + geometry.clip_width)
    canvas[:, rows, columns] = normalised
    return canvas


def sam_input(pixels: Pixels, geometry: Geometry, config: ModelConfig) -> Tensor:
    """(h, w, 3) uint8 RGB -> (3, size, size) float32: resized, normalised, zeros on the right and below."""
    size, constants = config.architecture.sam.image_size, config.preprocessing
    resized = _resize(pixels, geometry.sam_height, geometry.sam_width)
    canvas = torch.zeros(3, size, size, dtype=torch.float32, device="cpu")
    canvas[:, : geometry.sam_height, : geometry.sam_width] = (
        resized.to(torch.float32) - _channels(constants.sam_mean)
    ) / _channels(constants.sam_std)
    return canvas


def _resize(pixels: Pixels, height: int, width: int) -> Tensor:
    """Pillow's antialiased bilinear, as torchvision's `resize` of a PIL image; (3, height, width) uint8."""
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


def _channels(values: tuple[float, float, float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device="cpu").view(3, 1, 1)
