"""From pictures to embeddings: through the encoders, or from the cache where they have been through them before."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sspsam.config import ModelConfig
from sspsam.devices import dtype_name, inference_context
from sspsam.errors import SSPSAMError, warn
from sspsam.images.cache import EmbeddingCache
from sspsam.images.embedding import ImageEmbedding
from sspsam.images.loading import ImageInput
from sspsam.images.preprocessing import PreprocessedImage, preprocess_image
from sspsam.models import SSPSAM, ImageFeatures
from sspsam.models.sspsam import require_finite
from sspsam.utils.batching import result_or_error

UNSAVED = "unsaved-"  # how the fingerprints of models begin that came from no checkpoint


class ImageEncoder:
    """Encodes pictures; changes nothing but the cache.

    Args:
        model: encodes.
        config: what belongs to it.
        dtype: precision of the encoders' matrix products.
        cache: of embeddings, or none.
    """

    def __init__(self, model: SSPSAM, config: ModelConfig, dtype: torch.dtype, cache: EmbeddingCache | None) -> None:
        self._model, self._config, self._dtype, self.cache = model, config, dtype, cache

    def read(self, image: ImageInput, max_pixels: int) -> PreprocessedImage:
        """Read a picture and make it ready; see `read_picture`."""
        return preprocess_image(image, self._config, max_pixels, digest=self.cache is not None)

    def encode(
        self, pictures: Sequence[PreprocessedImage], device: torch.device, fingerprint: str
    ) -> list[ImageEmbedding | SSPSAMError]:
        """What becomes of each picture.

        Args:
            pictures: from `read`.
            device: where the model is.
            fingerprint: of the model.
        """
        cache = None if fingerprint.startswith(UNSAVED) else self.cache  # nobody could ask for such entries again
        precision = f"{dtype_name(self._dtype)} {device.type}"
        keys = [cache.key(each.digest or "", fingerprint, precision) if cache else "" for each in pictures]
        known = [
            cache.load(key, each.size, fingerprint) if cache else None for key, each in zip(keys, pictures, strict=True)
        ]
        missing = [each for each, one in zip(pictures, known, strict=True) if one is None]
        # with a cache each alone: in its last bits an embedding depends on its company, and that on what is cached
        parts = [[each] for each in missing] if cache else [missing]
        computed = (features for part in parts for features in self._compute(part, device))
        outcomes: list[ImageEmbedding | SSPSAMError] = []
        for key, picture, features in zip(keys, pictures, known, strict=True):
            new = next(computed) if features is None else features
            if isinstance(new, SSPSAMError):
                outcomes.append(new)
                continue
            if cache and features is None:
                new = cache.rounded(new)
                cache.store(key, new, picture.size, fingerprint)
            clip, sam = (tensor.to(device) for tensor in new)
            outcomes.append(ImageEmbedding(clip, sam, *picture.size, fingerprint, picture.pixels))
        return outcomes

    def _compute(
        self, pictures: Sequence[PreprocessedImage], device: torch.device
    ) -> list[ImageFeatures | SSPSAMError]:
        if not pictures:
            return []
        inputs = [torch.stack(tensors).to(device) for tensors in zip(*(p.inputs for p in pictures), strict=True)]
        with inference_context(device, self._dtype):
            features = self._model.encode_image(*inputs)
        return [result_or_error(self._finite, each, index, inputs) for index, each in enumerate(features)]

    def _finite(self, features: ImageFeatures, index: int, inputs: list[Tensor]) -> ImageFeatures:
        """The features in float32; computed again in float32 where mixed precision overflowed."""
        if self._dtype is not torch.float32 and not all(bool(tensor.isfinite().all()) for tensor in features):
            warn(f"{dtype_name(self._dtype)} is too narrow for this picture: it is encoded again in float32")
            with inference_context(inputs[0].device):
                [features] = self._model.encode_image(*(tensor[index : index + 1] for tensor in inputs))
        features = ImageFeatures(*(tensor.float() for tensor in features))
        require_finite("the picture's features", *features)
        return features
