"""Any image -> upright 8-bit RGB pixels.

Meaning of every kind of input:

| input | result |
|---|---|
| path, bytes, PIL image | every mode that Pillow opens; EXIF orientation applied; first (or current) frame |
| open binary file, such as `io.BytesIO` | as its bytes, from the beginning |
| 16-bit (`I;16`, and `I` with values from 256 to 65535 or from a 16-bit file) | scaled by 1/257, never clipped |
| fewer significant bits (TIFF BitsPerSample, PNG sBIT) | scaled by their own range, unless a PNG has scaled levels |
| 16-bit colours of a PNG | the upper 8 bits; its transparent colour is compared with all 16 |
| TIFF with WhiteIsZero | inverted |
| TIFF of RGB and a fourth band that is not called alpha | the fourth band is dropped |
| `I` with values up to 255 only | unchanged |
| 32-bit float (`F`) | 0 to 1 scaled by 255, else 0 to 255; anything else is an error |
| transparency | composited on white |
| array (h, w, 3) uint8 | RGB |
| array (h, w), (h, w, 1) or (h, w, 4) | grey, grey, RGBA |
| array of uint16 or bool | scaled by 1/257; black and white |
| any other array | an `ImageError` that names the conversion |

Text, colour profiles, damaged EXIF and other metadata do not prevent decoding.
"""

import hashlib
import io
import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from sspsam.devices import naming_out_of_memory
from sspsam.errors import (
    ImageError,
    ImageNotFoundError,
    ImageTooLargeError,
    ImageTypeError,
    SSPSAMWarning,
    warn,
)
from sspsam.images.containers import require_complete, without_metadata
from sspsam.images.decoding_hook import DECODING_HOOK
from sspsam.images.inputs import array_hint, content_if_file, conversion_hint
from sspsam.images.locks import PIL_LOCKS
from sspsam.images.modes import GreyLevels, to_rgb, to_uint8
from sspsam.images.pixel_limits import beyond_pillow_limit, too_many_pixels
from sspsam.images.png import PNGLevels
from sspsam.images.tiff import TIFF_SIGNATURES, has_damaged_tags, without_tiff_metadata
from sspsam.images.truncation import TRUNCATED_FILES
from sspsam.messages import OptionMessage, Wording
from sspsam.utils.arguments import whole_number
from sspsam.utils.file_kinds import HEAD_BYTES, foreign_kind, missing_target
from sspsam.utils.paths import kind_name, shown, user_path

Pixels: TypeAlias = NDArray[np.uint8]
ImageInput: TypeAlias = str | os.PathLike[str] | bytes | IO[bytes] | Image.Image | NDArray[Any]

DEFAULT_MAX_PIXELS: Final = 100_000_000
_HEIF_BRANDS: Final = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_CONVERT_HEIF: Final = Wording(
    "Install the plugin pillow-heif and call pillow_heif.register_heif_opener() once, or convert", server="Convert"
)
_CHECKED_FORMATS: Final = ("PNG", "JPEG", "MPO", "JPEG2000", "ICO", "CUR", "ICNS")
_URL: Final = re.compile(r"[a-z][a-z0-9+.-]+://|data:[^,]*,", re.IGNORECASE)
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@naming_out_of_memory("not enough memory to load the image")
def load_image_with_digest(image: ImageInput, max_pixels: int = DEFAULT_MAX_PIXELS) -> tuple[Pixels, str]:
    """Return the pixels of `load_image` and the SHA-256 of the file's bytes, or of the pixels without a file."""
    image = content_if_file(image)
    if isinstance(image, str | os.PathLike):
        with _opened(image) as (file, path):
            digest = hashlib.file_digest(file, "sha256")
            file.seek(0)
            return _from_file(file, shown(path), max_pixels), digest.hexdigest()
    pixels = load_image(image, max_pixels)
    if isinstance(image, bytes | bytearray | memoryview):
        return pixels, hashlib.sha256(bytes(image)).hexdigest()
    digest = hashlib.sha256(f"{pixels.shape}".encode())
    digest.update(pixels.data)
    return pixels, digest.hexdigest()


@naming_out_of_memory("not enough memory to load the image")
def load_image(image: ImageInput, max_pixels: int = DEFAULT_MAX_PIXELS) -> Pixels:
    """Load an image of any kind and return its upright RGB pixels.

    Args:
        image: a path, the bytes of an image file, an open binary file, a PIL image, or an array; see the table of this
            module.
        max_pixels: largest width times height; checked from the header, before decoding.

    Returns:
        (h, w, 3) uint8 RGB, contiguous, never sharing memory with `image`.

    Raises:
        ImageError: the image is unreadable, damaged, empty, or of a kind whose meaning would be a guess.
        ImageNotFoundError: no file at the path.
        ImageTooLargeError: more than `max_pixels`.
        ImageTypeError: not an image at all; also a `TypeError`.
    """
    image = content_if_file(image)
    max_pixels = whole_number("max_pixels", max_pixels, 1)
    if isinstance(image, np.ndarray):
        return _from_array(image, max_pixels)
    if isinstance(image, Image.Image):
        _check_size(image.width, image.height, max_pixels, "the PIL image")
        with _decoding("the PIL image"), PIL_LOCKS.holding(image):
            return _from_pil(image, "the PIL image", _checked_levels(image, "the PIL image"))
    if isinstance(image, bytes | bytearray | memoryview):
        return decode_image(bytes(image), None, max_pixels)
    if isinstance(image, str | os.PathLike):
        with _opened(image) as (file, path):
            return _from_file(file, shown(path), max_pixels)
    raise ImageTypeError(_wrong_type(image))


