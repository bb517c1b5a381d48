"""`Segmentation`: the answer to one expression about one image."""

import copy
import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sspsam.devices import naming_out_of_memory
from sspsam.errors import ImageError, NoTargetError, StorageError
from sspsam.images.loading import DEFAULT_MAX_PIXELS, ImageInput, Pixels, load_image
from sspsam.segmentation.colors import RGB, Color, rgb
from sspsam.segmentation.cutouts import Background, crop, cutout
from sspsam.segmentation.explanation import Explanation as Explanation
from sspsam.segmentation.notebook import show
from sspsam.segmentation.polygons import Polygon, mask_to_polygons
from sspsam.segmentation.rasters import dilated, draw_rectangle
from sspsam.segmentation.rasters import mask_image as mask_image
from sspsam.segmentation.rasters import png_bytes as png_bytes
from sspsam.segmentation.rle import rle_encode
from sspsam.segmentation.runs import component_masks
from sspsam.segmentation.stored import packed_mask, stored_values, unpacked_mask
from sspsam.utils.arguments import real_number, true_or_false, whole_number
from sspsam.utils.files import replace_file
from sspsam.utils.paths import shown, shown_repr, user_file

DICT_VERSION: Final = 2
OVERLAY_COLOR: Final[RGB] = (255, 64, 32)


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The answer to one expression about one image.

    A pickle holds no `pixels`, and the mask in at most an eighth of a byte per pixel. To pickle the image as well,
    pickle `(result, result.pixels)`, and call `result.with_image(pixels)` afterwards.

    Args:
        text: the expression as the caller gave it.
        mask: (h, w) bool at the upright image's own size; all False when `no_target`.
        no_target: whether the expression refers to nothing in the image.
        foreground_pixels: in the authors' frame (512 x 512), at probability 0.5; `no_target` depends on them.
        score: SAM's own prediction of the mask's IoU; not a probability.
        box: x0, y0, x1, y1 in pixels of the upright image, from the box head; also when `no_target`.
        mask_box: tight box around the mask in whole pixels, x1 and y1 just outside it; None for an empty mask.
        low_res_logits: (M, M) float32 in SAM's square, with `return_logits="low_res"`.
        logits: (h, w) float32 on the image, with `return_logits="full"`.
        explanation: with `explain=True`.
        pixels: (h, w, 3) uint8, the image, shared with its embedding; None if the embedding was read from a file, and
            after pickling and `from_dict`.
        text_truncated: the words at the end of the expression that the model did not read, since the published models
            read about 70; None if it read all.
        box_fractions: (4,) float64, centre x, centre y, width, height as fractions of CLIP's square, the output
            of the box head; with `return_logits="low_res"`.
        presence: probability that the expression refers to something in the image; None without a calibration.
        features: numbers that a calibration uses, by their names in `sspsam.segmentation.features.FEATURES`; with
            `return_features=True`.
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
    text_truncated: str | None = None
    box_fractions: NDArray[np.float64] | None = None
    presence: float | None = None
    features: dict[str, float] | None = None

    def __repr__(self) -> str:
        height, width = self.mask.shape
        answer = "no target" if self.no_target else f"{int(self.mask.sum())} of {width} x {height} pixels"
        return f"Segmentation({self.text!r}: {answer}, score {self.score:.3f})"

    @naming_out_of_memory("not enough memory to write the result as plain values")
    def to_dict(self) -> dict[str, Any]:
        """Return all but logits, features and pixels as plain values that `json.dumps` accepts; `from_dict` reads them.

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
                "area": None if explanation.area is None else list(explanation.area),
            },
            "text_truncated": self.text_truncated,
            "presence": self.presence,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Self:
        """Return the answer that `to_dict` described, without logits and image.

        Args:
            content: of version 1 or 2; a line of the `results.jsonl` of a batch is one, too, and so is a row of its
                `results.parquet`. Other entries are ignored.
            max_pixels: largest width times height: a short text may describe a mask of any size.

        Raises:
            ResultError: an entry is missing or damaged, or the version is not known.
        """
        return cls(**stored_values(content, whole_number("max_pixels", max_pixels, 1)))

    def with_image(self, image: ImageInput) -> Self:
        """Return the same answer with an image, for overlays and cut-outs.

        Raises:
            ImageError: the image is None, cannot be used, or has another size than the mask.
        """
        pixels = self._pixels(load_image(image) if image is None else image)
        explanation = self.explanation and dataclasses.replace(self.explanation, pixels=pixels)
        return dataclasses.replace(self, pixels=pixels, explanation=explanation)

    @naming_out_of_memory("not enough memory to cut out the object")
    def cutout(
        self, feather: float = 0.0, background: Background | None = None, *, image: ImageInput | None = None
    ) -> Image.Image:
        """Return what is inside the mask, at the size of the image; nothing where there is no target.

        Args:
            feather: standard deviation of a Gaussian that softens the edge, in pixels.
            background: a colour or an image, which is scaled and cropped to the size; None: transparency.
            image: None: the image that was encoded, as in `overlay`.

        Returns:
            RGBA, or RGB on a background.

        Raises:
            ImageError: no image is known, it has another size than the mask, or `background` cannot be used.
        """
        return cutout(self._pixels(image), self.mask, self.mask_box, feather, background)

    @naming_out_of_memory("not enough memory to crop the image")
    def crop(self, margin: float = 0.0, *, image: ImageInput | None = None) -> Image.Image:
        """Return the image inside `mask_box`, background included.

        Args:
            margin: added on every side, as a share of the box's width or height; cut off at the border of the image.
            image: None: the image that was encoded, as in `overlay`.

        Raises:
            NoTargetError: there is no target, or no pixel in the mask.
            ImageError: no image is known, or it has another size than the mask.
        """
        if self.mask_box is None:
            reason = "refers to nothing in the image" if self.no_target else "has an empty mask"
            raise NoTargetError(f"{shown_repr(self.text)} {reason}, so there is nothing to crop")
        return crop(self._pixels(image), self.mask_box, margin)

    @naming_out_of_memory("not enough memory to trace the polygons")
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
        return mask_to_polygons(self.mask, tolerance, min_area)

    @naming_out_of_memory("not enough memory to separate the components")
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

    @naming_out_of_memory("not enough memory to write the mask")
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the mask as an 8-bit grey PNG of the image's size: 255 inside, 0 outside.

        Raises:
            StorageError: the name does not end in `.png`, or the file cannot be written.
        """
        path = user_file(path, "the mask file", StorageError)
        if path.suffix.lower() != ".png":
            raise StorageError(f"a mask is saved losslessly, as PNG: the name {shown(path)} must end in .png")
        replace_file(path, png_bytes(mask_image(self.mask)))

    @naming_out_of_memory("not enough memory to draw the overlay")
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
            color: a name such as `"orange"`, a hexadecimal colour such as `"#e69f00"`, or RGB from 0 to 255.
            opacity: of the tint, 0 to 1.
            draw_box: whether to draw the box head's box as well.

        Returns:
            An RGB image of the upright image's size.

        Raises:
            ImageError: no image is known, or it has another size than the mask.
        """
        opacity = real_number("opacity", opacity, 0, 1)
        color, draw_box = rgb(color), true_or_false("draw_box", draw_box)
        overlay = Image.fromarray(self._pixels(image))
        line = max(1, round(max(overlay.size) / 400))
        tint = mask_image(self.mask).point(lambda value: round(value * opacity))
        overlay.paste(Image.new("RGB", overlay.size, color), mask=tint)
        overlay.paste(color, mask=mask_image(dilated(self.mask, line) & ~self.mask))
        if draw_box:
            draw_rectangle(overlay, self.box, color, line)
        return overlay

    def _repr_html_(self) -> str:
        """Return the image with the mask, and a legend, for a notebook; `sspsam.segmentation.show` shows a list."""
        return show(self)._repr_html_()

    def _repr_png_(self) -> bytes | None:
        return show(self)._repr_png_()

    def _pixels(self, image: ImageInput | None) -> Pixels:
        """Return the pixels of `image`, or those that were encoded; either has the size of the mask."""
        height, width = self.mask.shape
        pixels = self.pixels if image is None else load_image(image, max(DEFAULT_MAX_PIXELS, height * width))
        if pixels is None:
            raise ImageError(
                "the result has no image, since its embedding was read from a file, or it was unpickled or made by "
                "from_dict: call with_image(image) first, or for one overlay overlay(image)"
            )
        if pixels.shape[:2] != (height, width):
            raise ImageError(f"the image has {pixels.shape[1]} x {pixels.shape[0]} pixels, the mask {width} x {height}")
        return pixels

    def __copy__(self) -> Self:
        return dataclasses.replace(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return dataclasses.replace(self, **copy.deepcopy(vars(self), memo))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without `pixels`, with the mask as compressed bits."""
        values = {name: value for name, value in vars(self).items() if name not in ("mask", "pixels")}
        return _unpickled, (type(self), packed_mask(self.mask), self.mask.shape, values)


def _unpickled(kind: type[Segmentation], packed: bytes, shape: tuple[int, int], values: dict[str, Any]) -> Segmentation:
    return kind(mask=unpacked_mask(packed, shape), **values)
