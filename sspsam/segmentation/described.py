"""`DescribedPredictor`: the properties of a predictor that say which model answers, where, and in which precision."""

import torch

from sspsam.config import ModelConfig
from sspsam.images.cache import EmbeddingCache
from sspsam.segmentation.pipeline import Pipeline
from sspsam.utils.module_habits import ModuleHabits


class DescribedPredictor(ModuleHabits):
    """Base class of the predictor with its properties.

    Args:
        config: of the model.
        pipeline: that answers; a move to another device replaces it.
    """

    def __init__(self, config: ModelConfig, pipeline: Pipeline) -> None:
        self._config, self._pipeline = config, pipeline

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._pipeline.identity.described(self._config)})"

    @property
    def config(self) -> ModelConfig:
        """Configuration of the model."""
        return self._config

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self._pipeline.identity.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the image encoders' matrix products."""
        return self._pipeline.identity.dtype

    @property
    def fingerprint(self) -> str:
        """Fingerprint of configuration and weights; random for a model that was made in memory."""
        return self._pipeline.identity.fingerprint

    @property
    def encoder_fingerprint(self) -> str:
        """Fingerprint of the image encoders and the preprocessing of images: models with equal ones share embeddings.

        It is computed when it is first needed, which reads all weights of the encoders once, and then recorded for the
        file of the checkpoint.
        """
        return self._pipeline.encoders.fingerprint

    @property
    def origin(self) -> str:
        """Source of the weights: `owner/name@commit[:path]`, a path, or `"memory"`."""
        return self._pipeline.identity.origin

    @property
    def embedding_cache(self) -> EmbeddingCache | None:
        """Cache of embeddings on disk, if there is one."""
        return self._pipeline.cache
