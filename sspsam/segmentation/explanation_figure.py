"""A figure of an `Explanation`: both maps over the image, and a bar for the weight of each word."""

import math
import os
import unicodedata
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from sspsam.errors import ImageError
from sspsam.images.loading import Pixels
from sspsam.segmentation.colors import RGB
from sspsam.segmentation.labels import font_for, short_label

_WIDTH: Final = 960
_MARGIN: Final = 24
_MAP_HEIGHT: Final = 520  # of a map, at most
_SCALE_HEIGHT: Final = 10  # of the colour scale below a map
_ROW: Final = 26  # height of the row of a word
_ROWS_OF_ONE_COLUMN: Final = 14
_TITLE, _SMALL = 17, 13  # sizes of letters in pixels
_MAP_OPACITY: Final = 0.6
Path = str | os.PathLike[str] | None
_MARKERS: Final = "start and end markers"
_READING: Final = (
    "The weights sum to 1. They are attention, not importance: weight on punctuation or on markers (grey) belongs to",
    "no word of the expression. The template adds a full stop to every expression; it often has most of the weight.",
)
# nine samples of matplotlib's viridis, which is even in lightness and independent of colour vision
_VIRIDIS: Final = np.array(
    [
        (68, 1, 84),
        (71, 44, 122),
        (59, 81, 139),
        (44, 113, 142),
        (33, 144, 141),
        (39, 173, 129),
        (92, 200, 99),
        (170, 220, 50),
        (253, 231, 37),
    ]
)


class ExplainedMaps(Protocol):
    """The part of an `Explanation` that is drawn."""

    @property
    def similarity(self) -> NDArray[np.float32]: ...
    @property
    def verification(self) -> NDArray[np.float32]: ...
    @property
    def words(self) -> tuple[tuple[str, float], ...]: ...
    @property
    def area(self) -> tuple[float, float, float, float] | None: ...


@dataclass(frozen=True)
class _Theme:
    """Colours of the figure."""

    background: RGB
    text: RGB
    faint: RGB  # grid lines, and bars of punctuation
    bar: RGB


_LIGHT: Final = _Theme((255, 255, 255), (28, 28, 30), (178, 178, 184), (0, 114, 178))
_DARK: Final = _Theme((24, 24, 27), (236, 236, 240), (105, 105, 113), (86, 180, 233))


def explanation_figure(explanation: ExplainedMaps, pixels: Pixels, dark: bool, font: Path) -> Image.Image:
    """Return the figure of `Explanation.figure`.

    Args:
        explanation: with maps of (G, G) in CLIP's square.
        pixels: (h, w, 3) uint8, the image.
        dark: whether the background is dark.
        font: path of a font for the words; None: see `font_for`.

    Raises:
        ImageError: the shape of the image is not that of the explained image, or its place is not known.
    """
    theme = _DARK if dark else _LIGHT
    area = _checked_area(explanation.area, pixels)
    image = _fitted(pixels)
    rows = [*explanation.words, (_MARKERS, max(0.0, 1 - sum(weight for _, weight in explanation.words)))]
    columns = 1 if len(rows) <= _ROWS_OF_ONE_COLUMN else 2
    top_of_bars = 2 * _MARGIN + _TITLE + 12 + image.height + 12 + _SCALE_HEIGHT + _SMALL + 18
    height = top_of_bars + _TITLE + 16 + math.ceil(len(rows) / columns) * _ROW + 12 + len(_READING) * 19 + _MARGIN
    canvas = Image.new("RGB", (_WIDTH, height), theme.background)
    pen = ImageDraw.Draw(canvas)
    panel = (_WIDTH - 3 * _MARGIN) // 2
    for column, (title, values) in enumerate(
        (
            ("Similarity of the sentence and each patch", explanation.similarity),
            ("Verification of each patch by the words", explanation.verification),
        )
    ):
        left = _MARGIN + column * (panel + _MARGIN)
        _write(pen, (left, _MARGIN), title, _TITLE, theme.text)
        top = _MARGIN + _TITLE + 12
        canvas.paste(_map_over_image(values, area, image), (left, top))
        _draw_scale(canvas, values, (left, top + image.height + 12, image.width), theme)
    _write(pen, (_MARGIN, top_of_bars), "Attention weight of each word", _TITLE, theme.text)
    _draw_bars(pen, rows, columns, top_of_bars + _TITLE + 16, theme, font)
    for number, line in enumerate(reversed(_READING)):
        _write(pen, (_MARGIN, height - _MARGIN - _SMALL - 19 * number), line, _SMALL, theme.text)
    return canvas