@naming_out_of_memory("not enough memory to load the image")
def decode_image(data: bytes, name: str | None, max_pixels: int) -> Pixels:
    """Return the pixels of an image file in memory.

    Args:
        data: content of the file.
        name: of the image in errors; None: by its size.
        max_pixels: as in `load_image`.

    Returns:
        (h, w, 3) uint8 RGB.

    Raises:
        ImageError: as `load_image`.
    """
    return _from_file(io.BytesIO(data), f"the image of {len(data)} bytes" if name is None else name, max_pixels)


def own_copy(image: ImageInput, max_pixels: int) -> ImageInput:
    """Return an image that the caller can no longer change: for threads that load the image later.

    A path or bytes are returned as they are; arrays and buffers are copied, open files are read, and a PIL image, whose
    file the caller may move to another frame, is decoded at once.

    Raises:
        ImageError: as `load_image`, for a PIL image or an open file.
    """
    image = content_if_file(image)
    if isinstance(image, np.ndarray):
        with _decoding("the array"):
            return image.copy()
    if isinstance(image, bytearray | memoryview):
        try:
            return bytes(image)
        except ValueError as error:  # a memoryview that was released
            raise ImageError(f"the buffer of the image cannot be read: {error}") from error
    return load_image(image, max_pixels) if isinstance(image, Image.Image) else image


def _wrong_type(image: object) -> str:
    """Return the message for an object that is no image."""
    if image is None:
        return "the image is None: cv2.imread and similar functions return None for a file that they cannot read"
    hint = conversion_hint(image)
    return f"an image must be a path, bytes, a PIL image or a NumPy array, not {kind_name(image)}{hint}"


@contextmanager
def _opened(image: str | os.PathLike[str]) -> Iterator[tuple[io.BufferedReader, Path]]:
    path = _checked_path(image)
    try:
        with path.open("rb") as file:
            yield file, path
    except OSError as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"cannot read {shown(path)}: {error.strerror or error}") from error


def _checked_path(image: str | os.PathLike[str]) -> Path:
    if isinstance(image, str) and _URL.match(image):
        raise ImageError(f"{shown(image)} is a URL, not a file: download or decode it first and pass its bytes")
    path = user_path(_path_name(image), "the image", ImageError)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise ImageNotFoundError(f"no such image file: {shown(path)}{missing_target(path)}") from None
    except OSError as error:
        raise ImageError(f"cannot read {shown(path)}: {error.strerror or error}") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        raise ImageError(f"{shown(path)} is {kind}; pass the path of one image")
    return path


