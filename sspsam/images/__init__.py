"""Any image -> upright RGB pixels -> model inputs -> `ImageEmbedding`, with a cache of embeddings on disk."""

from sspsam.images.loading import DEFAULT_MAX_PIXELS, ImageInput, Pixels, load_image

__all__ = ["DEFAULT_MAX_PIXELS", "ImageInput", "Pixels", "load_image"]
