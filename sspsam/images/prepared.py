"""A small cache of prepared embeddings: the part of an answer that depends on the image alone."""

import threading
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

from sspsam.config import ModelConfig
from sspsam.identity import PredictorIdentity
from sspsam.images.embedding import ImageEmbedding
from sspsam.images.preprocessing import Geometry
from sspsam.models import DeviceModel, ImageFeatures, PreparedImage
from sspsam.models.streams import Finished

CAPACITY: Final = 16  # embeddings; at the published sizes one takes about 15 MB


class PreparedEmbedding(NamedTuple):
    """An embedding that is ready for questions, on the model's device."""

    features: PreparedImage
    geometry: Geometry


class PreparedEmbeddings:
    """Prepare embeddings for questions, and keep the most recently used ones; threads may share it.

    An entry lives no longer than its embedding.

    Args:
        model: on the identity's device.
        config: of the model.
        identity: of the predictor.
    """

    def __init__(self, model: DeviceModel, config: ModelConfig, identity: PredictorIdentity) -> None:
        self._model, self._config, self._identity = model, config, identity
        self._lock = threading.Lock()
        # oldest first; each with the end of its computation
        self._entries: WeakKeyDictionary[ImageEmbedding, tuple[PreparedEmbedding, Finished]] = WeakKeyDictionary()

    def prepared(self, embedding: ImageEmbedding) -> PreparedEmbedding:
        """Return the prepared embedding; call it inside `inference_context`."""
        with self._lock:
            kept = self._entries.pop(embedding, None)
            if kept is not None:
                self._entries[embedding] = kept  # now the most recently used
                entry, finished = kept
                finished.wait()
                return entry
        entry = self._prepare(embedding)  # two threads may both do so; their results are equal
        with self._lock:
            self._entries[embedding] = entry, Finished(self._identity.device)
            if len(self._entries) > CAPACITY:
                self._entries.pop(next(self._entries.keys()), None)
        return entry

    def _prepare(self, embedding: ImageEmbedding) -> PreparedEmbedding:
        embedding_on_device = embedding.to(self._identity.device)
        features = ImageFeatures(embedding_on_device.clip_features, embedding_on_device.sam_embedding)
        return PreparedEmbedding(self._model.prepare(features), embedding.geometry or self._geometry(embedding))

    def _geometry(self, embedding: ImageEmbedding) -> Geometry:
        """Return the geometry of an embedding that was read from a file."""
        sizes = self._config.architecture
        return Geometry.of(embedding.height, embedding.width, sizes.clip.image_size, sizes.sam.image_size)
