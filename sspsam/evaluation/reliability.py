"""Reliability diagram: the share of expressions with a target against the predicted probability, bin by bin."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from sspsam.evaluation.presence import CALIBRATION_BINS, auroc, calibration_bins, expected_calibration_error
from sspsam.evaluation.records import Record, columns_of
from sspsam.segmentation.colors import RGB
from sspsam.segmentation.labels import font_for
from sspsam.segmentation.rasters import png_bytes
from sspsam.utils.files import replace_file

RELIABILITY_NAME: Final = "reliability.png"
_SIZE: Final = (720, 860)
_LEFT, _RIGHT = 92, 36  # margins of the panels
_TOP, _SIDE = 92, 592  # of the upper panel, which is square
_COUNTS_TOP, _COUNTS_HEIGHT = 716, 76  # of the lower panel
_TITLE, _TEXT, _SMALL = 20, 15, 13  # sizes of letters in pixels
_DEVIATIONS: Final = 1.96  # of a 95 % interval


@dataclass(frozen=True)
class _Theme:
    background: RGB
    text: RGB
    faint: RGB  # grid lines
    line: RGB  # of perfect calibration
    bar: RGB
    point: RGB


_LIGHT: Final = _Theme((255, 255, 255), (28, 28, 30), (226, 226, 230), (120, 120, 128), (150, 190, 220), (0, 94, 150))
_DARK: Final = _Theme((24, 24, 27), (236, 236, 240), (58, 58, 64), (150, 150, 158), (44, 92, 130), (110, 196, 245))


def write_reliability_diagram(records: Iterable[Record], path: Path) -> bool:
    """Write the diagram of records as PNG where every record has a probability; return whether it was written.

    Raises:
        StorageError: the file cannot be written.
    """
    columns = columns_of(records)
    if not len(columns.presence) or np.isnan(columns.presence).any():
        return False
    replace_file(path, png_bytes(reliability_diagram(~columns.no_target, columns.presence)))
    return True


def reliability_diagram(
    present: NDArray[np.bool_], probability: NDArray[np.float64], *, dark: bool = False
) -> Image.Image:
    """Draw the diagram.

    Args:
        present: (n,), the truth; n is at least 1.
        probability: (n,), 0 to 1.
        dark: whether the background is dark instead of white.

    Returns:
        An RGB image.
    """
    theme = _DARK if dark else _LIGHT
    canvas = Image.new("RGB", _SIZE, theme.background)
    pen = ImageDraw.Draw(canvas)
    counts, predicted, observed = calibration_bins(present, probability)
    _write(pen, (_LEFT, 14), "Reliability of the probability of presence", _TITLE, theme.text)
    area = auroc(present, probability)
    quality = f"{len(present):,} expressions, ECE {expected_calibration_error(present, probability):.4f}"
    quality += "" if area is None else f", AUROC {area:.4f}"
    _write(pen, (_LEFT, 42), quality, _TEXT, theme.text)
    _draw_grid(pen, theme)
    occupied = [place for place, count in enumerate(counts.tolist()) if count]
    for place in occupied:
        _draw_bar(pen, place, float(observed[place]), theme)
    pen.line((_x(0), _y(0), _x(1), _y(1)), fill=theme.line, width=2)
    for place in occupied:
        _draw_point(pen, int(counts[place]), float(predicted[place]), float(observed[place]), theme)
    _draw_counts(pen, counts, theme)
    return canvas


def _x(value: float) -> float:
    return _LEFT + value * _SIDE


def _y(value: float) -> float:
    return _TOP + (1 - value) * _SIDE


def _draw_grid(pen: ImageDraw.ImageDraw, theme: _Theme) -> None:
    for step in range(6):
        value = step / 5
        pen.line((_x(0), _y(value), _x(1), _y(value)), fill=theme.faint)
        pen.line((_x(value), _y(0), _x(value), _y(1)), fill=theme.faint)
        _write(pen, (_LEFT - 10, round(_y(value))), f"{value:.1f}", _SMALL, theme.text, "rm")
        _write(pen, (round(_x(value)), _COUNTS_TOP + _COUNTS_HEIGHT + 8), f"{value:.1f}", _SMALL, theme.text, "ma")
    _write(pen, (_LEFT, _TOP - 8), "share with a target", _SMALL, theme.text, "ls")
    bottom = _COUNTS_TOP + _COUNTS_HEIGHT + 30
    _write(pen, (_LEFT + _SIDE // 2, bottom), "predicted probability of presence", _TEXT, theme.text, "ma")


def _draw_bar(pen: ImageDraw.ImageDraw, place: int, observed: float, theme: _Theme) -> None:
    left, right = _x(place / CALIBRATION_BINS) + 2, _x((place + 1) / CALIBRATION_BINS) - 2
    pen.rectangle((left, min(_y(observed), _y(0) - 1), right, _y(0)), fill=theme.bar)


def _draw_point(pen: ImageDraw.ImageDraw, count: int, predicted: float, observed: float, theme: _Theme) -> None:
    """Draw the share of a bin at its mean probability, with a 95 % interval."""
    low, high = wilson_interval(observed, count)
    pen.line((_x(predicted), _y(low), _x(predicted), _y(high)), fill=theme.point, width=2)
    for end in (low, high):
        pen.line((_x(predicted) - 5, _y(end), _x(predicted) + 5, _y(end)), fill=theme.point, width=2)
    x, y = _x(predicted), _y(observed)
    pen.ellipse((x - 5, y - 5, x + 5, y + 5), fill=theme.point, outline=theme.background)


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share of `count` trials."""
    squared = _DEVIATIONS**2 / count
    centre = (share + squared / 2) / (1 + squared)
    half = math.sqrt(share * (1 - share) * squared + squared**2 / 4) / (1 + squared)
    return max(0.0, centre - half), min(1.0, centre + half)


def _draw_counts(pen: ImageDraw.ImageDraw, counts: NDArray[np.int64], theme: _Theme) -> None:
    """Draw the number of expressions in each bin on a logarithmic scale."""
    bottom, largest = _COUNTS_TOP + _COUNTS_HEIGHT, math.log1p(int(counts.max()))
    pen.line((_x(0), bottom, _x(1), bottom), fill=theme.line)
    for place, count in enumerate(counts.tolist()):
        left, right = _x(place / CALIBRATION_BINS) + 2, _x((place + 1) / CALIBRATION_BINS) - 2
        height = round((_COUNTS_HEIGHT - 20) * math.log1p(count) / largest)
        if count:
            pen.rectangle((left, bottom - height, right, bottom - 1), fill=theme.bar)
            middle = round((left + right) / 2)
            _write(pen, (middle, bottom - height - 3), _short(count), _SMALL - 2, theme.text, "ms")
    _write(pen, (_LEFT - 10, bottom - 4), "count", _SMALL, theme.text, "rs")
    _write(pen, (_LEFT - 10, bottom - 22), "(log scale)", _SMALL - 2, theme.text, "rs")


def _short(count: int) -> str:
    """Return a count in at most five characters."""
    if count < 10_000:
        return str(count)
    return f"{count / 1e3:.0f}k" if count < 1_000_000 else f"{count / 1e6:.1f}M"


def _write(
    pen: ImageDraw.ImageDraw, place: tuple[int, int], text: str, size: int, color: RGB, anchor: str = "la"
) -> None:
    pen.text(place, text, fill=color, font=font_for(text, size), anchor=anchor)
