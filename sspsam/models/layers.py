"""Layers that several networks share. Their parameters have the names and shapes of the stock layers."""

from collections.abc import Callable
from itertools import pairwise
from typing import Self, cast

from torch import Tensor, nn

from sspsam.models.kernels import Activation, PackedWeight, attention, linear


class PackingLayer(nn.Module):
    """A layer that may keep a weight packed for oneDNN between calls, in evaluation mode.

    A layer that runs for every expression keeps its weight packed. The layers of the image encoders run once for an
    image, so they would take twice the memory and gain little.
    """

    packed_weight: PackedWeight | None = None  # None: the layer does not pack

    def packed_weight_in_evaluation(self) -> PackedWeight | None:
        """The packed weight, or None in training mode, where every step of the optimizer changes the weight."""
        return None if self.training else self.packed_weight

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Convert the parameters, as `to` and `float` do through `weight.data`, and drop what was packed from them."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.packed_weight is not None:
            self.packed_weight.drop()
        return self


def release_packed_weights(model: nn.Module) -> None:
    """Free the packed weights of a network; a later product packs its weight again."""
    for module in model.modules():
        if isinstance(module, PackingLayer) and module.packed_weight is not None:
            module.packed_weight.drop()


class FoldingModule(nn.Module):
    """A module that computes something from its weights alone, in every call or, where they never change, once."""

    def fold(self) -> None:
        """Compute and keep what depends on weights alone; the weights must not change afterwards."""
        raise NotImplementedError


class Linear(PackingLayer, nn.Linear):
    """A linear layer with bias that multiplies with `kernels.linear`.

    Args:
        width_in: width of the input.
        width_out: width of the output.
        packed: whether to keep the weight packed; see `PackingLayer`.
    """

    __call__: Callable[..., Tensor]  # nn.Module declares it as Any

    def __init__(self, width_in: int, width_out: int, *, packed: bool = False) -> None:
        super().__init__(width_in, width_out)
        if packed:
            self.packed_weight = PackedWeight()

    def forward(self, x: Tensor, activation: Activation = "none") -> Tensor:
        """(..., in) -> (..., out)."""
        return linear(x, self.weight, self.bias, activation, self.packed_weight_in_evaluation())

    def without_bias(self, x: Tensor) -> Tensor:
        """Multiply with the weight alone, (..., in) -> (..., out)."""
        return linear(x, self.weight, packed=self.packed_weight_in_evaluation())


class MultiheadAttention(PackingLayer, nn.MultiheadAttention):
    """Multi-head attention that multiplies with `kernels.linear`, batch first, without dropout.

    Args:
        width: width of the input and the output.
        heads: number of heads.
        packed: whether to keep the weights of the output and of `project` packed; see `PackingLayer`.
    """

    out_proj: Linear  # type: ignore[assignment]  # the stock layer is a subclass of nn.Linear that adds nothing

    def __init__(self, width: int, heads: int, *, packed: bool = False) -> None:
        super().__init__(width, heads, batch_first=True)
        self.out_proj = Linear(width, width, packed=packed)
        nn.init.zeros_(self.out_proj.bias)
        if packed:
            self.packed_weight = PackedWeight()  # of in_proj_weight; out_proj has its own

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend from queries to keys.

        Args:
            queries: (E, Q, width).
            keys: (E, K, width).
            values: (E, K, width).

        Returns:
            (E, Q, width).
        """
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        if queries is keys:
            width = 2 * keys.shape[-1]
            q, k = linear(keys, self.in_proj_weight[:width], self.in_proj_bias[:width]).chunk(2, dim=-1)
        else:
            q, k = (linear(*inputs) for inputs in zip((queries, keys), weights[:2], biases[:2], strict=True))
        v = linear(values, weights[2], biases[2])
        return self.attend_projected(self._by_head(q), self._by_head(k), self._by_head(v))

    def self_attend(self, x: Tensor, *, causal: bool = False) -> Tensor:
        """Attend from every token to all tokens, or, if `causal`, to those not after it; (E, L, width) -> the same."""
        return self.attend_projected(*self.project(x), causal=causal)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the same tokens, (E, L, width) -> (E, heads, L, width/heads) each."""
        packed = self.packed_weight_in_evaluation()
        qkv = linear(x, self.in_proj_weight, self.in_proj_bias, packed=packed)  # (E, L, 3*width)
        q, k, v = (self._by_head(projected) for projected in qkv.chunk(3, dim=-1))
        return q, k, v

    def attend_projected(self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False) -> Tensor:
        """Attend with projected queries, keys and values, and project the result.

        Args:
            q: (E, heads, Q, width/heads).
            k, v: (E, heads, K, width/heads).
            causal: whether a query attends only to the keys that are not after it.

        Returns:
            (E, Q, width).
        """
        attended = attention(q, k, v, causal=causal)  # (E, heads, Q, width/heads)
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def _by_head(self, x: Tensor) -> Tensor:
        """(E, L, width) -> (E, heads, L, width/heads)."""
        return x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)


class MLP(nn.Module):
    """Linear layers with ReLU between them; their weights are packed.

    Args:
        width_in: width of the input.
        width_hidden: width of every layer but the last.
        width_out: width of the output.
        layers: number of linear layers.
    """

    __call__: Callable[..., Tensor]

    def __init__(self, width_in: int, width_hidden: int, width_out: int, layers: int) -> None:
        super().__init__()
        widths = [width_in, *[width_hidden] * (layers - 1), width_out]
        self.layers = nn.ModuleList(Linear(a, b, packed=True) for a, b in pairwise(widths))

    @property
    def first_layer(self) -> Linear:
        """The layer that multiplies the input."""
        return cast(Linear, self.layers[0])

    def forward(self, x: Tensor) -> Tensor:
        """(..., width_in) -> (..., width_out)."""
        activations = ["relu"] * (len(self.layers) - 1) + ["none"]
        for layer, activation in zip(self.layers, activations, strict=True):
            x = layer(x, activation)  # (..., width_hidden), at last (..., width_out)
        return x


class MLPBlock(nn.Module):
    """The feed-forward part of SAM's transformers; parameter names as in `segment_anything`.

    Args:
        width: width of the input and the output.
        hidden_width: width between the two layers.
        activation: applied between the two layers.
        packed: whether to keep the weights packed; see `PackingLayer`.
    """

    __call__: Callable[..., Tensor]

    def __init__(self, width: int, hidden_width: int, activation: Activation, *, packed: bool = False) -> None:
        super().__init__()
        self.lin1 = Linear(width, hidden_width, packed=packed)
        self.lin2 = Linear(hidden_width, width, packed=packed)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return self.lin2(self.lin1(x, self.activation))
