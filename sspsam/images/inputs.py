"""Inputs that are no images yet: open files, and objects of other libraries with the way to convert them."""

import inspect
import io
from typing import Any, Final

from sspsam.errors import ImageError, ImageTypeError
from sspsam.utils.paths import shown

_BASE64_BEGINNINGS: Final = ("iVBORw0KGgo", "/9j/4", "/9j/2")  # of PNG and JPEG files
_SHORTEST_BASE64: Final = 80  # characters; a shorter text may be a path
_MAX_MEDIA_TYPE: Final = 200  # characters before the comma of a data: URL


def _refuse_encoded(image: str | bytes) -> None:
    """Raise an `ImageError` for a data: URL and for an image in base64, which are no paths and no image files."""
    beginning = image[:_MAX_MEDIA_TYPE]
    text = beginning.decode("latin-1") if isinstance(beginning, bytes) else beginning
    if text[:5].lower() == "data:" and "," in text:
        raise ImageError(f"{shown(text)} is a data: URL, not a file: pass base64.b64decode(url.partition(',')[2])")
    if text.startswith(_BASE64_BEGINNINGS) and len(text) >= _SHORTEST_BASE64:
        raise ImageError(f"{shown(text)} is base64, not a file: pass base64.b64decode(text)")


def array_hint(shape: tuple[int, ...]) -> str:
    """Return the end of a message about an array whose shape is not that of an image: the way to convert it."""
    if len(shape) == 3 and shape[0] <= 4:
        return "; it looks channel-first: pass array.transpose(1, 2, 0)"
    if len(shape) == 4:
        return "; it looks like a batch: pass one image at a time, such as array[0], or all to predict_batch"
    return ""


def content_if_file(image: Any) -> Any:
    """Return the content of an open file, such as `io.BytesIO` or `open(path, "rb")`; other objects as they are.

    A file that can be rewound is read from its beginning, as Pillow does: a buffer that was just written is at its end.

    Raises:
        ImageError: the image is a data: URL or in base64, or the file is closed or cannot be read.
        ImageTypeError: `read()` returns no bytes, such as that of a file in text mode.
    """
    if isinstance(image, str | bytes):
        _refuse_encoded(image)
    if isinstance(image, str | bytes | bytearray | memoryview) or not _has_method(image, "read"):
        return image
    if isinstance(image, io.TextIOBase):
        raise ImageTypeError("the file of the image is open in text mode: open it with open(path, 'rb')")
    try:
        if _has_method(image, "seekable") and image.seekable():
            image.seek(0)
        content = image.read()
    except MemoryError:
        raise
    except Exception as error:  # of any kind: the file may be an object of any library
        raise ImageError(f"cannot read the image from {_kind(image)}: {shown(error)}") from error
    if not isinstance(content, bytes | bytearray | memoryview):
        raise ImageTypeError(f"read() of {_kind(image)} returned {_kind(content)}, not bytes{_content_hint(content)}")
    return bytes(content)


def _has_method(image: object, name: str) -> bool:
    try:
        return callable(getattr(image, name, None))
    except MemoryError:
        raise
    except Exception:  # an object of any class
        return False


def _content_hint(content: object) -> str:
    if inspect.iscoroutine(content):
        content.close()  # without a warning that it was never awaited
        return ": pass (await file.read()) instead of the file"
    if isinstance(content, tuple) and len(content) == 2:  # cv2.VideoCapture
        return ": pass the frame, converted by cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)"
    return ""


def conversion_hint(image: object) -> str:
    """Return the end of a message about an object that is no image: the way to convert it, or nothing."""
    if isinstance(image, list | tuple):
        return _list_hint(image)
    if hasattr(type(image), "permute") and hasattr(image, "shape"):
        return _tensor_hint(image)
    if hasattr(type(image), "__array__") or hasattr(type(image), "__array_interface__"):
        return "; pass numpy.asarray(image)"
    return ""


def _list_hint(image: "list[Any] | tuple[Any, ...]") -> str:
    if image and isinstance(image[0], list | tuple):
        return "; pass numpy.array(image, dtype=numpy.uint8), if it holds the rows of an RGB image"
    return "; pass one image, or all of them to predict_batch(images, texts)"


def _tensor_hint(image: Any) -> str:
    """Return the conversion that fits the layout and dtype of a tensor of PyTorch."""
    shape = tuple(image.shape)
    if len(shape) == 4:
        return f" of shape {shape}, a batch: pass one image at a time, such as tensor[0], as a NumPy array"
    steps = "tensor"
    if len(shape) == 3 and shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4):
        steps += ".permute(1, 2, 0)"
    condition = ""
    if "float" in str(getattr(image, "dtype", "")):
        steps += ".mul(255).round().byte()"
        condition = ", if its values are from 0 to 1"
    return f" of shape {shape}; pass {steps}.cpu().numpy(){condition}"


def _kind(value: object) -> str:
    return type(value).__name__
