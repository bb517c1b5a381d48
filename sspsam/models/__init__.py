"""The networks of SSP-SAM: tensors in, tensors out.

The files follow the figure of the paper. `clip.py` encodes an image and an expression, `image_encoder.py` encodes the
image for SAM. `attention_adapters.py` and `ssp_encoder.py` turn CLIP's features into prompts and a box.
`mask_decoder.py` and its `transformer.py` decode a mask from the prompts. `sam.py` joins the parts of SAM, and
`sspsam.py` the whole network. `device_model.py` is the network on one device in one precision: `precision.py` narrows
and moves its weights, `cuda_graphs.py` records its computation, `compilation.py` compiles SAM's blocks, and
`streams.py` orders the work of several CUDA streams. `layers.py` holds the layers that several networks share,
`stock.py` the imports from open_clip and segment_anything, and `kernels.py` the operators that only one backend has.
`norms.py` (the sums and norms between products), `patch_weights.py` and `gru.py` choose between PyTorch's operators and
kernels for a GPU in Triton, which `norm_kernels.py`, `patch_kernels.py` and `gru_kernel.py` define and `trials.py`
tries before their use; `norm_operators.py` offers some of them to PyTorch's compiler.

Shape letters, used in every comment and docstring of this package:

    B  images in a batch              H  hidden width of the SSP encoder (512)
    E  expressions                    D  prompt width, and width of SAM's decoder (256)
    L  text positions (77)            P  prompt tokens (128)
    n  text positions up to the       T  tokens of SAM's decoder: IoU, masks, prompts
       last word of a batch           M  side of the low-resolution mask logits (256)
    S  side of CLIP's square          R  side of SAM's square (1024)
    G  side of CLIP's patch grid      g  side of SAM's embedding grid (64)
    C  CLIP's embedding width         N  image tokens of SAM's decoder (g*g)
    X  images or windows of a block   s  side of the grid or window in which a block
       of SAM's encoder                  of SAM's encoder attends
    Q K  queries, keys                d  width of queries and keys: of one head in SAM's
    h w  height and width of an          encoder, of all heads in its decoder
         image, pixels

CLIP's square holds the resized image in its middle, SAM's square at its top left; the rest of both is padding.

The paper is W. Tang et al., "SSP-SAM: SAM with Semantic-Spatial Prompt for Referring Expression Segmentation", IEEE
TCSVT 2025, arXiv 2603.18086. The computation is defined in `docs/method.md`.
"""

from sspsam.models.attention_adapters import LinguisticAttentionAdapter, VisualAttentionAdapter
from sspsam.models.clip import CLIPWithSurgery, TextFeatures
from sspsam.models.device_model import DeviceModel
from sspsam.models.layers import MLP
from sspsam.models.sam import SAM
from sspsam.models.ssp_encoder import PromptGenerator, SSPEncoder, SSPOutput
from sspsam.models.sspsam import SSPSAM, ExpressionFeatures, ImageFeatures, Prediction, PreparedImage

__all__ = [
    "MLP",
    "SAM",
    "SSPSAM",
    "CLIPWithSurgery",
    "DeviceModel",
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
