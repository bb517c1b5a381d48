"""`Segmentation`: the answer to one expression about one image."""

import dataclasses
import io
import numbers
import operator
import os
from dataclasses import dataclass, field
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from sspsam.errors import ImageError, StorageError
from sspsam.images.loading import DEFAULT_MAX_PIXELS, ImageInput, Pixels, load_image
from sspsam.segmentation.polygons import Polygon, mask_to_polygons
from sspsam.segmentation.rle import rle_encode
from sspsam.segmentation.runs import component_masks
from sspsam.utils.arguments import real_number
from sspsam.utils.files import replace_file
from sspsam.utils.paths import shown, user_path

DICT_VERSION: Final = 1
Color = tuple[int, int, int]
OVERLAY_COLOR: Final[Color] = (255, 64, 32)


@dataclass(frozen=True, eq=False)
class Explanation:
    """Attention maps and word weights behind an answer.

    Args:
        similarity: (G, G) float32 in [0, 1], similarity of the sentence and every patch of CLIP's padded square.
        word_attention: (L,) float32, attention weight of every text position; sums to 1, start and end markers
            included.
        words: each word of the expression with its weight; without the start and end markers.
        verification: (G, G) float32, word-level verification score of every patch.
    """

    similarity: NDArray[np.float32]
    word_attention: NDArray[np.float32]
    words: tuple[tuple[str, float], ...]
    verification: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The answer to one expression about one image.

    Args:
        text: the expression as the caller gave it.
        mask: (h, w) bool at the upright image's own size; all False when `no_target`.
        no_target: whether the expression refers to nothing in the image.
        foreground_pixels: in the authors' padded frame (512 x 512), at probability 0.5; `no_target` depends on them.
        score: SAM's own prediction of the mask's IoU; not a probability.
        box: x0, y0, x1, y1 in pixels of the upright image, from the box head; also when `no_target`.
        mask_box: tight box around the mask in whole pixels, x1 and y1 just outside it; None for an empty mask.
        low_res_logits: (M, M) float32 in SAM's padded square, with `return_logits="low_res"`.
        logits: (h, w) float32 on the image, with `return_logits="full"`.
        explanation: with `explain=True`.
        pixels: (h, w, 3) uint8, the image, shared with its embedding; None if the embedding was read from a file.
    """

    text: str
    mask: NDArray[np.bool_]
    no_target: bool
    foreground_pixels: int
    score: float
    box: tuple[float, float, float, float]
    mask_box: tuple[int, int, int, int] | None
    low_res_logits: NDArray[np.float32] | None = None
    logits: NDArray[np.float32] | None = None
    explanation: Explanation | None = None
    pixels: Pixels | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        height, width = self.mask.shape
        answer = "no target" if self.no_target else f"{int(self.mask.sum())} of {width} x {height} pixels"
        return f"Segmentation({self.text!r}: {answer}, score {self.score:.3f})"

    def to_dict(self) -> dict[str, Any]:
        """Return everything but logits and pixels as plain values that `json.dumps` accepts.

        The mask is COCO's compressed run-length encoding: `pycocotools.mask.decode(d["mask"])` reads it.
        """
        explanation = self.explanation
        return {
            "version": DICT_VERSION,
            "text": self.text,
            "no_target": self.no_target,
            "foreground_pixels": self.foreground_pixels,
            "score": self.score,
            "box": list(self.box),
            "mask_box": None if self.mask_box is None else list(self.mask_box),
            "height": self.mask.shape[0],
            "width": self.mask.shape[1],
            "mask": rle_encode(self.mask),
            "explanation": None
            if explanation is None
            else {
                "words": [[word, weight] for word, weight in explanation.words],
                "word_attention": explanation.word_attention.tolist(),
                "similarity": explanation.similarity.tolist(),
                "verification": explanation.verification.tolist(),
            },
        }

    def polygons(self, tolerance: float = 0.5, min_area: float = 1) -> list[Polygon]:
        """Return the mask as polygons, one for each 8-connected component, from the largest to the smallest.

        Args:
            tolerance: largest distance, in pixels, of a dropped point from the simplified outline; 0: the exact
                outline. Small and thin components get a smaller one, so that they keep their shape.
            min_area: smallest area in pixels; smaller components are left out, and smaller holes filled.

        Returns:
            Flat lists `[x0, y0, x1, y1, ...]` in pixels of the upright image, on the edges of pixels (0 is the left or
            upper border, `width` or `height` the opposite one). A hole is joined to the outer ring by a bridge, so that
            pycocotools decodes the polygons to the mask. No polygons for an empty mask.
        """
        tolerance, min_area = real_number("tolerance", tolerance, 0), real_number("min_area", min_area, 0)
        return mask_to_polygons(self.mask, tolerance, min_area)

    def components(self, min_area: float = 1) -> list[Self]:
        """Return the 8-connected components of the mask as answers of their own, from the largest to the smallest.

        Args:
            min_area: smallest area in pixels; smaller components are left out.

        Returns:
            Copies with the `mask` and `mask_box` of each component, and `foreground_pixels`, `score`, `box`, logits and
            explanation of the whole answer. No copies for an empty mask.
        """
        components = component_masks(self.mask, real_number("min_area", min_area, 0))
        return [dataclasses.replace(self, mask=mask, mask_box=box) for mask, box in components]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the mask as an 8-bit grey PNG of the image's size: 255 inside, 0 outside.

        Raises:
            StorageError: the name does not end in `.png`, or the file cannot be written.
        """
        path = user_path(path, "the mask file", StorageError)
        if path.suffix.lower() != ".png":
            raise StorageError(f"a mask is saved losslessly, as PNG: the name {shown(path)} must end in .png")
        replace_file(path, png_bytes(mask_image(self.mask)))

    def overlay(
        self,
        image: ImageInput | None = None,
        *,
        color: Color = OVERLAY_COLOR,
        opacity: float = 0.5,
        draw_box: bool = False,
    ) -> Image.Image:
        """Return the image with the mask tinted and outlined.

        Args:
            image: None: the image that was encoded. It must be given when the embedding was read from a file.
            color: RGB, 0 to 255.
            opacity: of the tint, 0 to 1.
            draw_box: whether to draw the box head's box as well.

        Returns:
            An RGB image of the upright image's size.

        Raises:
            ImageError: no image is known, or it has another size than the mask.
        """
        if not _is_fraction(opacity):
            raise ValueError(f"opacity must be a number from 0 to 1, not {shown(repr(opacity))}")
        color = _checked_color(color)
        overlay = Image.fromarray(self._pixels(image))
        line = max(1, round(max(overlay.size) / 400))
        tint = mask_image(self.mask).point(lambda value: round(value * opacity))
        overlay.paste(Image.new("RGB", overlay.size, color), mask=tint)
        overlay.paste(color, mask=mask_image(_dilated(self.mask, line) & ~self.mask))
        if draw_box:
            x0, y0, x1, y1 = self.box
            last = (max(x0, x1 - 1), max(y0, y1 - 1))  # Pillow draws the last pixel too
            ImageDraw.Draw(overlay).rectangle((x0, y0, *last), outline=color, width=line)
        return overlay

    def _pixels(self, image: ImageInput | None) -> Pixels:
        """Return the pixels of `image`, or those that were encoded; either has the size of the mask."""
        height, width = self.mask.shape
        pixels = self.pixels if image is None else load_image(image, max(DEFAULT_MAX_PIXELS, height * width))
        if pixels is None:
            raise ImageError("the result has no image, since its embedding was read from a file: call overlay(image)")
        if pixels.shape[:2] != (height, width):
            raise ImageError(f"the image has {pixels.shape[1]} x {pixels.shape[0]} pixels, the mask {width} x {height}")
        return pixels