def _checked_area(area: tuple[float, float, float, float] | None, pixels: Pixels) -> tuple[float, float, float, float]:
    """Return the place of the image in CLIP's square, after a comparison with the shape of the image."""
    if area is None:
        raise ImageError(
            "the explanation was stored by an earlier version of sspsam, without the place of the image in the maps: "
            "predict again with explain=True"
        )
    height, width = pixels.shape[:2]
    expected = width / max(height, width), height / max(height, width)
    actual = area[2] - area[0], area[3] - area[1]
    if any(abs(one - other) > 0.03 for one, other in zip(expected, actual, strict=True)):
        raise ImageError(f"the explanation is about another image, of another shape than {width} x {height} pixels")
    return area


def _fitted(pixels: Pixels) -> Image.Image:
    """Return the image at the size of a panel."""
    image = Image.fromarray(pixels)
    panel = (_WIDTH - 3 * _MARGIN) // 2
    scale = min(panel / image.width, _MAP_HEIGHT / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)


def _map_over_image(
    values: NDArray[np.float32], area: tuple[float, float, float, float], image: Image.Image
) -> Image.Image:
    """Blend the part of a (G, G) map that the image fills, in colours, over the grey image."""
    x0, y0, x1, y1 = (side * len(values) for side in area)
    box = (x0, y0, min(x1, len(values)), min(y1, len(values)))
    resized = Image.fromarray(_normalised(values)).resize(image.size, Image.Resampling.BILINEAR, box=box)
    colors = Image.fromarray(_colored(np.asarray(resized)))
    return Image.blend(image.convert("L").convert("RGB"), colors, _MAP_OPACITY)


def _normalised(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale a map to 0 to 1."""
    low, high = float(values.min()), float(values.max())
    scaled: NDArray[np.float32] = ((values - low) / max(high - low, 1e-12)).astype(np.float32)
    return scaled


def _colored(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Map values from 0 to 1 to colours: (h, w) -> (h, w, 3)."""
    places = np.linspace(0, 1, len(_VIRIDIS))
    channels = [np.interp(values, places, _VIRIDIS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def _draw_scale(canvas: Image.Image, values: NDArray[np.float32], place: tuple[int, int, int], theme: _Theme) -> None:
    """Draw the colours from the smallest to the largest value of a map; place: left, top and width."""
    left, top, width = place
    steps = np.linspace(0, 1, width, dtype=np.float32)[None].repeat(_SCALE_HEIGHT, axis=0)
    canvas.paste(Image.fromarray(_colored(steps)), (left, top))
    pen = ImageDraw.Draw(canvas)
    below = top + _SCALE_HEIGHT + 4
    _write(pen, (left, below), f"{values.min():.2f}", _SMALL, theme.text)
    high = f"{values.max():.2f}"
    _write(pen, (left + width - _width(high, _SMALL), below), high, _SMALL, theme.text)


def _draw_bars(
    pen: ImageDraw.ImageDraw, rows: list[tuple[str, float]], columns: int, top: int, theme: _Theme, font: Path
) -> None:
    """Draw a row for each word: the word, a bar as long as its weight, and the weight."""
    per_column = math.ceil(len(rows) / columns)
    column_width = (_WIDTH - _MARGIN * (columns + 1)) // columns
    label_width = min(column_width // 2, max(_width(short_label(word), _SMALL + 1, font) for word, _ in rows) + 12)
    bar_width = column_width - label_width - 50
    for number, (word, weight) in enumerate(rows):
        column, row = divmod(number, per_column)
        left, y = _MARGIN + column * (column_width + _MARGIN), top + row * _ROW
        _write(pen, (left, y), short_label(word), _SMALL + 1, theme.text, font)
        start = left + label_width
        length = round(bar_width * min(1.0, max(0.0, weight)))
        pen.line((start, y - 2, start, y + _ROW - 8), fill=theme.faint)
        color = theme.faint if word == _MARKERS or _is_punctuation(word) else theme.bar
        if length:
            pen.rectangle((start + 1, y, start + length, y + _ROW - 10), fill=color)
        _write(pen, (start + length + 7, y + 1), f"{weight:.2f}", _SMALL, theme.text)


def _is_punctuation(word: str) -> bool:
    return all(unicodedata.category(character)[0] == "P" for character in word)


def _write(
    pen: ImageDraw.ImageDraw, place: tuple[int, int], text: str, size: int, color: RGB, font: Path = None
) -> None:
    pen.text(place, text, fill=color, font=font_for(text, size, font), anchor="la")


def _width(text: str, size: int, font: Path = None) -> int:
    return math.ceil(font_for(text, size, font).getlength(text))
