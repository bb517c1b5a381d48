"""Errors about images with more pixels than a limit."""

import re
from typing import Final

from sspsam.errors import ImageTooLargeError
from sspsam.messages import OptionMessage, Wording, option

LARGER_LIMIT: Final = OptionMessage("pass a larger ", option("max_pixels"))
_PIXELS: Final = re.compile(r"\((\d{1,18}) pixels\)")  # in Pillow's own error, which holds nothing but numbers


def limit_wording(max_pixels: int) -> Wording:
    """Return the limit as each front end names it."""
    limit = f"{max_pixels:,}"
    return Wording(f"max_pixels = {limit}", f"--max-pixels {limit}", f"the server's limit of {limit}")


def too_many_pixels(name: str, width: int, height: int, max_pixels: int) -> ImageTooLargeError:
    """Return the error about an image that is larger than `max_pixels`.

    Args:
        name: of the image.
        width: in pixels.
        height: in pixels.
        max_pixels: largest width times height.
    """
    message = OptionMessage(
        f"{name} has {width} x {height} = {width * height:,} pixels, more than ",
        limit_wording(max_pixels),
        ". Reduce the image",
        Wording(", or pass a larger max_pixels", ", or pass a larger --max-pixels", ""),
        ".",
    )
    return ImageTooLargeError(message, pixels=width * height)


def beyond_pillow_limit(name: str, error: Exception) -> ImageTooLargeError:
    """Return the error about an image that Pillow itself refuses because of its size.

    Args:
        name: of the image.
        error: Pillow's `DecompressionBombError`, or its warning as an error.
    """
    python = ", or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
    message = OptionMessage(
        f"{name} is larger than Pillow's own limit allows: {error} Reduce the image",
        Wording(python, ", or pass a larger --max-pixels", ""),
        ".",
    )
    return ImageTooLargeError(message, pixels=pillow_pixels(error))


def pillow_pixels(error: Exception) -> int | None:
    """Return the number of pixels of an image that Pillow refuses; Pillow states it in the message only.

    Args:
        error: Pillow's `DecompressionBombError`, or its warning as an error.
    """
    match = _PIXELS.search(str(error))
    return int(match[1]) if match else None
