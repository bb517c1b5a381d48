"""The answer to one expression about one picture."""

import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from sspsam.errors import ImageError, StorageError
from sspsam.images.loading import DEFAULT_MAX_PIXELS, ImageInput, Pixels, load_image
from sspsam.segmentation.rle import rle_encode
from sspsam.utils.files import replace_file

DICT_VERSION: Final = 1
Color = tuple[int, int, int]
OVERLAY_COLOR: Final[Color] = (255, 64, 32)


@dataclass(frozen=True, eq=False)
class Explanation:
    """Where the model looked, and at which words.

    Args:
        similarity: (G, G) float32 in [0, 1], sentence-level similarity of every patch of CLIP's padded canvas.
        word_attention: (L,) float32, weight of every text position; sums to 1, start and end markers included.
        words: the words as they were read, each with its weight; without the start and end markers.
        verification: (G, G) float32, word-level verification score of every patch.
    """

    similarity: NDArray[np.float32]
    word_attention: NDArray[np.float32]
    words: tuple[tuple[str, float], ...]
    verification: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What one expression points at in one picture.

    Args:
        text: the expression as it was given.
        mask: (h, w) bool at the upright picture's own size; all False when `no_target`.
        no_target: whether the words point at nothing.
        foreground_pixels: in the authors' padded frame (512 x 512), at probability 0.5; what `no_target` is judged by.
        score: SAM's own prediction of the mask's IoU; not a probability.
        box: x0, y0, x1, y1 in pixels of the upright picture, as the box head sees it; also when `no_target`.
        mask_box: tight box around the mask in whole pixels, x1 and y1 just outside it; None for an empty mask.
        low_res_logits: (M, M) float32 in SAM's padded frame, with `return_logits="low_res"`.
        logits: (h, w) float32 on the picture, with `return_logits="full"`.
        explanation: with `explain=True`.
        pixels: (h, w, 3) uint8, the picture, shared with its embedding; None if that came from a file.
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
        found = "no target" if self.no_target else f"{int(self.mask.sum())} of {width} x {height} pixels"
        return f"Segmentation({self.text!r}: {found}, score {self.score:.3f})"

    def to_dict(self) -> dict[str, Any]:
        """All but logits and pixels as plain values that `json.dumps` takes.

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

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the mask as an 8-bit grey PNG of the picture's size: 255 inside, 0 outside.

        Raises:
            StorageError: the name does not end in `.png`, or the file cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise StorageError(f"a mask is saved without loss, as PNG: {path} must end in .png")
        replace_file(path, png_bytes(mask_image(self.mask)))

    def overlay(
        self,
        image: ImageInput | None = None,
        *,
        color: Color = OVERLAY_COLOR,
        opacity: float = 0.5,
        draw_box: bool = False,
    ) -> Image.Image:
        """The picture with the mask tinted and outlined.

        Args:
            image: the picture; None: the one that was encoded. It must be given when the embedding came from a file.
            color: RGB, 0 to 255.
            opacity: of the tint, 0 to 1.
            draw_box: whether to draw the box head's box as well.

        Returns:
            An RGB picture of the upright picture's size.

        Raises:
            ImageError: no picture is known, or it has another size than the mask.
        """
        height, width = self.mask.shape
        if image is not None:
            pixels = load_image(image, max(DEFAULT_MAX_PIXELS, height * width))
        elif self.pixels is not None:
            pixels = self.pixels
        else:
            raise ImageError("this result does not know its picture (the embedding came from a file): overlay(image)")
        if pixels.shape[:2] != (height, width):
            raise ImageError(
                f"the picture has {pixels.shape[1]} x {pixels.shape[0]} pixels, the mask {width} x {height}"
            )
        if not 0 <= opacity <= 1:
            raise ValueError(f"opacity goes from 0 to 1, not {opacity}")
        color = _checked_color(color)
        picture = Image.fromarray(pixels)
        line = max(1, round(max(height, width) / 400))
        tint = mask_image(self.mask).point(lambda value: round(value * opacity))
        picture.paste(Image.new("RGB", picture.size, color), mask=tint)
        picture.paste(color, mask=mask_image(_grown(self.mask, line) & ~self.mask))
        if draw_box:
            x0, y0, x1, y1 = self.box
            last = (max(x0, x1 - 1), max(y0, y1 - 1))  # Pillow draws the last pixel too
            ImageDraw.Draw(picture).rectangle((x0, y0, *last), outline=color, width=line)
        return picture


def png_bytes(image: Image.Image) -> bytes:
    """The picture as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def mask_image(mask: NDArray[np.bool_]) -> Image.Image:
    """An (h, w) mask as an 8-bit grey picture: 255 inside, 0 outside."""
    return Image.fromarray(mask.astype(np.uint8) * np.uint8(255))


def _grown(mask: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """The mask and all within `reach` pixels of it, along both axes; few passes, whatever the reach."""
    for axis in (0, 1):
        grown = mask.swapaxes(0, axis).copy()
        done = 0
        while done < reach:
            step = min(reach - done, done + 1)  # no more: beyond the edge nothing has grown that could come back
            before = grown.copy()
            grown[step:] |= before[:-step]
            grown[:-step] |= before[step:]
            done += step
        mask = grown.swapaxes(0, axis)
    return mask


def _checked_color(color: Color) -> Color:
    red, green, blue = color
    if not all(isinstance(channel, int) and 0 <= channel <= 255 for channel in (red, green, blue)):
        raise ValueError(f"color is RGB from 0 to 255, such as {OVERLAY_COLOR}, not {color}")
    return red, green, blue
