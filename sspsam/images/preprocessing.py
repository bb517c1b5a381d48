"""RGB pixels -> inputs of CLIP and SAM, with the geometry that maps results back (`docs/method.md`, section 1)."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sspsam.config import ModelConfig
from sspsam.devices import host_buffer
from sspsam.images.loading import ImageInput, Pixels, load_image, load_image_with_digest
from sspsam.images.resize import resize_bilinear


@dataclass(frozen=True)
class Geometry:
    """Position of an image in CLIP's square, in its middle, and in SAM's square, at the top left. Sizes are in pixels.

    A square is the input of an encoder: the resized image, whose longer side fills it, and padding.

    Args:
        height, width: of the upright image.
        clip_height, clip_width: of the resized image in CLIP's square.
        clip_top, clip_left: offset of the resized image in CLIP's square.
        sam_height, sam_width: of the resized image in SAM's square; its offset is zero.
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
    def of(cls, height: int, width: int, clip_size: int, sam_size: int) -> Self:
        """Return the geometry of an image.

        No side shrinks below one pixel, so that even a 12000 x 3 image can be segmented.

        Args:
            height, width: of the upright image, pixels.
            clip_size: S, side of CLIP's square in pixels.
            sam_size: R, side of SAM's square in pixels.
        """
        longest = max(height, width)
        clip_height, clip_width = (max(1, round(side * clip_size / longest)) for side in (height, width))
        scale = sam_size / longest  # computed first, for the rounding of segment_anything's ResizeLongestSide
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

    @property
    def clip_area(self) -> tuple[float, float, float, float]:
        """Box x0, y0, x1, y1 of the image in CLIP's square, as fractions of its side."""
        side = max(self.clip_height, self.clip_width)  # the longer side fills the square
        left, top = self.clip_left / side, self.clip_top / side
        return left, top, left + self.clip_width / side, top + self.clip_height / side


@dataclass(frozen=True, eq=False)
class PreprocessedImage:
    """An image that is ready for the encoders.

    Args:
        pixels: (h, w, 3) uint8 RGB, upright; read-only, because every result about the image shares them.
        geometry: of the image in the model's inputs.
        clip_input: (3, S, S) float32, S the side of CLIP's square; None where the device makes it (`device_inputs`).
        sam_input: (3, R, R) float32, R the side of SAM's square; None where the device makes it.
        digest: SHA-256 of the file's bytes, or of the pixels where there was no file; None if it was not requested.
        staged: (h, w, 3) uint8 from `staged_pixels`, for `device_inputs`; None where both inputs are made already.
    """

    pixels: Pixels
    geometry: Geometry
    clip_input: Tensor | None
    sam_input: Tensor | None
    digest: str | None = None
    staged: Tensor | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.geometry.height, self.geometry.width


def preprocess_image(
    image: ImageInput,
    config: ModelConfig,
    max_pixels: int,
    digest: bool = False,
    device: torch.device | None = None,
) -> PreprocessedImage:
    """Load an image and make both model inputs; threads may do so at the same time.

    Args:
        image: see `sspsam.images`.
        config: of the model.
        max_pixels: see `load_image`.
        digest: whether to compute the digest.
        device: to stage the pixels for, which makes both inputs by `device_inputs`; None: they are made here.

    Raises:
        ImageError: the image cannot be used.
    """
    if digest:
        pixels, sha256 = load_image_with_digest(image, max_pixels)
    else:
        pixels, sha256 = load_image(image, max_pixels), None
    pixels.flags.writeable = False
    geometry = geometry_of(pixels, config)
    if device is not None:
        return PreprocessedImage(pixels, geometry, None, None, sha256, staged_pixels(pixels, device))
    return PreprocessedImage(
        pixels, geometry, clip_input(pixels, geometry, config), sam_input(pixels, geometry, config), sha256
    )


def geometry_of(pixels: Pixels, config: ModelConfig) -> Geometry:
    """Return the geometry of (h, w, 3) pixels in the inputs of a model."""
    height, width = pixels.shape[:2]
    return Geometry.of(height, width, config.architecture.clip.image_size, config.architecture.sam.image_size)


