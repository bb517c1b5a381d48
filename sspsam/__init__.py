"""SSP-SAM: point at things in a picture with words.

Importing this package is light: PyTorch and the models are imported when one of the names below is first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sspsam.embedding import ImageEmbedding
    from sspsam.embedding_cache import EmbeddingCache
    from sspsam.predictor import SSPSAMPredictor
    from sspsam.segmentation import Explanation, Segmentation

__version__ = "0.1.0"
__all__ = ["EmbeddingCache", "Explanation", "ImageEmbedding", "SSPSAMPredictor", "Segmentation", "__version__"]

_HOME = {
    "EmbeddingCache": "sspsam.embedding_cache",
    "Explanation": "sspsam.segmentation",
    "ImageEmbedding": "sspsam.embedding",
    "SSPSAMPredictor": "sspsam.predictor",
    "Segmentation": "sspsam.segmentation",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sspsam' has no attribute {name!r}; its public names are {', '.join(__all__)}")
    import importlib

    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
