"""SSP-SAM: point at things in an image with words.

Importing this package is light: PyTorch and the models are imported when one of the names below is first used.
"""

from typing import TYPE_CHECKING, Any

from sspsam._version import __version__

if TYPE_CHECKING:
    from sspsam.images.cache import EmbeddingCache
    from sspsam.images.embedding import ImageEmbedding
    from sspsam.predictor import SSPSAMPredictor
    from sspsam.segmentation.result import Explanation, Segmentation

__all__ = ["EmbeddingCache", "Explanation", "ImageEmbedding", "SSPSAMPredictor", "Segmentation", "__version__"]

_HOME = {
    "EmbeddingCache": "sspsam.images.cache",
    "Explanation": "sspsam.segmentation.result",
    "ImageEmbedding": "sspsam.images.embedding",
    "SSPSAMPredictor": "sspsam.predictor",
    "Segmentation": "sspsam.segmentation.result",
}


# documented modules that `import sspsam` alone makes available as attributes, such as `sspsam.shapes.draw_scene`
_MODULES = (
    *("batch", "config", "convert", "devices", "errors", "evaluation", "finetuning", "hub", "identity", "images"),
    *("models", "ray", "segmentation", "serving", "shapes"),
)


def __getattr__(name: str) -> Any:
    if name not in _HOME and name not in _MODULES:
        raise AttributeError(
            f"module 'sspsam' has no attribute {name!r}; its public names are {', '.join(__all__)}; "
            f"its modules are {', '.join(_MODULES)}"
        )
    import importlib

    if name in _MODULES:
        return importlib.import_module(f"sspsam.{name}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
