"""Images and expressions of a batch, as a caller gives them -> pairs of an image and its tokenised expressions."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import TypeVar, cast

from sspsam.errors import SSPSAMError, TextError, TextTypeError
from sspsam.messages import message_of
from sspsam.utils.batching import raise_if_error

Item = TypeVar("Item")
Tokenized = TypeVar("Tokenized")


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
