"""An image of the log: the loss, and the scores of each evaluation, by step."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageDraw, ImageFont

from sspsam.utils.files import replace_file

Point = tuple[float, float]
Color = tuple[int, int, int]
_SIZE: Final = (960, 760)  # width and height, pixels
_LEFT, _RIGHT, _TOP, _GAP, _BOTTOM = 70, 940, 46, 90, 700
_INK: Final = (40, 40, 40)
_GRID: Final = (224, 224, 224)
# colours of Okabe and Ito, distinguishable with any kind of colour vision
_LOSS_COLORS: Final[Mapping[str, Color]] = {
    "loss": (0, 0, 0),
    "dice": (0, 114, 178),
    "focal": (230, 159, 0),
    "l1": (0, 158, 115),
    "giou": (213, 94, 0),
}
_SCORES: Final[Sequence[tuple[str, str, str, Color]]] = (  # label, part, metric, colour
    ("held-out mIoU", "held_out", "mIoU", (0, 114, 178)),
    ("held-out N-acc", "held_out", "N-acc", (86, 180, 233)),
    ("known mIoU", "known", "mIoU", (0, 158, 115)),
    ("known N-acc", "known", "N-acc", (230, 159, 0)),
    ("foreign N-acc", "foreign", "N-acc", (213, 94, 0)),
)


def save_curves(path: Path, log: Sequence[Mapping[str, Any]], before: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw the losses and the scores of a training as a PNG file.

    Args:
        path: of the image.
        log: lines of `log.jsonl`.
        before: metrics before the first step.
    """
    losses = {name: [(float(line["step"]), float(line[name])) for line in log if name in line] for name in _LOSS_COLORS}
    evaluations = [{"step": 0, **before}, *(line for line in log if "score" in line)]
    scores = {}
    for label, part, metric, _ in _SCORES:
        numbers = [(line["step"], (line.get(part) or {}).get(metric)) for line in evaluations]
        scores[label] = [(float(step), float(value)) for step, value in numbers if value is not None]
    image = Image.new("RGB", _SIZE, "white")
    draw = ImageDraw.Draw(image)
    middle = (_TOP + _BOTTOM) // 2
    steps = max([float(line["step"]) for line in log], default=1.0)
    largest = max([value for points in losses.values() for _, value in points], default=1.0)
    _panel(draw, "loss", (_TOP, middle - _GAP // 2), steps, 1.05 * max(largest, 1e-6), losses, _LOSS_COLORS)
    colors = {label: color for label, _, _, color in _SCORES}
    _panel(draw, "scores on data that never trains", (middle + _GAP // 2, _BOTTOM), steps, 1.0, scores, colors)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    replace_file(path, buffer.getvalue())


def _panel(
    draw: ImageDraw.ImageDraw,
    title: str,
    rows: tuple[int, int],
    steps: float,
    largest: float,
    curves: Mapping[str, Sequence[Point]],
    colors: Mapping[str, Color],
) -> None:
    """Draw one diagram between two rows, with a grid, its curves and a legend above them."""
    top, bottom = rows
    font = ImageFont.load_default(14)

    def place(point: Point) -> Point:
        x = _LEFT + (_RIGHT - _LEFT) * point[0] / max(steps, 1.0)
        return x, bottom - (bottom - top) * min(point[1], largest) / largest

    for index in range(6):
        value, step = largest * index / 5, steps * index / 5
        y, x = place((0, value))[1], place((step, 0))[0]
        draw.line([(_LEFT, y), (_RIGHT, y)], fill=_GRID)
        draw.text((_LEFT - 8, y), f"{value:.2g}", fill=_INK, font=font, anchor="rm")
        draw.line([(x, bottom), (x, bottom + 4)], fill=_INK)
        draw.text((x, bottom + 8), f"{step:,.0f}", fill=_INK, font=font, anchor="mt")
    draw.line([(_LEFT, top), (_LEFT, bottom), (_RIGHT, bottom)], fill=_INK)
    draw.text((_RIGHT, bottom + 24), "step", fill=_INK, font=font, anchor="rt")
    draw.text((_LEFT, top - 36), title, fill=_INK, font=font)
    x = float(_RIGHT)
    for name in reversed([name for name in curves if curves[name]]):
        x -= draw.textlength(name, font=font) + 38
        draw.line([(x, top - 12), (x + 22, top - 12)], fill=colors[name], width=3)
        draw.text((x + 27, top - 12), name, fill=_INK, font=font, anchor="lm")
        points = [place(point) for point in curves[name]]
        draw.line(points, fill=colors[name], width=2, joint="curve")
        if len(points) <= 40:
            for px, py in points:
                draw.ellipse([px - 2.5, py - 2.5, px + 2.5, py + 2.5], fill=colors[name])
