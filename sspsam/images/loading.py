"""Any image -> upright 8-bit RGB pixels.

Meaning of every kind of input:

| input | result |
|---|---|
| path, bytes, PIL image | every mode that Pillow opens; EXIF orientation applied; first (or current) frame |
| 16-bit (`I;16`, and `I` with values from 256 to 65535 or from a 16-bit file) | scaled by 1/257, never clipped |
| `I` with values up to 255 only | unchanged |
| 32-bit float (`F`) | 0 to 1 scaled by 255, else 0 to 255; anything else is an error |
| transparency | composited on white |
| array (h, w, 3) uint8 | RGB |
| array (h, w), (h, w, 1) or (h, w, 4) | grey, grey, RGBA |
| array of uint16 or bool | scaled by 1/257; black and white |
| any other array | an `ImageError` that names the conversion |
"""

import hashlib
import io
import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from sspsam.errors import ImageError, ImageNotFoundError, ImageTooLargeError, SSPSAMWarning, warn

Pixels: TypeAlias = NDArray[np.uint8]
ImageInput: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | NDArray[Any]

DEFAULT_MAX_PIXELS: Final = 100_000_000
_HEIF_BRANDS: Final = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_URL: Final = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_image_with_digest(image: ImageInput, max_pixels: int = DEFAULT_MAX_PIXELS) -> tuple[Pixels, str]:
    """Load as `load_image` does; return also the SHA-256 of the file's bytes, or of the pixels if there is no file."""
    if isinstance(image, str | os.PathLike):
        with _opened(image) as (file, path):
            digest = hashlib.file_digest(file, "sha256")
            file.seek(0)
            return _from_file(file, str(path), max_pixels), digest.hexdigest()
    pixels = load_image(image, max_pixels)
    if isinstance(image, bytes | bytearray | memoryview):
        return pixels, hashlib.sha256(image).hexdigest()
    digest = hashlib.sha256(f"{pixels.shape}".encode())
    digest.update(pixels.data)
    return pixels, digest.hexdigest()


def load_image(image: ImageInput, max_pixels: int = DEFAULT_MAX_PIXELS) -> Pixels:
    """Load an image of any kind and return its upright RGB pixels.

    Args:
        image: a path, the bytes of an image file, a PIL image, or an array; see the table of this module.
        max_pixels: largest width times height; checked from the header, before decoding.

    Returns:
        (h, w, 3) uint8 RGB, contiguous, never sharing memory with `image`.

    Raises:
        ImageError: the image is unreadable, damaged, empty, or of a kind whose meaning would be a guess.
        ImageNotFoundError: no file at the path.
        ImageTooLargeError: more than `max_pixels`.
        TypeError: not an image at all.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image, max_pixels)
    if isinstance(image, Image.Image):
        _check_size(image.width, image.height, max_pixels, "the PIL image")
        with _decoding("the PIL image"):
            return _from_pil(image, "the PIL image")
    if isinstance(image, bytes | bytearray | memoryview):
        return _from_file(io.BytesIO(data := bytes(image)), f"the image of {len(data)} bytes", max_pixels)
    if isinstance(image, str | os.PathLike):
        with _opened(image) as (file, path):
            return _from_file(file, str(path), max_pixels)
    raise TypeError(
        f"an image must be a path, bytes, a PIL image or a NumPy array, not {type(image).__name__}"
        + ("; pass tensor.permute(1, 2, 0).cpu().numpy() with uint8 values" if hasattr(image, "permute") else "")
    )


@contextmanager
def _opened(image: str | os.PathLike[str]) -> Iterator[tuple[io.BufferedReader, Path]]:
    path = _checked_path(image)
    try:
        with path.open("rb") as file:
            yield file, path
    except OSError as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"cannot read {path}: {error.strerror or error}") from error


def _checked_path(image: str | os.PathLike[str]) -> Path:
    name = os.fspath(image)
    if not name:
        raise ImageError("the path of the image is empty")
    if isinstance(name, str) and _URL.match(name):
        raise ImageError(f"{name} is a URL, not a file: download it first and pass its bytes")
    path = Path(name)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise ImageNotFoundError(f"no such image file: {path}") from None
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot read {name!r}: {error}") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        raise ImageError(f"{path} is {kind}; pass the path of one image")
    return path


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Turn every exception of a decoder, also on hostile data, into one `ImageError` that names the image."""
    try:
        yield
    except (ImageError, MemoryError, SSPSAMWarning):  # SSPSAMWarning: the caller turned warnings into errors
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLargeError(
            f"{name} is larger than Pillow's own limit allows: {error} Reduce the image, or raise "
            "PIL.Image.MAX_IMAGE_PIXELS if you trust it."
        ) from error
    except Exception as error:
        raise ImageError(f"{name} is damaged or not supported: {type(error).__name__}: {error}") from error


@contextmanager
def pillow_pixel_limit(max_pixels: int = DEFAULT_MAX_PIXELS) -> Iterator[None]:
    """Replace Pillow's process-wide limit by `max_pixels`, without its warning below the limit.

    For command line programs, which own their process; the library itself leaves Pillow's limit alone.

    Args:
        max_pixels: largest width times height of an image.
    """
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _check_size(width: int, height: int, max_pixels: int, name: str) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{name} is empty: {width} x {height} pixels")
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"{name} has {width} x {height} = {width * height:,} pixels, more than max_pixels = {max_pixels:,}. "
            "Reduce the image, or pass a larger max_pixels."
        )


