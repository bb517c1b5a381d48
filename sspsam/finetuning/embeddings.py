"""Embeddings of the images of a fine-tuning: computed once, in memory as far as they fit, on disk in any case."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch

from sspsam.finetuning.network import Features
from sspsam.images.cache import EmbeddingCache
from sspsam.images.embedding import ImageEmbedding
from sspsam.images.loading import ImageInput
from sspsam.images.preprocessing import Geometry
from sspsam.models import ImageFeatures
from sspsam.predictor import SSPSAMPredictor

ImageSource = Callable[[], ImageInput]


class NotingCache(EmbeddingCache):
    """A cache that notes its last lookup, so that an entry can be read again without its image."""

    last_lookup: tuple[str, tuple[int, int], str] | None = None

    def load(self, key: str, size: tuple[int, int], fingerprint: str) -> ImageFeatures | None:
        """Return the features of an entry; see `EmbeddingCache.load`."""
        self.last_lookup = key, size, fingerprint
        return super().load(key, size, fingerprint)


class EmbeddingStore:
    """Embeddings by the key of their image.

    Args:
        predictor: that encodes; its cache is a `NotingCache`.
        memory_bytes: of the embeddings that stay in memory; the least recently used are dropped.
    """

    def __init__(self, predictor: SSPSAMPredictor, memory_bytes: int) -> None:
        if not isinstance(predictor.embedding_cache, NotingCache):
            raise TypeError("the predictor of an EmbeddingStore needs a NotingCache")
        self._predictor, self._cache, self._memory_bytes = predictor, predictor.embedding_cache, memory_bytes
        self._bytes = 0
        self._in_memory: OrderedDict[str, ImageFeatures] = OrderedDict()
        self._lookups: dict[str, tuple[str, tuple[int, int], str]] = {}
        self._sources: dict[str, ImageSource] = {}
        self.geometries: dict[str, Geometry] = {}

    def add(self, key: str, source: ImageSource) -> Geometry:
        """Encode an image, unless the cache on disk has its embedding, and return its geometry.

        Raises:
            ImageError: the image cannot be used.
        """
        if key not in self.geometries:
            self._sources[key] = source
            self._keep(key, self._encoded(key))
        return self.geometries[key]

    def image_features(self, key: str) -> ImageFeatures:
        """Return the embedding of one image on the CPU, in float32."""
        features = self._in_memory.get(key)
        if features is None:
            features = self._read(key)
            self._keep(key, features)
        self._in_memory.move_to_end(key)
        return features

    def features(self, keys: Sequence[str], device: torch.device) -> Features:
        """Return the embeddings of B images on a device."""
        images = [self.image_features(key) for key in keys]
        clip, sam = torch.stack([image.clip for image in images]), torch.stack([image.sam for image in images])
        return Features(clip.to(device), sam.to(device))

    def image(self, key: str) -> ImageInput:
        """Return the image that an embedding was made of."""
        return self._sources[key]()

    def _read(self, key: str) -> ImageFeatures:
        """Read an embedding from disk; encode it again where the cache has lost it."""
        lookup = self._lookups.get(key)
        features = None if lookup is None else self._cache.load(*lookup)
        return self._encoded(key) if features is None else features

    def _encoded(self, key: str) -> ImageFeatures:
        embedding: ImageEmbedding = self._predictor.encode(self._sources[key]())
        if self._cache.last_lookup is not None:
            self._lookups[key] = self._cache.last_lookup
        if embedding.geometry is None:
            raise TypeError("an embedding that was just made has a geometry")
        self.geometries[key] = embedding.geometry
        return ImageFeatures(embedding.clip_features.cpu(), embedding.sam_embedding.cpu())

    def _keep(self, key: str, features: ImageFeatures) -> None:
        self._in_memory[key] = features
        self._bytes += _bytes(features)
        while self._bytes > self._memory_bytes and len(self._in_memory) > 1:
            self._bytes -= _bytes(self._in_memory.popitem(last=False)[1])


def _bytes(features: ImageFeatures) -> int:
    return sum(tensor.nbytes for tensor in features)
