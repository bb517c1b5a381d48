"""The computation behind a predictor, on one device: encode images and texts, answer expressions."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import NamedTuple, Self

import torch

from sspsam.config import ModelConfig
from sspsam.devices import dtype_name, inference_context, not_finite
from sspsam.errors import EmbeddingError, NoImageError, NumericalError, warn
from sspsam.identity import EncoderIdentity, PredictorIdentity
from sspsam.images.cache import EmbeddingCache
from sspsam.images.embedding import ImageEmbedding, require_fitting_encoders
from sspsam.images.encoder import ImageEncoder
from sspsam.images.loading import ImageInput
from sspsam.images.prepared import PreparedEmbeddings
from sspsam.images.preprocessing import Geometry
from sspsam.models import DeviceModel, ExpressionFeatures, Prediction, PreparedImage
from sspsam.models.device_model import expressions_per_pass
from sspsam.segmentation.answers import AnswerSettings, to_segmentation
from sspsam.segmentation.calibration import Calibration
from sspsam.segmentation.result import Segmentation
from sspsam.segmentation.summary import summarize
from sspsam.segmentation.target_rule import TargetRule
from sspsam.segmentation.transfer import Binarization, HostAnswer, begin_transfer
from sspsam.text.encoder import TextEncoder, TokenizedExpression, tokenizer_for
from sspsam.text.tokenizer import Tokenizer
from sspsam.utils.arguments import NOT_GIVEN, NotGiven
from sspsam.utils.batching import raise_if_error
from sspsam.utils.memory import is_out_of_memory, release_memory


class PendingAnswers(NamedTuple):
    """Answers to a batch of expressions about one image that the device may still be computing.

    Args:
        expressions: of the batch.
        geometry: of the image.
        prediction: on the device.
        finish: waits for the device and returns the answers in host memory.
    """

    expressions: Sequence[TokenizedExpression]
    geometry: Geometry
    prediction: Prediction
    finish: Callable[[], list[HostAnswer]]


class Pipeline:
    """Model, encoders and caches of one predictor on one device; threads may share it.

    Args:
        model: on the identity's device, in its precision.
        config: of the model.
        identity: of the predictor.
        tokenizer: of the model.
        cache: of embeddings on disk, if there is one.
        encoders: of the model.
        calibration: of the model, if there is one.
    """

    def __init__(
        self,
        model: DeviceModel,
        config: ModelConfig,
        identity: PredictorIdentity,
        tokenizer: Tokenizer,
        cache: EmbeddingCache | None,
        encoders: EncoderIdentity,
        calibration: Calibration | None,
    ) -> None:
        self.model, self._config, self._tokenizer = model, config, tokenizer
        self.identity, self.cache, self.encoders, self.calibration = identity, cache, encoders, calibration
        sizes = config.architecture
        self._embedding_shapes = [
            (sizes.clip.grid**2, sizes.clip.embed_dim),
            (sizes.sam.prompt_width, sizes.sam.grid, sizes.sam.grid),
        ]
        self.images = ImageEncoder(model, config, identity, cache, encoders)
        self.texts = TextEncoder(model, tokenizer, identity)
        self._prepared = PreparedEmbeddings(model, config, identity)
        self._summarize = partial(summarize, config=config)

    @classmethod
    def of(
        cls,
        model: DeviceModel,
        config: ModelConfig,
        identity: PredictorIdentity,
        cache: EmbeddingCache | None,
        encoders: EncoderIdentity,
        calibration: Calibration | None,
    ) -> Self:
        """Build the pipeline of a model with a new tokenizer.

        Args:
            model, config, identity, cache, encoders, calibration: as of the class.
        """
        return cls(model, config, identity, tokenizer_for(config), cache, encoders, calibration)

    def on(self, device: torch.device, model: DeviceModel) -> "Pipeline":
        """Return the pipeline of the same weights on another device; the caches in memory are empty."""
        identity = self.identity.on(device)
        return Pipeline(model, self._config, identity, self._tokenizer, self.cache, self.encoders, self.calibration)

    def tokenize(self, texts: str | Sequence[str]) -> list[TokenizedExpression]:
        """Check and tokenise expressions; see `TextEncoder.tokenize`."""
        return self.texts.tokenize(texts)

    def encode_image(self, image: ImageInput, max_pixels: int) -> ImageEmbedding:
        """Load and encode one image; see `SSPSAMPredictor.encode`."""
        return raise_if_error(self.images.encode([self.images.preprocess(image, max_pixels)])[0])

    def results(
        self,
        image: ImageInput | NotGiven,
        embedding: ImageEmbedding | NotGiven,
        current: ImageEmbedding | None,
        expressions: Sequence[TokenizedExpression],
        settings: AnswerSettings,
    ) -> list[Segmentation]:
        """Return the results of `SSPSAMPredictor.predict`.

        Args:
            image, embedding: of `predict`.
            current: of the image of `set_image`, if one is set.
            expressions: tokenised.
            settings: of the answers.
        """
        if image is not NOT_GIVEN and embedding is not NOT_GIVEN:
            raise TypeError("give predict() an image or an embedding, not both")
        if image is not NOT_GIVEN:
            return self.answer_image(image, expressions, settings)
        return self.answer(self._chosen_embedding(embedding, current), expressions, settings)

    def answer_image(
        self, image: ImageInput, expressions: Sequence[TokenizedExpression], settings: AnswerSettings
    ) -> list[Segmentation]:
        """Encode one image and return the answers about it; the host waits for a GPU at the end only."""
        preprocessed = self.images.preprocess(image, settings.max_pixels)
        pending = self.images.begin(preprocessed)
        results = None
        with suppress(NumericalError) if pending.finite is not None else nullcontext():
            results = self.answer(pending.embedding, expressions, settings, pending.is_finite)
        embedding = self.images.finish(preprocessed, pending)
        if results is not None and embedding is pending.embedding:
            return results
        return self.answer(embedding, expressions, settings)

    def answer(
        self,
        embedding: ImageEmbedding,
        expressions: Sequence[TokenizedExpression],
        settings: AnswerSettings,
        image_is_finite: Callable[[], bool] = lambda: True,
    ) -> list[Segmentation]:
        """Return the answers about one image, in the order of the expressions.

        Where memory does not suffice for a batch of expressions, the batches are halved.

        Args:
            embedding: of this model.
            expressions: tokenised.
            settings: of the answers.
            image_is_finite: whether all features of the image are finite; if not, no answer is computed again.

        Raises:
            NumericalError: a prediction is not finite in float32 either, or the image is not finite.
        """
        batch_size = expressions_per_pass(self.identity.device)
        results: list[Segmentation] = []
        while len(results) < len(expressions):
            try:
                batch = expressions[len(results) : len(results) + batch_size]
                results += self.finish(self.begin(embedding, batch, settings), embedding, settings, image_is_finite)
                continue
            except (RuntimeError, MemoryError) as error:
                batch_size = min(batch_size, len(expressions)) // 2
                if not is_out_of_memory(error) or batch_size == 0:
                    raise
            # outside of the except clause, whose traceback would keep the memory that has to be freed
            release_memory()
            warn(f"not enough memory for all expressions at once: {batch_size} at a time are answered")
        return results

    def begin(
        self, embedding: ImageEmbedding, expressions: Sequence[TokenizedExpression], settings: AnswerSettings
    ) -> PendingAnswers:
        """Queue the answers to a batch of expressions on the device."""
        with inference_context(self.identity.device):
            # Image: everything that depends on the image alone
            image, geometry = self._prepared.prepared(embedding)

            # Text: token ids -> text features
            features = self.texts.encode(expressions)

            # Segmentation: text features -> logits -> masks
            prediction, finish = self._segment(self.model, image, features, geometry, settings)
            return PendingAnswers(expressions, geometry, prediction, finish)

    def finish(
        self,
        pending: PendingAnswers,
        embedding: ImageEmbedding,
        settings: AnswerSettings,
        image_is_finite: Callable[[], bool] = lambda: True,
    ) -> list[Segmentation]:
        """Wait for the answers to a batch of expressions; see `answer`."""
        expressions, geometry, prediction, finish = pending
        with inference_context(self.identity.device):
            results = []
            for row, (expression, answer) in enumerate(zip(expressions, finish(), strict=True)):
                source = prediction, row
                if not (answer.finite or image_is_finite()):
                    raise not_finite("the features of the image")
                if not (answer.finite or self.model.answers_in_float32):
                    source, answer = self._answer_in_float32(embedding, expression, settings)
                words = self.texts.words(expression.token_ids) if settings.explain else []
                results.append(
                    to_segmentation(
                        expression, answer, *source, words, geometry, embedding.pixels, self._config, settings
                    )
                )
        return results

    def _answer_in_float32(
        self, embedding: ImageEmbedding, expression: TokenizedExpression, settings: AnswerSettings
    ) -> tuple[tuple[Prediction, int], HostAnswer]:
        """Compute one answer that is not finite again in float32; return its prediction, the row, and the answer."""
        warn(f"{dtype_name(self.identity.dtype)} overflowed for an expression: it is answered again in float32")
        model = self.model.in_float32()
        image, geometry = PreparedEmbeddings(model, self._config, self.identity).prepared(embedding)
        token_ids = torch.from_numpy(expression.token_ids).unsqueeze(0).to(self.identity.device)  # (1, L)
        prediction, finish = self._segment(model, image, model.encode_text(token_ids), geometry, settings)
        [answer] = finish()
        return (prediction, 0), answer

    def _segment(
        self,
        model: DeviceModel,
        image: PreparedImage,
        features: ExpressionFeatures,
        geometry: Geometry,
        settings: AnswerSettings,
    ) -> tuple[Prediction, Callable[[], list[HostAnswer]]]:
        """Return the prediction about one image on the device, and `finish` of `PendingAnswers`."""
        prediction, summary = model.segment(image, features, self._summarize)
        sizes = self._config.architecture
        rule = TargetRule(
            settings.no_target_pixels, settings.presence_threshold, settings.return_features, self.calibration
        )
        decide = partial(rule.decide, geometry=geometry, sam_size=sizes.sam.image_size, clip_size=sizes.clip.image_size)
        binarization = Binarization(geometry, sizes.sam.image_size, settings.threshold)
        return prediction, begin_transfer(prediction.low_res, summary, binarization, decide, rule.needs_features)

    def _chosen_embedding(self, embedding: ImageEmbedding | NotGiven, current: ImageEmbedding | None) -> ImageEmbedding:
        """Return the given embedding, or that of the image of `set_image`."""
        chosen = current if embedding is NOT_GIVEN else embedding
        if chosen is None and embedding is NOT_GIVEN:
            raise NoImageError("there is no image: call set_image(image) first, or pass image= or embedding=")
        if not isinstance(chosen, ImageEmbedding):
            raise TypeError(f"embedding must be an ImageEmbedding from encode(), not {type(chosen).__name__!r:.200}")
        self.check_embedding(chosen)
        return chosen

    def check_embedding(self, embedding: ImageEmbedding) -> None:
        """Refuse an embedding of other image encoders.

        Raises:
            EmbeddingError: its fingerprint or the shapes of its tensors do not fit.
        """
        require_fitting_encoders(embedding, self.identity, self.encoders)
        shapes = [tuple(embedding.clip_features.shape), tuple(embedding.sam_embedding.shape)]
        if shapes != self._embedding_shapes:
            raise EmbeddingError(
                f"the embedding has tensors of shapes {shapes}; this model makes {self._embedding_shapes}"
            )