def clip_input(pixels: Pixels, geometry: Geometry, config: ModelConfig) -> Tensor:
    """Resize and normalise (h, w, 3) uint8 RGB and paste it into the middle of zeros: (3, S, S) float32."""
    return _clip_square(_resize(pixels, geometry.clip_height, geometry.clip_width), geometry, config)


def sam_input(pixels: Pixels, geometry: Geometry, config: ModelConfig) -> Tensor:
    """Resize and normalise (h, w, 3) uint8 RGB and pad it on the right and below: (3, R, R) float32."""
    return _sam_square(_resize(pixels, geometry.sam_height, geometry.sam_width), geometry, config)


def device_inputs(pixels: Tensor, geometry: Geometry, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Make both model inputs on the device of the pixels, with the bits of `clip_input` and `sam_input`.

    Args:
        pixels: (h, w, 3) uint8 RGB on any device.
        geometry: of the image in the model's inputs.
        config: of the model.

    Returns:
        CLIP's (3, S, S) and SAM's (3, R, R) float32 inputs.
    """
    clip = resize_bilinear(pixels, geometry.clip_height, geometry.clip_width)  # (clip_height, clip_width, 3)
    sam = resize_bilinear(pixels, geometry.sam_height, geometry.sam_width)  # (sam_height, sam_width, 3)
    return (
        _clip_square(clip.permute(2, 0, 1), geometry, config),
        _sam_square(sam.permute(2, 0, 1), geometry, config),
    )


def staged_pixels(pixels: Pixels, device: torch.device) -> Tensor:
    """Copy (h, w, 3) uint8 pixels, which may be read-only, to host memory from which the device copies them fast."""
    staged = host_buffer(pixels.shape, torch.uint8, device)
    np.copyto(staged.numpy(), pixels)
    return staged


def _clip_square(resized: Tensor, geometry: Geometry, config: ModelConfig) -> Tensor:
    """Normalise (3, clip_height, clip_width) uint8 and paste it into the middle of zeros: (3, S, S) float32."""
    size, constants, device = config.architecture.clip.image_size, config.preprocessing, resized.device
    # 255 is a tensor too: CUDA multiplies by the reciprocal of a number, which rounds differently
    unit = resized.to(torch.float32) / _channels((255.0, 255.0, 255.0), device)
    canvas = torch.zeros(3, size, size, dtype=torch.float32, device=device)
    rows = slice(geometry.clip_top, geometry.clip_top + geometry.clip_height)
    columns = slice(geometry.clip_left, geometry.clip_left + geometry.clip_width)
    canvas[:, rows, columns] = (unit - _channels(constants.clip_mean, device)) / _channels(constants.clip_std, device)
    return canvas


def _sam_square(resized: Tensor, geometry: Geometry, config: ModelConfig) -> Tensor:
    """Normalise (3, sam_height, sam_width) uint8 and pad it on the right and below: (3, R, R) float32."""
    size, constants, device = config.architecture.sam.image_size, config.preprocessing, resized.device
    canvas = torch.zeros(3, size, size, dtype=torch.float32, device=device)
    canvas[:, : geometry.sam_height, : geometry.sam_width] = (
        resized.to(torch.float32) - _channels(constants.sam_mean, device)
    ) / _channels(constants.sam_std, device)
    return canvas


def _resize(pixels: Pixels, height: int, width: int) -> Tensor:
    """Resize with Pillow's antialiased bilinear filter, as torchvision resizes PIL images: (3, height, width) uint8."""
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


@lru_cache(maxsize=64)  # a copy to a GPU waits for the GPU
def _channels(values: tuple[float, float, float], device: torch.device) -> Tensor:
    """Return a constant for each channel, (3, 1, 1) float32, shared by all callers and never written to."""
    return torch.tensor(values, dtype=torch.float32, device=device).view(3, 1, 1)
