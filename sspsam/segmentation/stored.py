"""The values of a `Segmentation` from the dictionary of `to_dict`, checked, and its mask from packed bits."""

import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from sspsam.errors import ResultError
from sspsam.images.pixel_limits import LARGER_LIMIT, limit_wording
from sspsam.messages import OptionMessage
from sspsam.segmentation.explanation import Explanation
from sspsam.segmentation.rle import rle_decode, rle_runs
from sspsam.segmentation.runs import Runs
from sspsam.utils.arrays import Mask
from sspsam.utils.paths import shown_repr

VERSIONS: Final = (1, 2)
_DAMAGE: Final = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, RecursionError)
# a character that compressed counts never have, or more continuation characters than any length of a run needs
_NO_COUNTS: Final = re.compile("[^0-o]|[P-o]{13}|[P-o]$")
_ROUNDING: Final = 1e-6
_T = TypeVar("_T")


def stored_values(content: Mapping[str, Any], max_pixels: int) -> dict[str, Any]:
    """Return the arguments of `Segmentation` that a dictionary of `to_dict` describes; other entries are ignored.

    Args:
        content: of version 1 or 2.
        max_pixels: largest width times height.

    Raises:
        ResultError: an entry is missing or wrong; the message names it.
    """
    if not isinstance(content, Mapping):
        raise ResultError(f"a stored answer is a dictionary as of to_dict(), not {type(content).__name__}")
    version = content.get("version")
    if isinstance(version, bool) or not isinstance(version, int | np.integer) or version not in VERSIONS:
        raise ResultError(f"the stored answer has version {shown_repr(version)}; this sspsam reads versions 1 and 2")
    height, width = (_entry(content, name, _positive) for name in ("height", "width"))
    if height * width > max_pixels:
        raise ResultError(
            OptionMessage(
                f"the stored answer is about an image of {shown_repr(width)} x {shown_repr(height)} pixels, more than ",
                limit_wording(max_pixels),
                ". If you trust it, ",
                LARGER_LIMIT,
                ".",
            )
        )
    mask = _entry(content, "mask", lambda rle: _mask(rle, height, width))
    no_target = _entry(content, "no_target", _boolean)
    if no_target and mask.any():
        raise ResultError("the stored answer says no_target, but its mask is not empty")
    runs = Runs.of(mask)
    return {
        "text": _entry(content, "text", _text),
        "mask": mask,
        "no_target": no_target,
        "foreground_pixels": _entry(content, "foreground_pixels", _natural),
        "score": _entry(content, "score", _real),
        "box": _entry(content, "box", _four_numbers),
        "mask_box": runs.box() if len(runs.rows) else None,
        "explanation": _entry({"explanation": None, **content}, "explanation", _explanation),
        "text_truncated": None if version == 1 else _entry(content, "text_truncated", _optional_text),
        "presence": _entry({"presence": None, **content}, "presence", _optional_probability),
    }


def packed_mask(mask: Mask) -> bytes:
    """Return an (h, w) mask as compressed bits: at most an eighth of a byte per pixel, and a few bytes more."""
    return zlib.compress(np.packbits(mask).tobytes(), 1)


def unpacked_mask(packed: bytes, shape: tuple[int, int]) -> Mask:
    """Return the mask of `packed_mask`."""
    bits = np.unpackbits(np.frombuffer(zlib.decompress(packed), np.uint8), count=shape[0] * shape[1])
    return bits.view(np.bool_).reshape(shape)


def _entry(content: Mapping[str, Any], name: str, read: Callable[[Any], _T]) -> _T:
    """Return an entry as `read` returns it; name the entry in the error if `read` fails."""
    if name not in content:
        raise ResultError(f"the stored answer has no entry {name!r}")
    try:
        return read(content[name])
    except _DAMAGE as error:
        raise ResultError(f"entry {name!r} of the stored answer is damaged: {shown_repr(content[name])}") from error


def _natural(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise ValueError
    return int(value)


def _positive(value: Any) -> int:
    number = _natural(value)
    if number == 0:
        raise ValueError
    return number


def _real(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not np.isfinite(value):
        raise ValueError
    return float(value)


def _optional_probability(value: Any) -> float | None:
    if value is None or (isinstance(value, float) and np.isnan(value)):  # NaN: in a table of pandas
        return None
    number = _real(value)
    if not 0 <= number <= 1:
        raise ValueError
    return number


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError
    return bool(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _optional_text(value: Any) -> str | None:
    missing = value is None or (isinstance(value, float) and np.isnan(value))  # NaN: in a table of pandas
    return None if missing else _text(value)


def _four_numbers(value: Any) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = map(_real, value)
    return x0, y0, x1, y1


def _mask(rle: Any, height: int, width: int) -> Mask:
    counts = rle["counts"].decode("ascii") if isinstance(rle["counts"], bytes) else _text(rle["counts"])
    if _NO_COUNTS.search(counts):
        raise ValueError
    runs = rle_runs(counts)
    if list(rle["size"]) != [height, width] or min(runs, default=0) < 0 or sum(runs) != height * width:
        raise ValueError
    return rle_decode({"size": [height, width], "counts": counts})


def _explanation(value: Any) -> Explanation | None:
    if value is None:
        return None
    similarity, verification = (_array(value[name], 2) for name in ("similarity", "verification"))
    if similarity.shape != verification.shape or len(similarity) != similarity.shape[1]:
        raise ValueError
    words = tuple((_text(word), _real(weight)) for word, weight in value["words"])
    area = value.get("area")
    return Explanation(
        similarity=similarity,
        word_attention=_array(value["word_attention"], 1),
        words=words,
        verification=verification,
        area=None if area is None else _area(area),
    )


def _area(value: Any) -> tuple[float, float, float, float]:
    """Return a part of a square with the side 1; its sides may exceed the square by rounding."""
    x0, y0, x1, y1 = _four_numbers(value)
    if not (-_ROUNDING <= x0 < x1 <= 1 + _ROUNDING and -_ROUNDING <= y0 < y1 <= 1 + _ROUNDING):
        raise ValueError
    return x0, y0, x1, y1


def _array(value: Any, dimensions: int) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        array = np.array(value, dtype=np.float32)
    if array.ndim != dimensions or not np.isfinite(array).all():
        raise ValueError
    return array
