"""The computation behind a predictor, on one device: encode images and texts, answer expressions."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, Self, TypeVar

import numpy as np
import torch
from PIL import Image

from sspsam.config import ModelConfig
from sspsam.devices import inference_context, require_working_thread_pool
from sspsam.errors import EmbeddingError, OutOfMemoryError, SSPSAMError
from sspsam.identity import PredictorIdentity
from sspsam.images.cache import EmbeddingCache
from sspsam.images.embedding import ImageEmbedding
from sspsam.images.encoder import ImageEncoder
from sspsam.images.loading import ImageInput, own_copy
from sspsam.images.prepared import PreparedEmbeddings
from sspsam.images.preprocessing import PreprocessedImage
from sspsam.models import SSPSAM, ExpressionFeatures, Prediction
from sspsam.segmentation.answers import AnswerSettings, to_segmentation
from sspsam.segmentation.result import Segmentation
from sspsam.text.encoder import TextEncoder, TokenizedExpression, tokenizer_for
from sspsam.text.tokenizer import Tokenizer
from sspsam.utils.arguments import whole_number
from sspsam.utils.batching import (
    compute_in_batches,
    default_batch_size,
    pair_images_with_texts,
    raise_error,
    raise_first_error,
    raise_if_error,
    result_or_error,
)

# expressions in one pass of the decoder: with two, every intermediate tensor stays in a CPU's cache and below 32 MB
# (see models.image_encoder); a GPU needs many
_DECODER_BATCH_SIZE: Final = {"cpu": 2}
_GPU_DECODER_BATCH_SIZE: Final = 32
_WORKERS: Final = 2  # threads that load images

Loaded = TypeVar("Loaded")
Outcome = list[Segmentation] | SSPSAMError
"""The answers about one image of a batch, or the error raised for the image."""


class _LoadedImage(NamedTuple):
    """An image of a batch and its expressions, both ready for the model."""

    image: PreprocessedImage
    expressions: Sequence[TokenizedExpression]


class Pipeline:
    """Model, encoders and caches of one predictor on one device; threads may share it.

    Args:
        model: on the identity's device, in evaluation mode.
        config: of the model.
        identity: of the predictor.
        tokenizer: of the model.
        cache: of embeddings on disk, if there is one.
    """

    def __init__(
        self,
        model: SSPSAM,
        config: ModelConfig,
        identity: PredictorIdentity,
        tokenizer: Tokenizer,
        cache: EmbeddingCache | None,
    ) -> None:
        self._model, self._config, self._tokenizer = model, config, tokenizer
        self.identity, self.cache = identity, cache
        sizes = config.architecture
        self._embedding_shapes = [
            (sizes.clip.grid**2, sizes.clip.embed_dim),
            (sizes.sam.prompt_width, sizes.sam.grid, sizes.sam.grid),
        ]
        self.images = ImageEncoder(model, config, identity, cache)
        self.texts = TextEncoder(model, tokenizer, identity)
        self._prepared = PreparedEmbeddings(model, config, identity)

    @classmethod
    def of(cls, model: SSPSAM, config: ModelConfig, identity: PredictorIdentity, cache: EmbeddingCache | None) -> Self:
        """Build the pipeline of a model with a new tokenizer."""
        return cls(model, config, identity, tokenizer_for(config), cache)

    def on(self, device: torch.device) -> "Pipeline":
        """Return the pipeline of the same model after a move to another device; the caches in memory are empty."""
        return Pipeline(self._model, self._config, self.identity.on(device), self._tokenizer, self.cache)

    def tokenize(self, texts: str | Sequence[str]) -> list[TokenizedExpression]:
        """Check and tokenise expressions; see `TextEncoder.tokenize`."""
        return self.texts.tokenize(texts)

    def encode_image(self, image: ImageInput, max_pixels: int) -> ImageEmbedding:
        """Load and encode one image; see `SSPSAMPredictor.encode`."""
        return raise_if_error(self.images.encode([self.images.preprocess(image, max_pixels)])[0])

    def answer(
        self, embedding: ImageEmbedding, expressions: Sequence[TokenizedExpression], settings: AnswerSettings
    ) -> list[Segmentation]:
        """Return the answers about one image, in the order of the expressions."""
        batch_size = _DECODER_BATCH_SIZE.get(self.identity.device.type, _GPU_DECODER_BATCH_SIZE)
        results: list[Segmentation] = []
        with inference_context(self.identity.device):
            # Image: everything that depends on the image alone
            image, geometry = self._prepared.prepared(embedding)

            # Text: token ids -> text features
            encoded = self.texts.encode(expressions)

            # Segmentation: text features -> logits -> masks
            for start in range(0, len(encoded), batch_size):
                batch = encoded[start : start + batch_size]
                features = ExpressionFeatures.join([expression.features for expression in batch])
                prediction = self._model.segment(image, features)
                for row, expression in enumerate(batch):
                    words = self.texts.words(expression.token_ids) if settings.explain else []
                    row_prediction = Prediction(*(tensor[row : row + 1] for tensor in prediction))
                    results.append(
                        to_segmentation(
                            expression, words, row_prediction, geometry, embedding.pixels, self._config, settings
                        )
                    )
        return results

    def answer_batch(
        self,
        images: Iterable[ImageInput],
        texts: Iterable[str] | Iterable[Sequence[str]],
        settings: AnswerSettings,
        batch_size: int | None,
        workers: int | None,
        return_errors: bool,
    ) -> Iterator[Outcome]:
        """Answer about many images, lazily; see `SSPSAMPredictor.predict_batch`."""
        _check_batch_arguments(images, texts, batch_size, workers)
        require_working_thread_pool()  # once, not for each image
        tokenize: Callable[..., Any] = partial(result_or_error, self.tokenize) if return_errors else self.tokenize
        pairs = pair_images_with_texts(images, texts, tokenize)
        outcomes = compute_in_batches(
            # copied in this thread: the caller may change an image while a thread waits to load it
            ((_loaded_or_error(own_copy, image, settings.max_pixels), expressions) for image, expressions in pairs),
            partial(self._load, settings),
            partial(self._answer_loaded, settings),
            batch_size=batch_size or default_batch_size(self.identity.device),
            workers=workers or _WORKERS,
            on_single_item_oom=(lambda error: error) if return_errors else raise_error,
        )
        return outcomes if return_errors else raise_first_error(outcomes)

    def check_embedding(self, embedding: ImageEmbedding) -> None:
        """Refuse an embedding of another model.

        Raises:
            EmbeddingError: its fingerprint or the shapes of its tensors do not fit.
        """
        fingerprint = self.identity.fingerprint
        if embedding.fingerprint != fingerprint:
            raise EmbeddingError(
                f"the embedding was made by another model (fingerprint {embedding.fingerprint[:20]}..., this model has "
                f"{fingerprint[:20]}...): encode the image with this model"
            )
        shapes = [tuple(embedding.clip_features.shape), tuple(embedding.sam_embedding.shape)]
        if shapes != self._embedding_shapes:
            raise EmbeddingError(
                f"the embedding has tensors of shapes {shapes}; this model makes {self._embedding_shapes}"
            )

    def _load(
        self,
        settings: AnswerSettings,
        pair: tuple[ImageInput | SSPSAMError, Sequence[TokenizedExpression] | SSPSAMError],
    ) -> _LoadedImage | SSPSAMError:
        """Load and preprocess one image of a batch; called by a thread."""
        image, expressions = pair
        if isinstance(expressions, SSPSAMError):
            return expressions
        if isinstance(image, SSPSAMError):
            return image
        preprocessed = _loaded_or_error(self.images.preprocess, image, settings.max_pixels)
        return preprocessed if isinstance(preprocessed, SSPSAMError) else _LoadedImage(preprocessed, expressions)

    def _answer_loaded(self, settings: AnswerSettings, items: list[_LoadedImage | SSPSAMError]) -> list[Outcome]:
        """Encode the images of a batch together, then answer the expressions of each; errors keep their places."""
        embeddings = iter(self.images.encode([item.image for item in items if isinstance(item, _LoadedImage)]))
        outcomes: list[Outcome] = []
        for item in items:
            if isinstance(item, SSPSAMError):
                outcomes.append(item)
                continue
            embedding = next(embeddings)
            if isinstance(embedding, SSPSAMError):
                outcomes.append(embedding)
            else:
                outcomes.append(result_or_error(self.answer, embedding, item.expressions, settings))
        return outcomes


def _loaded_or_error(
    load: Callable[[ImageInput, int], Loaded], image: ImageInput, max_pixels: int
) -> Loaded | SSPSAMError:
    """Return what `load` makes of an image, or the error; a lack of memory while loading is an error of this image."""
    try:
        return result_or_error(load, image, max_pixels)
    except MemoryError:
        return OutOfMemoryError("not enough memory to load the image")


def _check_batch_arguments(images: object, texts: object, batch_size: int | None, workers: int | None) -> None:
    for name, count in (("batch_size", batch_size), ("workers", workers)):
        if count is not None:
            whole_number(name, count, 1)
    if isinstance(texts, str):
        raise TypeError("texts must be a list of expressions, or one such list for each image, not a string")
    if isinstance(images, str | bytes | bytearray | os.PathLike | Image.Image | np.ndarray):
        raise TypeError(
            "images must be an iterable of images, such as a list or generator; for one image use predict()"
        )
