"""The two attention adapters of the SSP encoder (docs/method.md, section 3).

The linguistic attention adapter weights the words of an expression; it needs no image. The visual attention adapter
weights the patches of an image by the sentence, then by the words.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sspsam.models.gru import GRUWeights, fused_gru, stack_directions
from sspsam.models.kernels import linear, widened
from sspsam.models.layers import MLP, FoldingModule, Linear, MultiheadAttention
from sspsam.models.patch_weights import weight_by_sentence, weight_by_words


class LinguisticFeatures(NamedTuple):
    """The output of the linguistic attention adapter for E expressions."""

    words: Tensor  # (E, L, H)
    word_attention: Tensor  # (E, L), sums to 1, 0 at padding
    sentence: Tensor  # (E, H)


class VisualFeatures(NamedTuple):
    """The output of the visual attention adapter for one image and E expressions."""

    patches: Tensor  # (E, G*G, H), gated by the sentence; for the product that fuses them
    similarity: Tensor  # (E, G*G), in [0, 1]
    verification: Tensor  # (E, G*G)


class LinguisticAttentionAdapter(FoldingModule):
    """Weights the words of an expression with a bidirectional GRU.

    Args:
        text_width: width of CLIP's word features.
        hidden_width: H.
    """

    _stacked: GRUWeights | None = None

    def __init__(self, text_width: int, hidden_width: int) -> None:
        super().__init__()
        self.word_projection = Linear(text_width, hidden_width, packed=True)
        self.gru = nn.GRU(hidden_width, hidden_width, batch_first=True, bidirectional=True)
        self.score = Linear(2 * hidden_width, 1, packed=True)

    def forward(self, words: Tensor, padding: Tensor) -> LinguisticFeatures:
        """Attend to the words.

        Args:
            words: (E, L, text width) from CLIP.
            padding: (E, L) bool, True at padding.
        """
        words = self.word_projection(words)  # (E, L, H)
        length = _longest_length(padding)
        scores = widened(self.score(self._gru_states(words, length)).squeeze(-1))  # (E, n)
        attention = scores.masked_fill(padding[:, :length], -torch.inf).softmax(dim=-1)  # (E, n)
        sentence = torch.einsum("en,enh->eh", attention, widened(words[:, :length]))  # (E, H)
        if length < words.shape[1]:
            attention = F.pad(attention, (0, words.shape[1] - length))
        return LinguisticFeatures(words, attention, sentence)

    def fold(self) -> None:
        """Stack the weights of both directions, for the kernel of a GPU; see `FoldingModule`."""
        if self.gru.weight_ih_l0.device.type == "cuda":
            self._stacked = stack_directions(self.gru)

    def _gru_states(self, words: Tensor, length: int) -> Tensor:
        """Run the GRU in both directions, (E, L, H) -> (E, n, 2H) for the first `length` words.

        The backward direction starts in the padding, as in the authors' training. The forward direction stops at the
        last word: its steps run one after the other, on a CPU for a tenth of the time of encoding an expression.
        """
        gru = self.gru
        if length == words.shape[1]:  # both directions at once, as a GPU computes them fastest
            fused = fused_gru(gru.hidden_size, len(words), words.dtype, words.device)
            if fused is not None:
                return fused(self._stacked or stack_directions(gru), words)
            states: Tensor = gru(words)[0]
            return states
        start = words.new_zeros(1, len(words), gru.hidden_size)  # (1, E, H)
        forward, backward = (
            torch.gru(direction, start, _gru_weights(gru, suffix), True, 1, 0.0, False, False, True)[0]
            for direction, suffix in ((words[:, :length], ""), (words.flip(1), "_reverse"))
        )  # (E, n, H), (E, L, H)
        return torch.cat([forward, backward.flip(1)[:, :length]], dim=-1)


class VisualAttentionAdapter(FoldingModule):
    """Weights the patches of an image by the sentence, then by the words with a Gaussian-like mapping.

    Args:
        embed_dim: C.
        hidden_width: H.
        heads: of the attention from patches to words.
        projection_layers: depth of the image projection.
    """

    _context_bias: Tensor | None = None

    def __init__(self, embed_dim: int, hidden_width: int, heads: int, projection_layers: int) -> None:
        super().__init__()
        self.image_projection = MLP(embed_dim, hidden_width, hidden_width, projection_layers)
        self.word_attention = MultiheadAttention(hidden_width, heads)
        self.verify_image = Linear(hidden_width, hidden_width, packed=True)
        self.verify_words = Linear(hidden_width, hidden_width, packed=True)
        self.norm = nn.LayerNorm(hidden_width)
        self.scale = nn.Parameter(torch.ones(1))
        self.sigma = nn.Parameter(torch.full((1,), 0.5))

    def fold(self) -> None:
        """Compute what depends on weights alone; see `FoldingModule`."""
        self._context_bias = self._compute_context_bias()

    def _compute_context_bias(self) -> Tensor:
        """(H,), what the bias of the attention's output becomes in `verify_words`."""
        return self.verify_words(self.word_attention.out_proj.bias)

    def project(self, features: Tensor) -> Tensor:
        """Multiply the patches with the first layer of the image projection, (G*G, C) -> (G*G, H), without its bias.

        A patch is weighted by its similarity to the sentence before it is projected. As the product is linear, one
        product serves all expressions, and `forward` weights its result.
        """
        return self.image_projection.first_layer.without_bias(features)

    def forward(
        self,
        features: Tensor,
        projected: Tensor,
        sentence: Tensor,
        language: LinguisticFeatures,
        padding: Tensor,
        dtype: torch.dtype,
    ) -> VisualFeatures:
        """Attend to the patches.

        Args:
            features: (G*G, C) of one image, from CLIP; or (E, G*G, C), an image for each expression.
            projected: (G*G, H) or (E, G*G, H), from `project`.
            sentence: (E, C), from CLIP.
            language: from the linguistic attention adapter.
            padding: (E, L) bool, True at padding.
            dtype: of the product that fuses the patches.
        """
        one_image = features.ndim == 2
        products = sentence @ features.T if one_image else torch.einsum("ec,enc->en", sentence, features)  # (E, G*G)
        _, *later_layers = self.image_projection.layers
        first_bias, narrow = self.image_projection.first_layer.bias, self.verify_image.weight.dtype
        similarity, patches = weight_by_sentence(products, projected, first_bias, narrow, relu=bool(later_layers))
        for layer in later_layers:
            patches = layer(patches, "none" if layer is later_layers[-1] else "relu")  # (E, G*G, H)
        context = self._verification_context(patches, language.words, padding)  # (E, G*G, H)
        image = self.verify_image(patches)  # (E, G*G, H)
        verification, patches = weight_by_words(
            self.norm, self.scale, self.sigma, image, context, patches, language.sentence, dtype
        )
        return VisualFeatures(patches, similarity, verification)

    def _verification_context(self, patches: Tensor, words: Tensor, padding: Tensor) -> Tensor:
        """Compute `verify_words(word_attention(patches, words, words))`.

        There are many patches and few words, so W_q is folded into the keys, and W_out and the weight of `verify_words`
        into the values. The stock attention has three products of G*G rows with H x H weights; here G*G rows are
        multiplied only with the folded keys, H x (heads*n), and values, (heads*n) x H. The bias of the keys adds the
        same to all scores of a patch, which the softmax ignores.

        Args:
            patches: (E, G*G, H).
            words: (E, L, H).
            padding: (E, L) bool, True at padding.

        Returns:
            (E, G*G, H).
        """
        attention, heads = self.word_attention, self.word_attention.num_heads
        length = _longest_length(padding)
        words, padding = words[:, :length], padding[:, :length]
        patches = patches.to(attention.in_proj_weight.dtype)
        count, _, hidden = words.shape
        width = hidden // heads
        query_weight, key_weight, value_weight = attention.in_proj_weight.chunk(3)  # (H, H) each
        query_bias, _, value_bias = attention.in_proj_bias.chunk(3)  # (H,) each
        keys = linear(words, key_weight) / math.sqrt(width)  # (E, n, H)
        folded_keys = _multiply_per_head(keys, query_weight.view(heads, width, hidden))  # (E, heads*n, H)
        bias = (keys * query_bias).view(count, length, heads, width).sum(dim=-1).transpose(1, 2)  # (E, heads, n)
        bias = bias.masked_fill(padding.unsqueeze(1), -torch.inf).view(count, 1, heads * length)
        scores = torch.baddbmm(bias, patches, folded_keys.transpose(1, 2))  # (E, G*G, heads*n)
        # (E, G*G, heads*n); of half precision, too, PyTorch computes it in float32
        weights = scores.view(count, -1, heads, length).softmax(dim=-1).flatten(2)
        values = linear(words, value_weight, value_bias)  # (E, n, H)
        output_weight = attention.out_proj.weight.T.view(heads, width, hidden)
        folded_values = self.verify_words.without_bias(_multiply_per_head(values, output_weight))  # (E, heads*n, H)
        bias = self._compute_context_bias() if self._context_bias is None else self._context_bias
        return torch.baddbmm(bias, weights.to(folded_values.dtype), folded_values)


def _multiply_per_head(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply each head's part of the words with its own weight.

    Args:
        x: (E, n, H).
        weight: (heads, H/heads, H).

    Returns:
        (E, heads*n, H).
    """
    heads, width, hidden = weight.shape
    count, length, _ = x.shape
    by_head = x.view(count * length, heads, width).transpose(0, 1)  # (heads, E*n, H/heads)
    return (by_head @ weight).view(heads, count, length, hidden).transpose(0, 1).flatten(1, 2)


def _gru_weights(gru: nn.GRU, suffix: str) -> list[Tensor]:
    """Return the parameters of one direction, in the order of `torch.gru`."""
    return [getattr(gru, f"{name}_l0{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]


def _longest_length(padding: Tensor) -> int:
    """Return n, the text positions up to the last word of the longest expression, of (E, L) bool.

    Padding may lie between words too: CLIP's id of "!" is 0. Stopping at the last word saves time on a CPU. On other
    devices n is L: to read the length, the CPU would wait for the device, and a CUDA graph cannot be recorded.
    """
    if padding.device.type != "cpu":
        return padding.shape[1]
    return int(padding.logical_not().any(dim=0).nonzero().max()) + 1