def _path_name(image: str | os.PathLike[str]) -> str | bytes:
    """Return the name behind a path of any class, whose conversion may fail in any way."""
    try:
        return os.fspath(image)
    except MemoryError:
        raise
    except Exception as error:
        raise ImageTypeError(f"the path of the image, a {kind_name(image)}, has no name: {shown(error)}") from error


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Turn every exception of a decoder, also on hostile data, into one `ImageError` that names the image."""
    try:
        with TRUNCATED_FILES.withdrawn():
            yield
    except (ImageError, MemoryError, SSPSAMWarning):  # SSPSAMWarning: the caller turned warnings into errors
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise beyond_pillow_limit(name, error) from error
    except Exception as error:
        raise ImageError(f"{name} is damaged or not supported: {type(error).__name__}: {error}") from error


@contextmanager
def pillow_pixel_limit(max_pixels: int = DEFAULT_MAX_PIXELS) -> Iterator[None]:
    """Replace Pillow's process-wide limit, so that `max_pixels` is the limit that counts, without Pillow's warning.

    For command line programs, which own their process; the library itself leaves Pillow's limit alone. Pillow looks
    first, and its message names its own limit: it stays at the default where `max_pixels` is smaller.

    Args:
        max_pixels: largest width times height of an image.
    """
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        Image.MAX_IMAGE_PIXELS = max(max_pixels, DEFAULT_MAX_PIXELS)
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _check_size(width: int, height: int, max_pixels: int, name: str) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{name} is empty: {width} x {height} pixels")
    if width * height > max_pixels:
        raise too_many_pixels(name, width, height, max_pixels)


def _from_file(file: IO[bytes], name: str, max_pixels: int) -> Pixels:
    head = file.read(HEAD_BYTES)
    file.seek(0)
    if not head:
        raise ImageError(f"{name} is empty (0 bytes)")
    with DECODING_HOOK(name, head.startswith(TIFF_SIGNATURES)):
        return _from_content(file, head, name, max_pixels)


def _from_content(file: IO[bytes], head: bytes, name: str, max_pixels: int) -> Pixels:
    """Decode a file, if need be without its metadata."""
    try:
        if has_damaged_tags(file):  # Pillow would drop the tags behind them, silently
            raise ImageError(f"{name} has damaged tags")
        return _decoded(file, head, name, max_pixels)
    except ImageTooLargeError:
        raise
    except ImageError as error:
        stripped = _without_metadata(file)
        if stripped is None:
            raise
        try:
            return _decoded(io.BytesIO(stripped), head, name, max_pixels)
        except ImageError:
            raise error from None


def _without_metadata(file: IO[bytes]) -> bytes | None:
    """Return the file without metadata; None where it has none, or is of another kind."""
    tiff = without_tiff_metadata(file)
    if tiff is not None:
        return tiff
    file.seek(0)
    data = file.read()
    stripped = without_metadata(data)
    return None if stripped == data else stripped


def _decoded(file: IO[bytes], head: bytes, name: str, max_pixels: int) -> Pixels:
    with _decoding(name):
        try:
            opened = Image.open(file)
        except UnidentifiedImageError:
            raise ImageError(_unidentified(head, name)) from None
        with opened:
            if opened.format == "EPS":  # Pillow would start Ghostscript, for which a PostScript file is a program
                raise ImageError(f"{name} is PostScript, a program for Ghostscript, and is not run: convert it to PNG")
            _check_size(opened.width, opened.height, max_pixels, name)
            return _from_pil(opened, name, _checked_levels(opened, name))


def _checked_levels(image: Image.Image, name: str) -> GreyLevels:
    """Load an image, check that its file holds all pixels, and return the meaning of its grey levels.

    The file is known for images that are not loaded yet, also for those that the caller opened.
    """
    file = getattr(image, "fp", None)
    if image.format not in _CHECKED_FORMATS or file is None or image.tell() > 0:  # the checks know first frames only
        image.load()
        return GreyLevels.of(image)
    position = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(position)
    image.load()
    require_complete(data, image, name)
    return GreyLevels.of(image, PNGLevels.of(data))


def _unidentified(head: bytes, name: str) -> OptionMessage:
    """Return the message for a file that no decoder of Pillow recognises."""
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        return OptionMessage(f"{name} is a HEIC/HEIF image. ", _CONVERT_HEIF, " the image to JPEG or PNG.")
    kind = foreign_kind(head) or f"begins with {head[:8]!r}"
    return OptionMessage(f"{name} is not an image that Pillow can read (it {kind})")


def _from_pil(image: Image.Image, name: str, levels: GreyLevels) -> Pixels:
    """Return the pixels of an image of any mode; the image stays on its frame."""
    image.load()
    frame = image.tell()
    transpose = _UPRIGHT.get(_orientation(image))  # after loading: Pillow transposes a TIFF itself and drops its tag
    rgb = to_rgb(image, name, levels)
    if transpose is not None:
        rgb = rgb.transpose(transpose)
    pixels = np.array(rgb, dtype=np.uint8)  # always a copy
    frames = _frame_count(image)
    # the further frames of an MPO file are previews, not an animation
    if frames > 1 and image.format != "MPO":
        warn(f"{name} has {frames} frames; only frame {frame} is used")
    return pixels


def _frame_count(image: Image.Image) -> int:
    """Return the number of frames; 1 where the directory of further frames is damaged."""
    frame = image.tell()
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # the pixels are good although the directory is not; Pillow raises many kinds of errors for that
        with suppress(Exception):
            image.seek(frame)
        return 1


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # the pixels are good although EXIF is damaged; Pillow raises many kinds of errors for that
        return 1
    return orientation if isinstance(orientation, int) else 1


def _from_array(array: NDArray[Any], max_pixels: int) -> Pixels:
    if isinstance(array, np.ma.MaskedArray):
        raise ImageError("the values under the mask of a masked array are undefined: pass array.filled(...)")
    array = np.asarray(array)  # np.matrix has a reshape of its own
    if array.dtype == object and array.size == 1:  # np.array(None)
        raise ImageTypeError(_wrong_type(array.item()))
    name = f"the array of shape {array.shape}"
    channels = 1 if array.ndim == 2 else array.shape[-1] if array.ndim == 3 else 0
    if channels not in (1, 3, 4):
        hint = array_hint(array.shape)
        raise ImageError(f"{name} is not an image: pass (h, w, 3) RGB, (h, w, 4) RGBA or (h, w) grey{hint}")
    _check_size(array.shape[1], array.shape[0], max_pixels, name)
    values = to_uint8(array.reshape(*array.shape[:2], channels), name)
    if channels == 4:
        return np.array(to_rgb(Image.fromarray(np.ascontiguousarray(values)), name, GreyLevels()))
    return np.array(np.broadcast_to(values, (*values.shape[:2], 3)), order="C")
