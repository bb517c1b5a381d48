"""Text in images: fonts that have the characters of a text, and labels that do not cover each other."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from sspsam.errors import StorageError, warn
from sspsam.segmentation.colors import RGB, readable_on
from sspsam.utils.paths import printable, shown, shown_repr

Font = ImageFont.FreeTypeFont
Rectangle = tuple[int, int, int, int]

# fonts of operating systems with many scripts, tried in this order where Pillow's own font lacks a character
_SYSTEM_FONTS: Final = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansArabic-Regular.ttf",
    "NotoSansHebrew-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf",
    "Arial Unicode.ttf",
    "PingFang.ttc",
    "arial.ttf",
    "msyh.ttc",
    "msgothic.ttc",
    "malgun.ttf",
    "Nirmala.ttf",
    "seguisym.ttf",
)
_NO_CHARACTER: Final = "\uffff"  # drawn as the sign for a missing character
_MOST_CHARACTERS: Final = 40
_SMALLEST_LETTERS: Final = 9


def font_for(text: str, size: int, path: str | os.PathLike[str] | None = None) -> Font:
    """Return a font that has the characters of a text.

    Args:
        text: to be drawn.
        size: in pixels.
        path: of a TrueType or OpenType font. None: Pillow's own font, which has the letters of English only; for other
            texts the first of a list of system fonts that has all characters.

    Raises:
        StorageError: `path` is no font.

    Warns:
        SSPSAMWarning: no font has all characters; they are drawn as boxes.
    """
    if path is not None:
        try:
            return ImageFont.truetype(os.path.expanduser(path), size)
        except OSError as error:
            raise StorageError(f"cannot read the font {shown(path)}: {shown(error)}") from error
    default = ImageFont.load_default(size)
    if not isinstance(default, ImageFont.FreeTypeFont):  # Pillow was built without FreeType
        raise StorageError("labels need Pillow with FreeType; pip install --force-reinstall pillow")
    if _has(default, text):
        return default
    for name in _SYSTEM_FONTS:
        try:
            font = ImageFont.truetype(name, size)
        except OSError:
            continue
        if _has(font, text):
            return font
    warn(f"no font found has all characters of {shown_repr(text)}: pass font= with the path of one that has")
    return default


def _has(font: Font, text: str) -> bool:
    """Return whether a font has all characters of a text."""
    missing = _glyph(font, _NO_CHARACTER)
    return all(_glyph(font, character) != missing for character in set(text) if not character.isspace())


def _glyph(font: Font, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character, mode="1")
    return mask.size, bytes(mask)


def short_label(text: str) -> str:
    """Return a text on one line, without control characters, and at most about 40 characters long."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= _MOST_CHARACTERS else line[: _MOST_CHARACTERS - 1].rstrip() + "…"


@dataclass
class LabelLayer:
    """Labels on an image, each beside its object and away from the earlier labels.

    Args:
        image: RGB; drawn on.
        size: of the letters in pixels.
        font: path of a font; None: see `font_for`.
        taken: rectangles of the labels so far.
    """

    image: Image.Image
    size: int
    font: str | os.PathLike[str] | None = None
    taken: list[Rectangle] = field(default_factory=list)

    def add(self, text: str, color: RGB, box: Iterable[float]) -> None:
        """Draw a label at a box: above or below it, else inside it, else elsewhere, on no other label."""
        text, font = self._fitting(text)
        left, _, right, _ = font.getbbox(text)
        place = self._free_place(round(right - left) + 2 * self._padding, round(self.size * 1.25) + self._padding, box)
        draw = ImageDraw.Draw(self.image)
        draw.rounded_rectangle(place, radius=max(2, self.size // 4), fill=color)
        top = (place[1] + place[3] - sum(font.getmetrics())) / 2
        draw.text((place[0] + self._padding - left, top), text, fill=readable_on(color), font=font)
        self.taken.append(place)

    @property
    def _padding(self) -> int:
        return max(2, self.size // 3)

    def _fitting(self, text: str) -> tuple[str, Font]:
        """Return a text and its font, with smaller letters, and then fewer, where the image is too narrow."""
        room = self.image.width - 2 * self._padding
        font = font_for(text, self.size, self.font)
        if font.getlength(text) > room:
            font = font_for(text, max(_SMALLEST_LETTERS, self.size * 2 // 3), self.font)
        while font.getlength(text) > room and len(text) > 1:
            text = text[:-2].rstrip() + "…"
        return text, font

    def _free_place(self, width: int, height: int, box: Iterable[float]) -> Rectangle:
        """Return the first rectangle of a size that lies in the image and covers no label; else the first of all."""
        x0, y0, x1, y1 = (round(side) for side in box)
        places = [
            self._inside(x, y, width, height)
            for y in (y0 - height - 1, y1 + 1, y0, y1 - height, *self._rows(height))
            for x in (x0, x1 - width)
        ]
        return next((place for place in places if not any(_overlap(place, other) for other in self.taken)), places[0])

    def _rows(self, height: int) -> range:
        """Return the upper ends of rows of labels in the whole image, from the bottom."""
        return range(self.image.height - height, 0, -height - 1)

    def _inside(self, x: int, y: int, width: int, height: int) -> Rectangle:
        x = max(0, min(x, self.image.width - width))
        y = max(0, min(y, self.image.height - height))
        return x, y, x + width - 1, y + height - 1


def _overlap(one: Rectangle, other: Rectangle) -> bool:
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]
