"""Answers in a notebook: the image with coloured masks, and a legend of the expressions."""

import base64
import html
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, Protocol

import numpy as np
from PIL import Image

from sspsam.images.loading import Pixels
from sspsam.segmentation.colors import RGB, palette
from sspsam.segmentation.drawing import NO_TARGET_COLOR, Answer, draw
from sspsam.segmentation.rasters import mask_image, png_bytes
from sspsam.utils.arrays import FloatBox, IntBox, Mask
from sspsam.utils.paths import printable

_LONGEST_SIDE: Final = 800  # of an image in a notebook, pixels
_JPEG_QUALITY: Final = 90
_UNKNOWN_IMAGE: Final = 225  # grey level in the place of an image that the answers do not hold
_GAP: Final = 12
_MOST_CHARACTERS: Final = 300  # of an expression in a legend
_FIGURE: Final = """\
<div style="display:inline-block;max-width:100%;margin:4px 12px 4px 0;vertical-align:top">
<img alt="image with masks" style="max-width:100%;border-radius:4px" src="data:image/jpeg;base64,{data}">{note}
<table style="border:none;background:none;margin:4px 0;font-size:90%">{rows}</table></div>"""
_CELL: Final = '<td style="text-align:left;border:none;padding:2px 10px 2px 0;background:none;color:inherit">'
_ROW: Final = f"""
<tr>{_CELL}<span style="display:inline-block;width:12px;height:12px;border-radius:3px;background:{{color}}"></span></td>
{_CELL}{{text}}</td>{_CELL}{{answer}}</td>{_CELL}{{score}}</td></tr>"""


class ShownAnswer(Answer, Protocol):
    """The part of a `Segmentation` that a notebook shows."""

    @property
    def score(self) -> float: ...
    @property
    def pixels(self) -> Pixels | None: ...


@dataclass(frozen=True)
class _Reduced:
    """An answer at the size of an image in a notebook."""

    text: str
    mask: Mask
    no_target: bool
    box: FloatBox
    mask_box: IntBox | None


@dataclass(frozen=True, eq=False)
class View:
    """Answers that a notebook shows as images with legends; made by `show`.

    Args:
        answers: of one or of several images.
    """

    answers: tuple[ShownAnswer, ...]

    def __repr__(self) -> str:
        return "\n".join(map(repr, self.answers)) or "no answers"

    def _repr_html_(self) -> str:
        return "\n".join(_html(group) for group in _groups(self.answers)) or "<p>no answers</p>"

    def _repr_png_(self) -> bytes | None:
        images = [_image(group) for group in _groups(self.answers)]
        return png_bytes(_stacked(images)) if images else None


def show(results: ShownAnswer | Iterable[ShownAnswer | Iterable[ShownAnswer]]) -> View:
    """Return a view of answers for a notebook: one image, with a legend, for all answers about it that stand together.

    Args:
        results: a `Segmentation`, a list of them as of `predict`, or lists of them as of `predict_batch`.

    Raises:
        TypeError: an element is no `Segmentation`.
    """
    return View(tuple(_flattened(results)))


def _flattened(results: object) -> Iterator[ShownAnswer]:
    if hasattr(results, "mask_box"):
        yield results  # type: ignore[misc]  # a Segmentation, which this module cannot import
    elif isinstance(results, Iterable) and not isinstance(results, str | bytes | np.ndarray):
        for result in results:
            yield from _flattened(result)
    else:
        raise TypeError(f"show() takes a Segmentation or lists of them, not {type(results).__name__}")


def _groups(answers: Sequence[ShownAnswer]) -> Iterator[list[ShownAnswer]]:
    """Yield the consecutive answers about the same image."""
    for _, group in groupby(answers, key=lambda answer: (id(answer.pixels), answer.mask.shape)):
        yield list(group)


def _image(answers: Sequence[ShownAnswer]) -> Image.Image:
    """Return the image of answers with their masks, at most `_LONGEST_SIDE` pixels wide and high."""
    height, width = answers[0].mask.shape
    scale = min(1.0, _LONGEST_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    pixels = answers[0].pixels
    if pixels is None:
        image = Image.new("RGB", size, (_UNKNOWN_IMAGE,) * 3)
    else:
        image = Image.fromarray(pixels).resize(size, Image.Resampling.BOX)
    return draw(image, [_reduced(answer, size) for answer in answers], boxes=None)


def _reduced(answer: ShownAnswer, size: tuple[int, int]) -> _Reduced:
    """Return an answer at another size (width, height); thin masks stay visible."""
    height, width = answer.mask.shape
    across, down = size[0] / width, size[1] / height
    mask = np.asarray(mask_image(answer.mask).resize(size, Image.Resampling.BOX)) >= 64
    box = answer.mask_box
    if box is not None:
        left, top = (min(int(box[0] * across), size[0] - 1), min(int(box[1] * down), size[1] - 1))
        box = (left, top, max(left + 1, round(box[2] * across)), max(top + 1, round(box[3] * down)))
    x0, y0, x1, y1 = answer.box
    return _Reduced(answer.text, mask, answer.no_target, (x0 * across, y0 * down, x1 * across, y1 * down), box)


def _html(answers: Sequence[ShownAnswer]) -> str:
    """Return an image and its legend; the text has the colour of the notebook's theme."""
    buffer = io.BytesIO()
    _image(answers).save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return _FIGURE.format(
        data=base64.b64encode(buffer.getvalue()).decode(),
        note="" if answers[0].pixels is not None else "<div>(the answer does not hold its image: see with_image)</div>",
        rows="".join(map(_row, answers, palette(len(answers)))),
    )


def _row(answer: ShownAnswer, color: RGB) -> str:
    """Return a line of the legend: colour, expression, size or "no target", and score."""
    text = printable(" ".join(answer.text.split()))
    area = int(np.count_nonzero(answer.mask))
    return _ROW.format(
        color=f"rgb{NO_TARGET_COLOR if answer.mask_box is None else color}",
        text=html.escape(text if len(text) <= _MOST_CHARACTERS else text[:_MOST_CHARACTERS] + "…"),
        answer="no target" if answer.no_target else f"{area:,} pixels ({area / answer.mask.size:.1%})",
        score=f"score {answer.score:.2f}",
    )


def _stacked(images: Sequence[Image.Image]) -> Image.Image:
    """Return images below each other."""
    if len(images) == 1:
        return images[0]
    height = sum(image.height for image in images) + _GAP * (len(images) - 1)
    canvas = Image.new("RGB", (max(image.width for image in images), height), (255, 255, 255))
    top = 0
    for image in images:
        canvas.paste(image, (0, top))
        top += image.height + _GAP
    return canvas
