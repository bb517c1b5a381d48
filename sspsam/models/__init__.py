"""The networks of SSP-SAM: tensors in, tensors out.

Shape letters, used in every comment and docstring:

    B  pictures in a batch            H  hidden width of the SSP encoder (512)
    E  expressions                    D  prompt width, and width of SAM's decoder (256)
    L  text positions (77)            P  prompt tokens (128)
    G  side of CLIP's patch grid      M  side of the low-resolution mask logits (256)
    C  CLIP's embedding width         g  side of SAM's embedding grid (64)
    h w  height and width of a picture, pixels

Section numbers such as "section 3" refer to the numerical definition of the method that the project is tested
against: the paper is W. Tang et al., "SSP-SAM: SAM with Semantic-Spatial Prompt for Referring Expression
Segmentation", IEEE TCSVT 2025, arXiv 2603.18086.
"""

from sspsam.models.clip import CLIPWithSurgery, TextFeatures
from sspsam.models.layers import MLP
from sspsam.models.sam import SAM
from sspsam.models.ssp_encoder import (
    LinguisticAttentionAdapter,
    PromptGenerator,
    SSPEncoder,
    SSPOutput,
    VisualAttentionAdapter,
)
from sspsam.models.sspsam import SSPSAM, ExpressionFeatures, ImageFeatures, Prediction, PreparedImage

__all__ = [
    "MLP",
    "SAM",
    "SSPSAM",
    "CLIPWithSurgery",
    "ExpressionFeatures",
    "ImageFeatures",
    "LinguisticAttentionAdapter",
    "Prediction",
    "PreparedImage",
    "PromptGenerator",
    "SSPEncoder",
    "SSPOutput",
    "TextFeatures",
    "VisualAttentionAdapter",
]
