"""The stock modules of open_clip and segment_anything, imported in one place and without a trace.

Importing these two packages sets environment variables and a warnings filter. A library must not change its host, so
both are put back.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from sspsam.utils.hub_environment import check_hub_environment


@contextmanager
def _host_unchanged() -> Iterator[None]:
    environment = dict(os.environ)
    with warnings.catch_warnings():
        try:
            yield
        finally:
            for name in set(os.environ) - set(environment):
                del os.environ[name]
            os.environ.update(environment)


with _host_unchanged():
    check_hub_environment()  # open_clip imports huggingface_hub
    from open_clip.tokenizer import SimpleTokenizer
    from open_clip.transformer import QuickGELU, TextTransformer, VisionTransformer
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
    from segment_anything.modeling.mask_decoder import MLP

__all__ = [
    "MLP",
    "ImageEncoderViT",
    "MaskDecoder",
    "PromptEncoder",
    "QuickGELU",
    "SimpleTokenizer",
    "TextTransformer",
    "TwoWayTransformer",
    "VisionTransformer",
]