def png_bytes(image: Image.Image) -> bytes:
    """Return an image as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def mask_image(mask: NDArray[np.bool_]) -> Image.Image:
    """Return an (h, w) mask as an 8-bit grey image: 255 inside, 0 outside."""
    return Image.fromarray(mask.astype(np.uint8) * np.uint8(255))


def _dilated(mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """Dilate a mask by a square of side 2 * radius + 1, in a number of passes that grows with the logarithm."""
    for axis in (0, 1):
        dilated = mask.swapaxes(0, axis).copy()
        reached = 0
        while reached < radius:
            step = min(radius - reached, reached + 1)  # a longer step would leave gaps
            before = dilated.copy()
            dilated[step:] |= before[:-step]
            dilated[:-step] |= before[step:]
            reached += step
        mask = dilated.swapaxes(0, axis)
    return mask


def _is_fraction(value: object) -> bool:
    return isinstance(value, numbers.Real) and 0 <= float(value) <= 1


def _checked_color(color: Color) -> Color:
    try:
        red, green, blue = (-1 if isinstance(channel, bool) else operator.index(channel) for channel in color)
    except (TypeError, ValueError):
        red = green = blue = -1  # not three whole numbers
    if not all(0 <= channel <= 255 for channel in (red, green, blue)):
        raise ValueError(f"color must be RGB from 0 to 255, such as {OVERLAY_COLOR}, not {shown(repr(color))}")
    return red, green, blue
