"""SAM's mask decoder, with the prompts of the SSP encoder (docs/method.md, section 4).

The module is a subclass of segment_anything's, with the same parameter names. The stock decoder repeats the image for
every set of prompts, decodes four masks and keeps one. Here `prepare` computes once what depends on the image alone,
and `forward` computes only the one mask and its predicted IoU.
"""

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from sspsam.config import SAMConfig
from sspsam.models import stock
from sspsam.models.kernels import Activation, linear, widened
from sspsam.models.layers import MLP, FoldingModule
from sspsam.models.norms import normalize_with_gelu
from sspsam.models.transformer import ImageProjections, TwoWayTransformer


class DecoderImage(NamedTuple):
    """All that the decoder computes from an image without prompts."""

    tokens: Tensor  # (1, N, D), the embedding plus the "no mask" embedding
    position: Tensor  # (N, D)
    projections: ImageProjections  # of the tokens, in the first layer


class _Matrix(NamedTuple):
    """A transposed convolution of 2 x 2 with stride 2, as a product for each pixel."""

    weight: Tensor  # (4*c', c), the four output pixels in their order
    bias: Tensor | None  # (4*c',)


class _Constants(NamedTuple):
    """All that the decoder computes from its weights alone."""

    output_tokens: Tensor  # (1 + mask tokens, D)
    upscaling: tuple[_Matrix, _Matrix]


class MaskDecoder(FoldingModule, stock.MaskDecoder):
    """SAM's mask decoder for mask token 0.

    Args:
        config: dimensions.
    """

    transformer: TwoWayTransformer
    iou_token: nn.Embedding  # (1, D)
    mask_tokens: nn.Embedding  # (mask tokens, D)
    output_upscaling: nn.Sequential
    _constants: _Constants | None = None

    def __init__(self, config: SAMConfig) -> None:
        width = config.prompt_width
        super().__init__(
            transformer_dim=width,
            transformer=TwoWayTransformer(config),
            num_multimask_outputs=config.mask_tokens - 1,
            iou_head_depth=config.iou_head_layers,
            iou_head_hidden_dim=config.iou_head_width,
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(width, width, width // 8, 3) for _ in range(config.mask_tokens)
        )
        self.iou_prediction_head = MLP(width, config.iou_head_width, config.mask_tokens, config.iou_head_layers)

    def fold(self) -> None:
        """Compute what depends on weights alone; see `FoldingModule`."""
        self._constants = self._compute_constants()

    def _compute_constants(self) -> _Constants:
        output_tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        convolutions = self.output_upscaling[0], self.output_upscaling[3]
        first, second = (_matrix(cast(nn.ConvTranspose2d, convolution)) for convolution in convolutions)
        return _Constants(output_tokens, (first, second))

    def prepare(self, embedding: Tensor, position: Tensor, no_mask: Tensor) -> DecoderImage:
        """Compute what does not depend on prompts.

        Args:
            embedding: (D, g, g) of one image.
            position: (1, D, g, g) dense position encoding.
            no_mask: (1, D), the embedding that stands for no mask prompt.
        """
        tokens = (embedding.flatten(1).T.contiguous() + no_mask).unsqueeze(0)  # (1, N, D)
        token_position = position.flatten(2).squeeze(0).T.contiguous()  # (N, D)
        return DecoderImage(tokens, token_position, self.transformer.project_image(tokens, token_position))

    def forward(self, image: DecoderImage, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Decode one mask for each set of prompts.

        Args:
            image: from `prepare`.
            prompts: (E, P, D) sparse prompt embeddings, one set for each expression.

        Returns:
            Low-resolution logits (E, M, M) and the predicted IoU (E,), both of mask token 0.
        """
        constants = self._constants or self._compute_constants()
        tokens = torch.cat([constants.output_tokens.expand(len(prompts), -1, -1), prompts], dim=1)  # (E, T, D)
        # the first two outputs are the IoU token and mask token 0
        outputs, keys = self.transformer(tokens, image.tokens, image.position, image.projections, outputs=2)
        iou = widened(self.iou_prediction_head(outputs[:, 0])[:, 0])  # (E,)
        mask_weights = self.output_hypernetworks_mlps[0](outputs[:, 1])  # (E, D/8)
        return widened(self._mask_logits(keys, mask_weights, constants.upscaling)), iou

    def _mask_logits(self, keys: Tensor, mask_weights: Tensor, upscaling: tuple[_Matrix, _Matrix]) -> Tensor:
        """Upsample the image tokens by four and multiply them with the weights of the mask.

        A transposed convolution of 2 x 2 with stride 2 is one product for each token; its four outputs are then
        reordered into 2 x 2 pixels. Every step up to the mask works on each pixel alone, so only the mask is reordered.

        Args:
            keys: (E, N, D).
            mask_weights: (E, D/8).
            upscaling: the two convolutions of `output_upscaling`.

        Returns:
            (E, M, M).
        """
        norm = self.output_upscaling[1]
        first, second = upscaling
        count, side = len(keys), math.isqrt(keys.shape[1])
        x = _upsample(keys, first)  # (E, N, 4, D/4)
        x = normalize_with_gelu(norm, x, second.weight.dtype)
        x = _upsample(x, second, "gelu")  # (E, N, 4, 4, D/8)
        mask = x.flatten(1, 3) @ mask_weights.unsqueeze(-1)  # (E, N*4*4, 1)
        # y and x of the token, within the first 2 x 2 pixels, within the second 2 x 2 pixels
        mask = mask.view(count, side, side, 2, 2, 2, 2)  # (E, g, g, 2, 2, 2, 2)
        return mask.permute(0, 1, 3, 5, 2, 4, 6).reshape(count, 4 * side, 4 * side)  # (E, M, M)


def _matrix(convolution: nn.ConvTranspose2d) -> _Matrix:
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)
    return _Matrix(weight, None if convolution.bias is None else convolution.bias.repeat(4))


def _upsample(x: Tensor, matrix: _Matrix, activation: Activation = "none") -> Tensor:
    """(..., c) features of a pixel -> (..., 4, c') features of the 2 x 2 pixels that replace it."""
    return linear(x, *matrix, activation).view(*x.shape[:-1], 4, -1)