def _from_file(file: Any, name: str, max_pixels: int) -> Pixels:
    head = file.read(32)
    file.seek(0)
    if not head:
        raise ImageError(f"{name} is empty (0 bytes)")
    with _decoding(name):
        try:
            opened = Image.open(file)
        except UnidentifiedImageError:
            if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
                raise ImageError(
                    f"{name} is a HEIC/HEIF image. Install the plugin pillow-heif and call "
                    "pillow_heif.register_heif_opener() once, or convert the image to JPEG or PNG."
                ) from None
            raise ImageError(f"{name} is not an image that Pillow can read (it begins with {head[:8]!r})") from None
        with opened:
            _check_size(opened.width, opened.height, max_pixels, name)
            return _from_pil(opened, name)


def _from_pil(image: Image.Image, name: str) -> Pixels:
    # the further frames of an MPO file are previews, not an animation
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        warn(f"{name} has {getattr(image, 'n_frames', 1)} frames; only frame {image.tell()} is used")
    image.load()
    transpose = _UPRIGHT.get(_orientation(image))  # after loading: Pillow transposes a TIFF itself and drops its tag
    rgb = _to_rgb(image, name)
    if transpose is not None:
        rgb = rgb.transpose(transpose)
    return np.array(rgb, dtype=np.uint8)  # always a copy


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # the pixels are good although EXIF is damaged; Pillow raises many kinds of errors for that
        return 1
    return orientation if isinstance(orientation, int) else 1


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Convert any mode of Pillow to RGB, without guessing a range and without clipping."""
    mode = image.mode
    key: Any = image.info.get("transparency")  # transparent grey value, colour, or palette entry
    if mode == "RGB" and key is None:
        return image
    if mode.startswith("I;16"):
        values = np.asarray(image)
        grey = _to_uint8(values, name)
        # Pillow reads the transparent value of a 16-bit image but does not apply it
        return Image.fromarray(grey if key is None else np.where(values == key, np.uint8(255), grey)).convert("RGB")
    if mode in ("I", "F"):
        return Image.fromarray(_from_wide(np.asarray(image), image, name)).convert("RGB")
    if mode == "LAB":
        return _lab_to_rgb(image)
    if mode == "La":
        image = image.convert("LA")
    if mode == "RGB" and not isinstance(key, tuple):
        return image  # the key is no colour, so that nothing is transparent
    if mode == "RGB" and max(key) > 255:  # the key is of a 16-bit file, whose pixels Pillow reduces to the high bytes
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in key)
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or key is not None:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    from PIL import ImageCms  # imported here: not every build of Pillow has littlecms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    if converted is None:
        raise ImageError("the LAB image could not be converted to RGB")
    return converted


def _from_wide(values: NDArray[Any], image: Image.Image, name: str) -> Pixels:
    """Convert modes `I` and `F`, for which the file format or the values determine the range; Pillow does not."""
    low, high = values.min(), values.max()
    if image.mode == "I" and low >= 0 and high <= 65535:
        # Pillow scales 16-bit PGM and old 16-bit PNG to 0..65535; its own L -> I conversion keeps 0..255
        sixteen = high > 255 or image.format in ("PPM", "PNG")
        return _to_uint8(values.astype(np.uint16 if sixteen else np.uint8), name)
    if image.mode == "F" and low >= 0 and high <= 255:  # false for NaN
        return np.rint(values * (255.0 if high <= 1 else 1.0)).astype(np.uint8)
    raise ImageError(
        f"{name} has mode {image.mode} with values from {low} to {high}; their range would be a guess. "
        "Scale them to 0..255 and pass an 8-bit image."
    )


def _to_uint8(values: NDArray[Any], name: str) -> Pixels:
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        # 65535 / 257 = 255 exactly; adding 128 rounds to nearest
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    raise ImageError(
        f"{name} has dtype {values.dtype}; pass uint8 (0..255), uint16 (0..65535) or bool. "
        "For floats from 0 to 1: (array * 255).round().astype('uint8')."
    )


def _from_array(array: NDArray[Any], max_pixels: int) -> Pixels:
    if isinstance(array, np.ma.MaskedArray):
        raise ImageError("the values under the mask of a masked array are undefined: pass array.filled(...)")
    array = np.asarray(array)  # np.matrix has a reshape of its own
    name = f"the array of shape {array.shape}"
    channels = 1 if array.ndim == 2 else array.shape[-1] if array.ndim == 3 else 0
    if channels not in (1, 3, 4):
        hint = "; it looks channel-first: pass array.transpose(1, 2, 0)" if array.ndim == 3 and len(array) <= 4 else ""
        raise ImageError(f"{name} is not an image: pass (h, w, 3) RGB, (h, w, 4) RGBA or (h, w) grey{hint}")
    _check_size(array.shape[1], array.shape[0], max_pixels, name)
    values = _to_uint8(array.reshape(*array.shape[:2], channels), name)
    if channels == 4:
        return np.array(_to_rgb(Image.fromarray(np.ascontiguousarray(values)), name))
    return np.array(np.broadcast_to(values, (*values.shape[:2], 3)), order="C")
