"""Answers about many images: threads load them, a few are encoded together, and each has expressions of its own."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, TypeVar

from sspsam.devices import require_working_thread_pool
from sspsam.errors import OutOfMemoryError, SSPSAMError
from sspsam.images.embedding import ImageEmbedding
from sspsam.images.loading import ImageInput, own_copy
from sspsam.images.preprocessing import PreprocessedImage
from sspsam.models.device_model import expressions_per_pass
from sspsam.segmentation.answers import AnswerSettings
from sspsam.segmentation.batch_inputs import check_batch_arguments, pair_images_with_texts
from sspsam.segmentation.pipeline import PendingAnswers, Pipeline
from sspsam.segmentation.result import Segmentation
from sspsam.text.encoder import TokenizedExpression
from sspsam.utils.batching import (
    compute_in_batches,
    default_batch_size,
    default_workers,
    raise_error,
    raise_first_error,
    result_or_error,
)
from sspsam.utils.memory import out_of_memory_suppressed

Loaded = TypeVar("Loaded")
Outcome = list[Segmentation] | SSPSAMError
"""The answers about one image of a batch, or the error raised for the image."""


class _LoadedImage(NamedTuple):
    """An image of a batch and its expressions, both ready for the model."""

    image: PreprocessedImage
    expressions: Sequence[TokenizedExpression]


class ImageBatches:
    """Answer about many images with one pipeline.

    Args:
        pipeline: of the predictor.
        settings: of the answers.
    """

    def __init__(self, pipeline: Pipeline, settings: AnswerSettings) -> None:
        self._pipeline, self._settings, self._device = pipeline, settings, pipeline.identity.device

    def answers(
        self,
        images: Iterable[ImageInput],
        texts: Iterable[str] | Iterable[Sequence[str]],
        batch_size: int | None,
        workers: int | None,
        return_errors: bool,
    ) -> Iterator[Outcome]:
        """Answer about images, lazily.

        Args:
            images, texts: of `SSPSAMPredictor.predict_batch`.
            batch_size: images that are encoded together; None: the default of the device.
            workers: threads that load images; None: the default of the device.
            return_errors: whether the error of an image takes the place of its answers, instead of being raised.

        Yields:
            The answers about each image, or its error.
        """
        check_batch_arguments(images, texts, batch_size, workers)
        require_working_thread_pool()  # once, not for each image
        tokenize: Callable[..., Any] = self._pipeline.tokenize
        pairs = pair_images_with_texts(images, texts, partial(result_or_error, tokenize) if return_errors else tokenize)
        load_copy = partial(_loaded_or_error, own_copy)
        outcomes = compute_in_batches(
            # copied in this thread: the caller may change an image while a thread waits to load it
            ((load_copy(image, self._settings.max_pixels), expressions) for image, expressions in pairs),
            self._load,
            self._answer,
            batch_size=batch_size or default_batch_size(self._device),
            workers=workers or default_workers(self._device),
            on_single_item_oom=(lambda error: error) if return_errors else raise_error,
        )
        return outcomes if return_errors else raise_first_error(outcomes)

    def _load(
        self, pair: tuple[ImageInput | SSPSAMError, Sequence[TokenizedExpression] | SSPSAMError]
    ) -> _LoadedImage | SSPSAMError:
        """Load and preprocess one image; called by a thread."""
        image, expressions = pair
        if isinstance(expressions, SSPSAMError):
            return expressions
        if isinstance(image, SSPSAMError):
            return image
        preprocessed = _loaded_or_error(self._pipeline.images.preprocess, image, self._settings.max_pixels)
        return preprocessed if isinstance(preprocessed, SSPSAMError) else _LoadedImage(preprocessed, expressions)

    def _answer(self, items: list[_LoadedImage | SSPSAMError]) -> list[Outcome]:
        """Encode images together, then answer the expressions of each; errors keep their places.

        A GPU computes the answers about an image while the host finishes those about the image before.
        """
        loaded = [item for item in items if isinstance(item, _LoadedImage)]
        embeddings = iter(self._pipeline.images.encode([item.image for item in loaded]))
        outcomes: list[Outcome] = []
        waiting: list[Callable[[], list[Segmentation]]] = []  # none or one
        for item in items:
            embedding, expressions = (
                (item, []) if isinstance(item, SSPSAMError) else (next(embeddings), item.expressions)
            )
            pending = [] if isinstance(embedding, SSPSAMError) else self._begin(embedding, expressions)
            outcomes += [result_or_error(finish) for finish in waiting]
            waiting = []
            if isinstance(embedding, SSPSAMError):
                outcomes.append(embedding)
            elif pending:
                waiting = [partial(self._finish, pending, embedding, expressions)]
            else:
                outcomes.append(result_or_error(self._pipeline.answer, embedding, expressions, self._settings))
        return outcomes + [result_or_error(finish) for finish in waiting]

    def _begin(self, embedding: ImageEmbedding, expressions: Sequence[TokenizedExpression]) -> list[PendingAnswers]:
        """Queue the answers about an image on a GPU; the list is empty if that is not possible or memory is lacking."""
        pending: list[PendingAnswers] = []
        if self._device.type == "cuda" and 0 < len(expressions) <= expressions_per_pass(self._device):
            with suppress(SSPSAMError), out_of_memory_suppressed():
                pending.append(self._pipeline.begin(embedding, expressions, self._settings))
        return pending

    def _finish(
        self, pending: list[PendingAnswers], embedding: ImageEmbedding, expressions: Sequence[TokenizedExpression]
    ) -> list[Segmentation]:
        """Return the answers that are pending, or compute them anew if memory does not suffice."""
        results = None
        with out_of_memory_suppressed():
            results = self._pipeline.finish(pending.pop(), embedding, self._settings)  # so that `answer` can free them
        return self._pipeline.answer(embedding, expressions, self._settings) if results is None else results


def _loaded_or_error(
    load: Callable[[ImageInput, int], Loaded], image: ImageInput, max_pixels: int
) -> Loaded | SSPSAMError:
    """Return what `load` makes of an image, or the error; a lack of memory while loading is an error of this image."""
    try:
        return result_or_error(load, image, max_pixels)
    except MemoryError:
        return OutOfMemoryError("not enough memory to load the image")
