"""The modules of open_clip and segment_anything that this package uses or subclasses.

Importing the two packages sets environment variables and a warnings filter. A library must not change the process that
imports it, so this file restores both after the import.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from sspsam.utils.hub_environment import check_hub_environment


@contextmanager
def _restored_environment_and_warnings() -> Iterator[None]:
    environment = dict(os.environ)
    with warnings.catch_warnings():
        try:
            yield
        finally:
            for name in set(os.environ) - set(environment):
                del os.environ[name]
            os.environ.update(environment)


with _restored_environment_and_warnings():
    check_hub_environment()  # open_clip imports huggingface_hub
    from open_clip.tokenizer import SimpleTokenizer
    from open_clip.transformer import (
        QuickGELU,
        ResidualAttentionBlock,
        TextTransformer,
        Transformer,
        VisionTransformer,
    )
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
    from segment_anything.modeling.image_encoder import Attention as ImageAttention
    from segment_anything.modeling.image_encoder import Block as ImageBlock
    from segment_anything.modeling.transformer import Attention as TwoWayAttention
    from segment_anything.modeling.transformer import TwoWayAttentionBlock

__all__ = [
    "ImageAttention",
    "ImageBlock",
    "ImageEncoderViT",
    "MaskDecoder",
    "PromptEncoder",
    "QuickGELU",
    "ResidualAttentionBlock",
    "SimpleTokenizer",
    "TextTransformer",
    "Transformer",
    "TwoWayAttention",
    "TwoWayAttentionBlock",
    "TwoWayTransformer",
    "VisionTransformer",
]
