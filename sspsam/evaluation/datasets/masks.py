"""Ground-truth masks from annotations: COCO polygons and run lengths, drawn polygons, and mask files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from sspsam.errors import DatasetError
from sspsam.evaluation.datasets.checks import checked_coordinate, checked_list, checked_object, checked_size, member
from sspsam.images.loading import pillow_pixel_limit
from sspsam.segmentation.rle import rle_runs
from sspsam.utils.arrays import FloatBox, HeightWidth, Mask
from sspsam.utils.installing import missing_extra
from sspsam.utils.paths import shown

_GREY_MODES = ("1", "L", "P", "I", "I;16")


@dataclass(frozen=True)
class COCOMask:
    """Union of COCO segmentations, decoded by pycocotools.

    Args:
        segmentations: one for each object: a list of polygons, a list of run-length encodings, or one encoding.
        where: file and entry, for errors.
    """

    segmentations: tuple[Any, ...]
    where: str

    def decode(self, size: HeightWidth) -> Mask:
        """Return the (h, w) mask: the union of all parts of all objects."""
        mask = np.zeros(size, np.bool_)
        for segmentation in self.segmentations:
            mask |= _decoded(segmentation, size, self.where)
        return mask


@dataclass(frozen=True)
class DrawnMask:
    """Union of polygons as PhraseCut's authors draw them: corners cut to integers, outline and inside.

    Args:
        polygons: lists of (x, y) corners; those with fewer than two corners are left out.
        where: file and entry, for errors.
    """

    polygons: tuple[Any, ...]
    where: str

    def decode(self, size: HeightWidth) -> Mask:
        """Return the (h, w) mask."""
        height, width = size
        image = Image.new("L", (width, height), 0)
        draw = ImageDraw.Draw(image)
        for polygon in self.polygons:
            if len(polygon) >= 2:
                draw.polygon([(int(x), int(y)) for x, y in polygon], outline=1, fill=1)
        return np.asarray(image) > 0


@dataclass(frozen=True)
class MaskFile:
    """Grey image of the size of the image; 0 is background, every other value target.

    Args:
        path: of the mask.
        where: file and entry, for errors.
    """

    path: Path
    where: str

    def decode(self, size: HeightWidth) -> Mask:
        """Return the (h, w) mask."""
        return _of_size(_grey_values(self.path, self.where) != 0, size, f"{self.where}: the mask {shown(self.path)}")


@dataclass(frozen=True)
class ArrayFile:
    """NumPy file (`.npy`) of an (h, w) array; 0 is background, every other value target.

    Args:
        path: of the array.
        where: file and entry, for errors.
    """

    path: Path
    where: str

    def decode(self, size: HeightWidth) -> Mask:
        """Return the (h, w) mask."""
        try:
            array = np.load(self.path, allow_pickle=False)
            if not holds_finite_numbers(array):
                raise ValueError("it must hold finite numbers")
            mask = np.asarray(array != 0)
        except (OSError, ValueError, EOFError, TypeError) as error:
            raise DatasetError(f"{self.where}: the mask {shown(self.path)} cannot be read: {shown(error)}") from error
        return _of_size(mask, size, f"{self.where}: the mask {shown(self.path)}")


def holds_finite_numbers(array: NDArray[Any]) -> bool:
    """Return whether an array holds numbers, none of which is infinite or NaN, which would count as foreground."""
    return array.dtype.kind in "biu" or (array.dtype.kind == "f" and bool(np.isfinite(array).all()))


def coco_tools() -> Any:
    """Import `pycocotools.mask`.

    Raises:
        MissingExtraError: it is not installed; the message names the extra.
    """
    try:
        import pycocotools.mask
    except ImportError as error:
        raise missing_extra("this data set", "pycocotools", "eval", error) from error
    return pycocotools.mask


def check_segmentation(value: Any, size: HeightWidth, where: str) -> None:
    """Check a COCO segmentation on an image of `size` without decoding it.

    Args:
        value: a list of polygons [x, y, x, y, ...], a list of run-length encodings, or one encoding.
        size: height and width of the image.
        where: file and entry, for errors.

    Raises:
        DatasetError: it is malformed, or an encoding is of another size.
    """
    parts = [value] if isinstance(value, dict) else checked_list(value, where)
    if not parts:
        raise DatasetError(f"{where} is empty")
    if len({type(part) for part in parts}) > 1:
        raise DatasetError(f"{where} mixes polygons and run-length encodings")
    for index, part in enumerate(parts):
        place = f"{where}, part {index}"
        if isinstance(part, dict):
            _check_rle(part, size, place)
        else:
            _check_polygon(part, place)
    if isinstance(parts[0], list) and len(parts[0]) == 4 and any(len(part) != 4 for part in parts):
        raise DatasetError(f"{where}: a first part of 4 numbers is a box, and then all parts must be boxes")


def rle_size(rle: Any, where: str) -> HeightWidth:
    """Return the checked height and width of a run-length encoding."""
    sides = member(checked_object(rle, where), "size", checked_list, where)
    if len(sides) != 2:
        raise DatasetError(f"{where}: 'size' must be height and width, not {len(sides)} numbers")
    return checked_size(sides[0], sides[1], f"{where}: 'size'")


def rle_hull(encodings: Sequence[dict[str, Any]], size: HeightWidth, where: str) -> FloatBox | None:
    """Return the smallest box around all masks, x0, y0, x1, y1 in pixels; None if all are empty.

    Args:
        encodings: checked by `check_segmentation`.
        size: height and width of the image.
        where: file and entry, for errors.

    Raises:
        DatasetError: an encoding is damaged.
    """
    tools, boxes = coco_tools(), []
    for index, encoding in enumerate(encodings):
        try:
            boxes.append(tools.toBbox(_compressed(encoding, size, tools)))
        except Exception as error:  # pycocotools raises plain `Exception` and whatever C code gives
            raise DatasetError(f"{where}: mask {index} cannot be decoded: {shown(error)}") from error
    corners = [(x, y, x + width, y + height) for x, y, width, height in boxes if width > 0 and height > 0]
    if not corners:
        return None
    x0, y0, x1, y1 = zip(*corners, strict=True)
    return float(min(x0)), float(min(y0)), float(max(x1)), float(max(y1))


def _check_rle(rle: dict[str, Any], size: HeightWidth, where: str) -> None:
    if rle_size(rle, where) != size:
        raise DatasetError(f"{where} is of size {rle['size']}, but the image of size {list(size)} (height, width)")
    if not isinstance(rle.get("counts"), str | list):
        raise DatasetError(f"{where} must have 'counts', a string or a list of run lengths")


def _check_polygon(polygon: Any, where: str) -> None:
    numbers = checked_list(polygon, where)
    if len(numbers) < 4 or len(numbers) % 2:
        raise DatasetError(f"{where} must have an even count of numbers, at least 4, not {len(numbers)}")
    for number in numbers:
        checked_coordinate(number, where)


def _decoded(segmentation: Any, size: HeightWidth, where: str) -> Mask:
    """Decode one object: all parts, (h, w, parts) -> (h, w)."""
    parts = [segmentation] if isinstance(segmentation, dict) else segmentation
    tools = coco_tools()
    try:
        if isinstance(parts[0], dict):
            encodings = [_compressed(part, size, tools) for part in parts]
        else:
            encodings = tools.frPyObjects(parts, *size)
        parts_of_mask: NDArray[np.uint8] = tools.decode(encodings)  # (h, w, parts)
        return np.asarray(parts_of_mask.any(axis=2), np.bool_)
    except Exception as error:  # pycocotools raises plain `Exception` and whatever C code gives
        raise DatasetError(f"{where}: the segmentation cannot be decoded: {shown(error)}") from error


def _compressed(rle: dict[str, Any], size: HeightWidth, tools: Any) -> dict[str, Any]:
    """Return an encoding that is safe to decode: pycocotools writes beyond the mask where runs are too long."""
    counts = rle["counts"]
    try:
        runs = rle_runs(counts) if isinstance(counts, str) else [int(run) for run in counts]
    except IndexError:
        raise ValueError("its run lengths are cut off") from None
    if min(runs, default=0) < 0:
        raise ValueError("a run length is negative")
    if sum(runs) != size[0] * size[1]:
        raise ValueError(f"its run lengths give {sum(runs):,} pixels, not the {size[0] * size[1]:,} of the image")
    if isinstance(counts, str):
        return {"size": list(size), "counts": counts}
    return tools.frPyObjects({"size": list(size), "counts": runs}, *size)  # type: ignore[no-any-return]


def _grey_values(path: Path, where: str) -> Any:
    try:
        with pillow_pixel_limit(), Image.open(path) as image:
            if image.mode not in _GREY_MODES:
                raise DatasetError(f"{where}: the mask {shown(path)} must be a grey image, not {image.mode}")
            return np.asarray(image)
    except DatasetError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{where}: the mask {shown(path)} cannot be read: {shown(error)}") from error


def _of_size(mask: Mask, size: HeightWidth, what: str) -> Mask:
    if mask.shape != size:
        raise DatasetError(f"{what} is of size {list(mask.shape)}, but the image of size {list(size)} (height, width)")
    return mask
