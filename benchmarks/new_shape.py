"""Lines about a shape and a colour that the bundled model does not know: brown crescents among drawn shapes.

`write_lines` draws images with `sspsam.shapes`, adds crescents, brown and in known colours, and brown shapes of known
kinds, and writes the images, the masks and a JSON lines file as a user would have them.
"""

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from sspsam.shapes import OUTLINES, draw_scene
from sspsam.shapes.drawing import Mask, Pixels, Rng

_SIZE: Final = (256, 341)  # height and width, pixels
_SUPERSAMPLING: Final = 4
_BROWN: Final = ((92, 58, 30), (128, 84, 50))  # RGB, from and to
_OTHERS: Final = ((205, 40, 40), (40, 70, 200), (240, 220, 50), (50, 160, 70), (245, 245, 245))
_TEXTS: Final = ("the brown crescent", "brown crescent", "a brown crescent", "the crescent that is brown")
_MIN_CONTRAST: Final = 60.0


@dataclass(frozen=True, eq=False)
class NewShapeImage:
    """An image and expressions about its crescents.

    Args:
        pixels: (h, w, 3) uint8 RGB.
        questions: (expression, (h, w) bool mask) pairs; an empty mask where the image shows no such thing.
    """

    pixels: Pixels
    questions: list[tuple[str, Mask]]


def draw_image(seed: int) -> NewShapeImage:
    """Draw an image with distractors and mostly a brown crescent.

    The distractors are one to four shapes that the model knows, in a quarter of the images a crescent of another
    colour, and in three of ten a brown shape of a known kind. In 15 % there is no brown crescent.
    """
    rng = np.random.default_rng([7, seed])
    pixels = draw_scene(int(rng.integers(1 << 30)), _SIZE, int(rng.integers(1, 5))).pixels
    canvas = Image.fromarray(pixels)
    taken: list[Mask] = []
    brown = _add(rng, canvas, taken, "crescent", True) if rng.random() < 0.85 else None
    if rng.random() < 0.25:
        _add(rng, canvas, taken, "crescent", False)
    if rng.random() < 0.3:
        _add(rng, canvas, taken, str(rng.choice(list(OUTLINES))), True)
    mask = np.zeros(_SIZE, np.bool_) if brown is None else brown
    return NewShapeImage(np.asarray(canvas).copy(), [(str(rng.choice(_TEXTS)), mask)])


def images(count: int, first_seed: int) -> Iterator[NewShapeImage]:
    """Yield so many images."""
    for seed in range(first_seed, first_seed + count):
        yield draw_image(seed)


def write_lines(folder: Path, lines: int, first_seed: int = 0, corrupted: float = 0.0) -> Path:
    """Write images, masks and `lines.jsonl`, and return the path of the file.

    Args:
        folder: created if it does not exist.
        lines: number of lines.
        first_seed: of the images.
        corrupted: share of the lines whose mask is that of another image.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([8, first_seed])
    written: list[str] = []
    masks: list[Mask] = []
    seed = first_seed
    while len(written) < lines:
        image = draw_image(seed)
        name = f"{seed}.png"
        Image.fromarray(image.pixels).save(folder / name)
        for text, mask in image.questions[: lines - len(written)]:
            masks.append(mask)
            if rng.random() < corrupted:
                mask = (
                    masks[int(rng.integers(len(masks)))]
                    if len(masks) < 20
                    else masks[int(rng.integers(len(masks) - 10))]
                )
            line: dict[str, str | None] = {"image": name, "text": text, "mask": None}
            if mask.any():
                line["mask"] = f"{seed}-{len(written)}.mask.png"
                Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(folder / str(line["mask"]))
            written.append(json.dumps(line))
        seed += 1
    path = folder / "lines.jsonl"
    path.write_text("\n".join(written) + "\n")
    return path


def _add(rng: Rng, canvas: Image.Image, taken: list[Mask], kind: str, brown: bool) -> Mask | None:
    """Draw a shape that overlaps none of the added shapes, and return its mask; None if there is no room."""
    for _ in range(40):
        radius = rng.uniform(0.11, 0.19) * min(canvas.size)
        center = rng.uniform(radius, canvas.width - radius), rng.uniform(radius, canvas.height - radius)
        alpha = _coverage(rng, canvas.size, kind, center, radius)
        mask = alpha > 127
        shade = _shade(rng, brown)
        behind = np.asarray(canvas)[mask].astype(float)
        contrast = np.percentile(np.linalg.norm(behind - shade, axis=1), 10)
        if contrast > _MIN_CONTRAST and not any((mask & other).any() for other in taken):
            canvas.paste(shade, (0, 0), Image.fromarray(alpha))
            taken.append(mask)
            return mask
    return None


def _coverage(
    rng: Rng, size: tuple[int, int], kind: str, center: tuple[float, float], radius: float
) -> NDArray[np.uint8]:
    """Coverage of each pixel of an image, given by width and height, by a turned shape, 0 to 255."""
    turn = math.radians(rng.uniform(-14, 14))  # as the shapes of the drawn world
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    points = _crescent(rng.uniform(0.55, 0.85)) if kind == "crescent" else OUTLINES[kind](rng.uniform(-1, 1))
    points = (points @ rotation.T * radius + center) * _SUPERSAMPLING
    large = Image.new("L", (size[0] * _SUPERSAMPLING, size[1] * _SUPERSAMPLING))
    ImageDraw.Draw(large).polygon([tuple(point) for point in points.tolist()], fill=255)
    return np.asarray(large.reduce(_SUPERSAMPLING))


def _crescent(shift: float) -> NDArray[np.float64]:
    """A unit circle without the circle that is moved to the right by `shift`, as one polygon."""
    half = math.acos(shift / 2)  # angle of the points in which both circles meet
    outer = np.linspace(half, 2 * math.pi - half, 60)
    inner = np.linspace(math.pi + (math.pi - half) - math.pi, math.pi + half, 60)[::-1]
    bite = np.stack([np.cos(inner) + shift, np.sin(inner)], axis=1)
    bite = bite[bite[:, 0] <= shift / 2 + 1e-9]
    return np.concatenate([np.stack([np.cos(outer), np.sin(outer)], axis=1), bite])


def _shade(rng: Rng, brown: bool) -> tuple[int, int, int]:
    low, high = np.array(_BROWN)
    color = (
        rng.uniform(low, high) if brown else np.array(_OTHERS[int(rng.integers(len(_OTHERS)))]) + rng.uniform(-8, 8, 3)
    )
    red, green, blue = (int(channel) for channel in color.clip(0, 255))
    return red, green, blue


def main() -> None:
    """Parse the command line and write the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lines", type=int, default=240)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--corrupted", type=float, default=0.0, help="share of the lines with a wrong mask")
    arguments = parser.parse_args()
    print(write_lines(arguments.folder, arguments.lines, arguments.first_seed, arguments.corrupted))


if __name__ == "__main__":
    main()
