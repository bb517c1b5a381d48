"""Colours of users as RGB, and a palette that people with any colour vision can tell apart."""

import operator
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import ImageColor

from sspsam.utils.paths import shown_repr

RGB = tuple[int, int, int]
Color = str | Sequence[int] | NDArray[np.integer]
"""A name of CSS such as `"orange"`, a hexadecimal colour such as `"#e69f00"`, or three whole numbers from 0 to 255."""

# Okabe and Ito, "Color Universal Design" (2008), without black; in this order neighbours differ most for every vision
PALETTE: Final[tuple[RGB, ...]] = (
    (86, 180, 233),  # sky blue
    (213, 94, 0),  # vermilion
    (0, 114, 178),  # blue
    (230, 159, 0),  # orange
    (0, 158, 115),  # bluish green
    (240, 228, 66),  # yellow
    (204, 121, 167),  # reddish purple
)
_BLACK: Final[RGB] = (0, 0, 0)
_WHITE: Final[RGB] = (255, 255, 255)


def rgb(color: Color, name: str = "color") -> RGB:
    """Return a colour as three whole numbers from 0 to 255.

    Args:
        color: see `Color`.
        name: of the argument, for the error.

    Raises:
        ValueError: no colour.
    """
    values: Sequence[object] | NDArray[np.integer] = ()
    if isinstance(color, str):
        values = named_rgb(color) or ()
    elif isinstance(color, Sequence | np.ndarray):
        values = color
    try:
        red, green, blue = (-1 if isinstance(channel, bool) else operator.index(channel) for channel in values)  # type: ignore[arg-type]  # anything else raises TypeError
    except (TypeError, ValueError):
        red = green = blue = -1  # not three whole numbers
    if not all(0 <= channel <= 255 for channel in (red, green, blue)):
        raise ValueError(
            f'{name} must be RGB from 0 to 255 such as (230, 159, 0), a name such as "orange" or a hexadecimal colour '
            f'such as "#e69f00", not {shown_repr(color)}'
        )
    return red, green, blue


def named_rgb(text: str) -> RGB | None:
    """Return the colour of a CSS name or a hexadecimal text; None if the text is neither."""
    try:
        red, green, blue = ImageColor.getrgb(text.strip())[:3]
    except ValueError:
        return None
    return int(red), int(green), int(blue)


def palette(count: int, colors: Sequence[Color] | None = None) -> list[RGB]:
    """Return `count` colours: the given ones, or those of the palette; after the last one, the first follows again.

    Raises:
        ValueError: no colours are given, or one of them is none.
    """
    if colors is None:
        chosen: Sequence[RGB] = PALETTE
    elif isinstance(colors, str) or not len(colors):
        raise ValueError(f'colors must be a list of colours such as ["orange", "#0072b2"], not {shown_repr(colors)}')
    else:
        chosen = [rgb(color, f"colors[{index}]") for index, color in enumerate(colors)]
    return [chosen[index % len(chosen)] for index in range(count)]


def readable_on(color: RGB) -> RGB:
    """Return black or white, whichever contrasts more with a colour (relative luminance of WCAG 2)."""
    linear = [
        channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4
        for channel in (value / 255 for value in color)
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return _BLACK if luminance > 0.179 else _WHITE
