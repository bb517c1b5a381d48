"""Every mode of Pillow -> 8-bit RGB; the file's tags determine the range and polarity of grey levels."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sspsam.errors import ImageError
from sspsam.images.png import PNGLevels

# numbers of TIFF tags
_BITS_PER_SAMPLE: Final = 258
_PHOTOMETRIC: Final = 262
_SAMPLES_PER_PIXEL: Final = 277
_EXTRA_SAMPLES: Final = 338
_SAMPLE_FORMAT: Final = 339
_WHITE_IS_ZERO: Final = 0
_SIGNED: Final = 2


@dataclass(frozen=True)
class GreyLevels:
    """Meaning of the grey levels in a file, as far as Pillow does not apply it.

    Args:
        bits: significant bits of a level; None: those of the mode.
        white_is_zero: whether level 0 is white.
        is_signed: whether levels are signed.
        png: meaning of the levels in the PNG file from which the image comes.
    """

    bits: int | None = None
    white_is_zero: bool = False
    is_signed: bool = False
    png: PNGLevels | None = None

    @classmethod
    def of(cls, image: Image.Image, png: PNGLevels | None = None) -> "GreyLevels":
        """Return the meaning of an image's levels, from its TIFF tags or from its PNG file."""
        tags: Any = getattr(image, "tag_v2", None)
        if tags is None:
            return cls(png=png)
        is_signed = _first(tags.get(_SAMPLE_FORMAT), 1) == _SIGNED
        bits = int(_first(tags.get(_BITS_PER_SAMPLE), 1)) - is_signed  # one bit is the sign
        return cls(bits, tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO, is_signed)

    def maximum(self, mode_bits: int) -> int:
        """Return the level of white (of black, where `white_is_zero`)."""
        return (1 << (mode_bits if self.bits is None else min(self.bits, mode_bits))) - 1


def to_rgb(image: Image.Image, name: str, levels: GreyLevels) -> Image.Image:
    """Convert a loaded image of any mode to RGB, without guessing a range and without clipping.

    Args:
        image: of any mode.
        name: of the image, for errors.
        levels: meaning of its grey levels.

    Raises:
        ImageError: the range of the levels would be a guess.
    """
    if levels.png is not None:
        image = levels.png.applied(image)
    mode = image.mode
    transparent: Any = image.info.get("transparency")  # a grey value, colour, or palette entry
    if mode == "RGB" and transparent is None:
        return image
    if mode.startswith("I;16"):
        return _from_16_bit(np.asarray(image), transparent, levels).convert("RGB")
    if mode in ("I", "F"):
        return Image.fromarray(_from_wide(np.asarray(image), image, name, levels)).convert("RGB")
    if mode == "L" and levels.is_signed:
        return Image.fromarray(_from_signed_8_bit(np.asarray(image), name)).convert("RGB")
    if mode == "LAB":
        return _lab_to_rgb(image)
    if mode == "La":
        image = image.convert("LA")
    if mode == "RGB" and not isinstance(transparent, tuple):
        return image  # the value is no colour, so that nothing is transparent
    if mode == "RGB" and max(transparent) > 255:  # of a 16-bit file that is not known; Pillow keeps the high bytes
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    if mode == "RGBA" and _has_unknown_fourth_band(image):
        return Image.merge("RGB", image.split()[:3])
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or transparent is not None:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def to_uint8(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Convert uint8, uint16 (scaled by 1/257) or bool values to uint8.

    Raises:
        ImageError: values of another dtype.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return _scaled(values, 65535)
    hint = "For integers from 0 to 255: array.astype('uint8')."
    if values.dtype.kind == "f":
        hint = "For floats from 0 to 1: (array * 255).round().astype('uint8'); from 0 to 255: array.astype('uint8')."
    raise ImageError(f"{name} has dtype {values.dtype}; pass uint8 (0..255), uint16 (0..65535) or bool. {hint}")


def _scaled(values: NDArray[Any], maximum: int) -> NDArray[np.uint8]:
    """Scale levels from 0..maximum to 0..255, rounded to nearest; levels above the maximum are white."""
    scaled: NDArray[np.uint32] = (np.minimum(values, maximum).astype(np.uint32) * 255 + maximum // 2) // maximum
    return scaled.astype(np.uint8)


def _inverted(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    inverted: NDArray[np.uint8] = np.uint8(255) - grey
    return inverted


def _from_16_bit(values: NDArray[np.uint16], transparent: Any, levels: GreyLevels) -> Image.Image:
    grey = _scaled(values, levels.maximum(16))
    if levels.white_is_zero:
        grey = _inverted(grey)
    # Pillow reads the transparent value of a 16-bit image but does not apply it
    return Image.fromarray(grey if transparent is None else np.where(values == transparent, np.uint8(255), grey))


def _from_wide(values: NDArray[Any], image: Image.Image, name: str, levels: GreyLevels) -> NDArray[np.uint8]:
    """Convert modes `I` and `F`, whose range the file format, its tags, or the values determine; Pillow does not."""
    low, high = values.min(), values.max()
    grey: NDArray[np.uint8] | None = None
    if image.mode == "I" and low >= 0 and levels.bits == 15:  # signed 16-bit
        grey = _scaled(values, levels.maximum(15))
    elif image.mode == "I" and low >= 0 and high <= 65535:
        # Pillow scales 16-bit PGM and old 16-bit PNG to 0..65535; its own L -> I conversion keeps 0..255
        is_16_bit = high > 255 or image.format in ("PPM", "PNG")
        grey = to_uint8(values.astype(np.uint16 if is_16_bit else np.uint8), name)
    elif image.mode == "F" and low >= 0 and high <= 255:  # false for NaN
        grey = np.rint(values * (255.0 if high <= 1 else 1.0)).astype(np.uint8)
    if grey is None:
        raise ImageError(
            f"{name} has mode {image.mode} with values from {low} to {high}; their range would be a guess. "
            "Scale them to 0..255 and pass an 8-bit image."
        )
    return _inverted(grey) if levels.white_is_zero else grey


def _from_signed_8_bit(values: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    if values.max() > 127:
        raise ImageError(f"{name} has negative grey levels; shift them to 0..255 and pass an unsigned image")
    return _scaled(values, 127)


def _has_unknown_fourth_band(image: Image.Image) -> bool:
    """Return whether the fourth band comes from a TIFF file that does not call it alpha, such as near infrared."""
    tags: Any = getattr(image, "tag_v2", None)
    return tags is not None and tags.get(_SAMPLES_PER_PIXEL) == 4 and tags.get(_EXTRA_SAMPLES) is None


def _first(value: Any, default: int) -> Any:
    """Return the first entry of a tag that may have several."""
    if value is None:
        return default
    return value[0] if isinstance(value, tuple) else value


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    from PIL import ImageCms  # imported here: not every build of Pillow has littlecms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    if converted is None:
        raise ImageError("the LAB image could not be converted to RGB")
    return converted
