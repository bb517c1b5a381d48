"""Images and expressions of a batch, as a caller gives them -> pairs of an image and its tokenised expressions."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import TypeVar, cast

import numpy as np
from PIL import Image

from sspsam.errors import SSPSAMError, TextError, TextTypeError
from sspsam.messages import message_of
from sspsam.utils.arguments import whole_number
from sspsam.utils.batching import raise_if_error
from sspsam.utils.paths import kind_name

Item = TypeVar("Item")
Tokenized = TypeVar("Tokenized")


def check_batch_arguments(images: object, texts: object, batch_size: int | None, workers: int | None) -> None:
    """Refuse arguments of `SSPSAMPredictor.predict_batch` that are no batch.

    Raises:
        TypeError: one image or one string, where many are expected.
        ValueError: a number below 1.
    """
    for name, count in (("batch_size", batch_size), ("workers", workers)):
        if count is not None:
            whole_number(name, count, 1)
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        kind = "a string" if isinstance(texts, str) else kind_name(texts)
        raise TypeError(f"texts must be a list of expressions, or one such list for each image, not {kind}")
    if isinstance(images, str | bytes | bytearray | os.PathLike | Image.Image | np.ndarray):
        raise TypeError(
            "images must be an iterable of images, such as a list or generator; for one image use predict()"
        )


def pair_images_with_texts(
    images: Iterable[Item],
    texts: Iterable[str] | Iterable[Sequence[str]],
    tokenize: Callable[[Sequence[str]], Tokenized | SSPSAMError],
) -> Iterator[tuple[Item, Tokenized | SSPSAMError]]:
    """Pair each image with its tokenised expressions: one list for all images, or one list for each.

    Expressions of an image that are a string instead of a list become a `TextTypeError` in their place, and errors
    about them name the image.

    Raises:
        ValueError: there are more images than lists, or fewer.
    """
    if isinstance(texts, Sequence) and all(isinstance(text, str) for text in texts):
        tokenized = raise_if_error(tokenize(texts))  # at once: an invalid expression is found before an image is loaded
        return ((image, tokenized) for image in images)
    return _paired_one_to_one(images, texts, tokenize)


def _paired_one_to_one(
    images: Iterable[Item],
    texts: Iterable[str] | Iterable[Sequence[str]],
    tokenize: Callable[[Sequence[str]], Tokenized | SSPSAMError],
) -> Iterator[tuple[Item, Tokenized | SSPSAMError]]:
    missing = object()
    for index, (image, image_texts) in enumerate(zip_longest(images, texts, fillvalue=missing)):
        if image is missing or image_texts is missing:
            more, fewer = ("lists of texts", "images") if image is missing else ("images", "lists of texts")
            raise ValueError(f"there are more {more} than {fewer} ({index}); give one list of texts for each image")
        if isinstance(image_texts, str):
            message = f"the texts of image {index} must be a list, not the string {image_texts[:60]!r}"
            yield cast(Item, image), TextTypeError(message)
        else:
            yield cast(Item, image), _named_by_image(tokenize, cast(Sequence[str], image_texts), index)


def _named_by_image(
    tokenize: Callable[[Sequence[str]], Tokenized | SSPSAMError], texts: Sequence[str], index: int
) -> Tokenized | SSPSAMError:
    """Tokenise the expressions of one image; an error, raised or returned, begins with the index of the image."""
    try:
        tokenized = tokenize(texts)
    except TextError as error:
        raise error.with_message(f"image {index}: ", message_of(error)) from error
    if isinstance(tokenized, TextError):
        return tokenized.with_message(f"image {index}: ", message_of(tokenized))
    return tokenized
