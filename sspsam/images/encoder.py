"""Preprocessed images -> `ImageEmbedding`: from the embedding cache on a hit, else from the image encoders."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sspsam.config import ModelConfig
from sspsam.devices import dtype_name, inference_context, not_finite, require_working_thread_pool
from sspsam.errors import SSPSAMError, warn
from sspsam.identity import EncoderIdentity, PredictorIdentity
from sspsam.images.cache import EmbeddingCache
from sspsam.images.embedding import ImageEmbedding
from sspsam.images.loading import ImageInput
from sspsam.images.preprocessing import PreprocessedImage, device_inputs, preprocess_image, staged_pixels
from sspsam.models import DeviceModel, ImageFeatures
from sspsam.models.device_model import finite_images
from sspsam.utils.batching import raise_if_error, result_or_error


class PendingEmbedding(NamedTuple):
    """An embedding that the device may still be computing.

    Args:
        embedding: must not reach a caller before `ImageEncoder.finish`.
        finite: (1,) bool on the device, whether all features are finite; None: they have been checked.
        inputs: (1, 3, S, S) and (1, 3, R, R), from which `finish` encodes again.
    """

    embedding: ImageEmbedding
    finite: Tensor | None = None
    inputs: tuple[Tensor, ...] = ()

    def is_finite(self) -> bool:
        """Wait for the device, and return whether all features are finite."""
        return self.finite is None or bool(self.finite)


class ImageEncoder:
    """Encode images; threads may share an encoder.

    Args:
        model: on the identity's device.
        config: of the model.
        identity: of the predictor.
        cache: of embeddings; None: every image is encoded.
        encoders: of the model.
    """

    def __init__(
        self,
        model: DeviceModel,
        config: ModelConfig,
        identity: PredictorIdentity,
        cache: EmbeddingCache | None,
        encoders: EncoderIdentity,
    ) -> None:
        self._model, self._config, self._identity, self._encoders = model, config, identity, encoders
        # no later process could look up the entries of a model that has no checkpoint
        self._cache = cache if identity.checkpoint is not None else None

    def preprocess(self, image: ImageInput, max_pixels: int) -> PreprocessedImage:
        """Load an image and make the model inputs; see `preprocess_image`."""
        require_working_thread_pool()
        device = self._identity.device if self._identity.device.type == "cuda" else None  # a CPU is faster with Pillow
        return preprocess_image(image, self._config, max_pixels, self._cache is not None, device)

    def encode(self, images: Sequence[PreprocessedImage]) -> list[ImageEmbedding | SSPSAMError]:
        """Encode images and return for each, in order, its embedding or the error raised for the image."""
        if self._cache is None:
            features = self._compute(images)
        else:
            # one at a time: the last bits of an embedding depend on the batch, and the batch would depend on cache hits
            features = [self._cached_or_computed(image, self._cache) for image in images]
        return [
            value if isinstance(value, SSPSAMError) else self._embedding(image, value)
            for image, value in zip(images, features, strict=True)
        ]

    def begin(self, image: PreprocessedImage) -> PendingEmbedding:
        """Encode one image; on a GPU without waiting for it, so that questions can follow at once.

        Raises:
            NumericalError: the features are not finite, and have been checked.
        """
        if self._cache is not None or self._identity.device.type == "cpu":
            return PendingEmbedding(raise_if_error(self.encode([image])[0]))
        with inference_context(self._identity.device):
            inputs = tuple(tensor.unsqueeze(0) for tensor in self._model_inputs(image))
            features = self._model.encode_image(*inputs)
            return PendingEmbedding(self._embedding(image, features[0]), finite_images(features), inputs)

    def finish(self, image: PreprocessedImage, pending: PendingEmbedding) -> ImageEmbedding:
        """Return the embedding if its features are finite, otherwise that of the image encoded again in float32.

        Raises:
            NumericalError: the features are not finite in float32 either.
        """
        if pending.is_finite():
            return pending.embedding
        with inference_context(self._identity.device):
            return self._embedding(image, self._compute_in_float32(*pending.inputs))

    def _cached_or_computed(self, image: PreprocessedImage, cache: EmbeddingCache) -> ImageFeatures | SSPSAMError:
        fingerprint, digest, precision = self._encoders.fingerprint, image.digest or "", self._identity.precision
        key = cache.key(digest, fingerprint, precision)
        cached = cache.load(key, image.size, fingerprint)
        if cached is None:
            earlier = self._identity.fingerprint  # an entry of an earlier version of sspsam
            cached = cache.load(cache.earlier_key(digest, earlier, precision), image.size, earlier)
        if cached is not None:
            return cached
        [features] = self._compute([image])
        if isinstance(features, SSPSAMError):
            return features
        features = cache.rounded(features)
        cache.store(key, features, image.size, fingerprint)
        return features

    def _compute(self, images: Sequence[PreprocessedImage]) -> list[ImageFeatures | SSPSAMError]:
        """Run both image encoders on a batch of B images."""
        if not images:
            return []
        with inference_context(self._identity.device):
            inputs = zip(*(self._model_inputs(image) for image in images), strict=True)
            clip_input, sam_input = (torch.stack(tensors) for tensors in inputs)  # (B, 3, S, S), (B, 3, R, R)
            features = self._model.encode_image(clip_input, sam_input)
            inputs = zip(torch.split(clip_input, 1), torch.split(sam_input, 1), strict=True)
            return [
                image_features if finite else result_or_error(self._compute_in_float32, *image_inputs)
                for image_features, finite, image_inputs in zip(
                    features, finite_images(features).tolist(), inputs, strict=True
                )
            ]

    def _model_inputs(self, image: PreprocessedImage) -> tuple[Tensor, Tensor]:
        """Return the inputs of CLIP and SAM on the device, made there if `preprocess` has not made them."""
        device = self._identity.device
        if image.clip_input is not None and image.sam_input is not None:
            return image.clip_input.to(device), image.sam_input.to(device)
        pixels = image.staged if image.staged is not None else staged_pixels(image.pixels, device)
        return device_inputs(pixels.to(device, non_blocking=True), image.geometry, self._config)

    def _compute_in_float32(self, clip_input: Tensor, sam_input: Tensor) -> ImageFeatures:
        """Encode one image whose features are not finite again in float32, unless that is the precision already.

        Raises:
            NumericalError: the features are not finite in float32 either.
        """
        dtype = self._identity.dtype
        if dtype is not torch.float32:
            warn(f"{dtype_name(dtype)} overflowed for this image: it is encoded again in float32")
            [features] = self._model.in_float32().encode_image(clip_input, sam_input)
            if finite_images([features]).all():
                return features
        raise not_finite("the features of the image")

    def _embedding(self, image: PreprocessedImage, features: ImageFeatures) -> ImageEmbedding:
        clip_features, sam_embedding = (tensor.to(self._identity.device) for tensor in features)
        return ImageEmbedding(
            clip_features,
            sam_embedding,
            *image.size,
            self._identity.fingerprint,
            image.pixels,
            image.geometry,
            self._encoders.fingerprint,
        )
