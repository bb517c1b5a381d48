"""The mask of one line of predictions: run lengths in the line, or a mask file that it names."""

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sspsam.errors import EvaluationError
from sspsam.evaluation.datasets.masks import holds_finite_numbers
from sspsam.segmentation.rle import rle_runs
from sspsam.utils.arrays import HeightWidth, Mask
from sspsam.utils.paths import shown

_GREY_MODES: Final = ("1", "L", "P", "I", "I;16")
_DAMAGE: Final = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError)


def decoded_mask(value: Any, size: HeightWidth, folder: Path, where: str) -> Mask:
    """Return the (h, w) mask of an entry `rle` or `mask`.

    Args:
        value: None: an empty mask; an object: COCO's run lengths, compressed or a list of counts; a text: a mask file.
        size: height and width of the image.
        folder: to which a relative path refers.
        where: file and line, for errors.

    Raises:
        EvaluationError: the mask is damaged, of another size than the image, or its file cannot be used.
    """
    if value is None:
        return np.zeros(size, np.bool_)
    if isinstance(value, dict):
        return _from_runs(value, size, where)
    if isinstance(value, str):
        return _from_file(folder / value, size, where)
    raise EvaluationError(f"{where}: a mask is run lengths, the name of a file or null, not {type(value).__name__}")


def _from_runs(rle: dict[str, Any], size: HeightWidth, where: str) -> Mask:
    try:
        claimed, counts = tuple(rle["size"]), rle["counts"]
        runs = rle_runs(counts) if isinstance(counts, str) else list(counts)
        whole = all(type(run) is int and run >= 0 for run in runs)
        possible = whole and sum(runs) == size[0] * size[1]
    except _DAMAGE:
        raise EvaluationError(
            f"{where}: the run lengths are damaged; an object with size [height, width] and counts is needed"
        ) from None
    if claimed != size:
        raise EvaluationError(f"{where}: the mask has size {list(claimed)}, its image {list(size)} (height, width)")
    if not possible:
        raise EvaluationError(f"{where}: the run lengths do not fill {size[0]} x {size[1]} pixels")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size, order="F")


def _from_file(path: Path, size: HeightWidth, where: str) -> Mask:
    """Read a grey image, 0 background and every other value foreground, or an (h, w) NumPy array."""
    what = f"{where}: the mask file {shown(path)}"
    try:
        values = np.load(path, allow_pickle=False) if path.suffix == ".npy" else _grey_values(path, size, what)
    except (OSError, ValueError, EOFError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, EvaluationError):
            raise
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error}"
        raise EvaluationError(f"{what} {reason}") from error
    if values.shape != size:
        raise EvaluationError(f"{what} has shape {list(values.shape)}, its image {list(size)} (height, width)")
    if not holds_finite_numbers(values):
        raise EvaluationError(f"{what} must hold finite numbers: 0 background, every other value foreground")
    return np.asarray(values != 0)


def _grey_values(path: Path, size: HeightWidth, what: str) -> NDArray[Any]:
    with Image.open(path) as image:
        if image.mode not in _GREY_MODES:
            raise EvaluationError(f"{what} has mode {image.mode}; save one channel: 0 background, 255 foreground")
        if image.size != size[::-1]:
            raise EvaluationError(
                f"{what} has {image.height} x {image.width} pixels, its image {size[0]} x {size[1]} (height x width)"
            )
        return np.asarray(image)
