"""Masks of several expressions drawn over one image, with outlines, boxes and labels."""

import os
from collections.abc import Iterable, Sequence
from typing import Final, Literal, Protocol

from PIL import Image, ImageFilter

from sspsam.errors import ImageError
from sspsam.images.loading import DEFAULT_MAX_PIXELS, ImageInput, load_image
from sspsam.segmentation.colors import RGB, Color, palette, readable_on
from sspsam.segmentation.labels import LabelLayer, short_label
from sspsam.segmentation.rasters import dilated, draw_rectangle, mask_image
from sspsam.utils.arguments import real_number, true_or_false
from sspsam.utils.arrays import FloatBox, IntBox, Mask
from sspsam.utils.paths import shown_repr

Boxes = Literal["mask", "head"]
NO_TARGET_COLOR: Final[RGB] = (90, 90, 90)
_LETTERS_PER_IMAGE: Final = 40  # letters are this fraction of the image's longer side
_SMALLEST_LETTERS: Final = 11
_WIDE_LINE: Final = 5  # outlines of this width need no smoothing, which is slow in large images
_SMOOTHING: Final = 0.6  # of thinner outlines, pixels


class Answer(Protocol):
    """The part of a `Segmentation` that is drawn."""

    @property
    def text(self) -> str: ...
    @property
    def mask(self) -> Mask: ...
    @property
    def no_target(self) -> bool: ...
    @property
    def box(self) -> FloatBox: ...
    @property
    def mask_box(self) -> IntBox | None: ...


def draw(
    image: ImageInput,
    results: Answer | Sequence[Answer],
    *,
    colors: Sequence[Color] | None = None,
    opacity: float = 0.45,
    outlines: bool = True,
    labels: bool | Sequence[str] = True,
    boxes: Boxes | None = None,
    font: str | os.PathLike[str] | None = None,
) -> Image.Image:
    """Draw answers about one image over it, each in a colour of its own.

    Args:
        image: of any kind; `result.pixels` is the image that was encoded.
        results: a `Segmentation` or a list of them, in any number; an answer without a target is drawn as a grey label.
        colors: of the answers, in order, from the first again after the last one: names such as `"orange"`, hexadecimal
            colours such as `"#e69f00"`, or RGB from 0 to 255. None: seven colours that people with any colour vision
            can tell apart.
        opacity: of the masks, from 0 to 1.
        outlines: whether to draw the outlines of the masks.
        labels: whether to draw the expressions, or other labels for the answers, in order.
        boxes: `"mask"`: tight boxes around the masks; `"head"`: those of the box head; None: no boxes.
        font: path of a TrueType or OpenType font for the labels. None: Pillow's own font where it has all characters
            (the letters of English), else a system font that has them.

    Returns:
        An RGB image of the upright image's size.

    Raises:
        ImageError: the image cannot be used, or has another size than a mask.
        ValueError: an option is out of range.

    Warns:
        SSPSAMWarning: no font has all characters of a label.
    """
    results = list(results) if isinstance(results, Iterable) else [results]
    limit = max(DEFAULT_MAX_PIXELS, *(result.mask.size for result in results if hasattr(result, "mask")), 0)
    canvas = Image.fromarray(load_image(image, limit))
    _check(results, canvas, boxes)
    opacity, outlines = real_number("opacity", opacity, 0, 1), true_or_false("outlines", outlines)
    names = _names(results, labels)
    chosen = palette(len(results), colors)
    line = max(1, round(max(canvas.size) / 400))
    # the largest first, so that smaller masks stay visible inside larger ones
    order = sorted(range(len(results)), key=lambda number: _area(results[number].mask_box), reverse=True)
    for number in order:
        _draw_mask(canvas, results[number], chosen[number], opacity, line if outlines else 0)
    for number in order if boxes else []:
        _draw_box(canvas, results[number], chosen[number], line, boxes)
    layer = LabelLayer(canvas, max(_SMALLEST_LETTERS, round(max(canvas.size) / _LETTERS_PER_IMAGE)), font)
    for result, name, color in zip(results, names, chosen, strict=True):
        if name and result.mask_box is not None:
            layer.add(short_label(name), color, result.mask_box)
    for result, name in zip(results, names, strict=True):
        if name and result.mask_box is None:
            corner = (0, canvas.height, 0, canvas.height)  # the first at the bottom, the others above it
            verdict = "no target" if result.no_target else "empty"
            layer.add(f"{verdict}: {short_label(name)}", NO_TARGET_COLOR, corner)
    return canvas


def _check(results: Sequence[Answer], canvas: Image.Image, boxes: object) -> None:
    """Refuse masks of another size than the image, and unknown kinds of boxes."""
    for index, result in enumerate(results):
        if not hasattr(result, "mask_box"):
            raise TypeError(f"results[{index}] must be a Segmentation, not {type(result).__name__}")
        height, width = result.mask.shape
        if (width, height) != canvas.size:
            raise ImageError(
                f"the image has {canvas.width} x {canvas.height} pixels, the mask of {shown_repr(result.text)} "
                f"{width} x {height}"
            )
    if boxes not in (None, "mask", "head"):
        raise ValueError(f'boxes must be None, "mask" or "head", not {shown_repr(boxes)}')


def _names(results: Sequence[Answer], labels: bool | Sequence[str]) -> list[str]:
    """Return the label of each answer, empty where none is drawn."""
    if isinstance(labels, bool):
        return [result.text if labels else "" for result in results]
    if isinstance(labels, str) or not isinstance(labels, Sequence) or len(labels) != len(results):
        raise ValueError(f"labels must be True, False or a list of {len(results)} texts, one for each answer")
    return [str(label) for label in labels]


def _area(box: IntBox | None) -> int:
    return 0 if box is None else (box[2] - box[0]) * (box[3] - box[1])


def _draw_mask(canvas: Image.Image, result: Answer, color: RGB, opacity: float, line: int) -> None:
    """Tint a mask, and draw its outline around it: a coloured line, and a thin one that contrasts with the colour."""
    if result.mask_box is None:
        return
    x0, y0, x1, y1 = result.mask_box
    reach = 2 * line
    left, top = max(0, x0 - reach), max(0, y0 - reach)
    mask = result.mask[top : y1 + reach, left : x1 + reach]
    tint = mask_image(mask).point(lambda value: round(value * opacity))
    area = (left, top, left + tint.width, top + tint.height)
    canvas.paste(color, area, tint)
    if line:
        inner = dilated(mask, line)
        outer = dilated(inner, max(1, line // 2))
        for ring, ring_color in ((outer & ~inner, readable_on(color)), (inner & ~mask, color)):
            opacity_of_ring = mask_image(ring)
            if line < _WIDE_LINE:
                opacity_of_ring = opacity_of_ring.filter(ImageFilter.GaussianBlur(_SMOOTHING))
            canvas.paste(ring_color, area, opacity_of_ring)


def _draw_box(canvas: Image.Image, result: Answer, color: RGB, line: int, boxes: Boxes | None) -> None:
    """Draw a box; that of the box head also where there is no target."""
    box = result.mask_box if boxes == "mask" else result.box
    if box is not None:
        draw_rectangle(canvas, box, color, line)
