"""Products and attention, computed in one place for every network, and small layers that several of them share."""

import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from itertools import pairwise
from typing import Any, Final, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Literal["none", "relu", "gelu"]
_ACTIVATIONS: Final[Mapping[Activation, Callable[[Tensor], Tensor]]] = types.MappingProxyType(
    {"none": lambda x: x, "relu": F.relu, "gelu": F.gelu}
)
_USUAL_ROWS: Final = 77  # for which weights are packed: those of CLIP's texts, where it gains most


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: Activation = "none") -> Tensor:
    """(..., in) times (out, in), plus (out): `torch.nn.functional.linear`, by the faster of PyTorch's two libraries.

    On the CPU PyTorch gives products of float32 to MKL, which does not make the most of processors that are not
    Intel's; oneDNN, which it uses for half precision and for convolutions, does. It also applies the activation while
    the result is in the cache, with the same bits; in SAM's ViT-H alone that saves 84 MB of traffic in every block.
    """
    plain = x.device.type == "cpu" and x.dtype is torch.float32 and not torch.is_autocast_enabled("cpu")
    if plain and not torch.is_grad_enabled() and torch.backends.mkldnn.enabled:
        product = _onednn()
        if product is not None:
            packed = _PACKED.get()
            if packed is not None:
                weight = packed.of(weight, x)
            # "none" is also the name of the exact GELU, by the error function
            return cast(Tensor, product(x, weight, bias, activation, [], "none"))
    # of a tensor that is not contiguous PyTorch makes many small products, for each of which it copies the weight
    return _ACTIVATIONS[activation](F.linear(x.contiguous(), weight, bias))


@cache
def _onednn() -> Any:
    """PyTorch's own operator for its compiled models; it has no derivative. None where it is missing or wrong."""
    # an application may have another default dtype, or device
    x, weight, bias = (torch.arange(count, dtype=torch.float32, device="cpu") / 8 - 1 for count in (6, 12, 4))
    x, weight = x.view(1, 2, 3), weight.view(4, 3)
    try:
        product = torch.ops.mkldnn._linear_pointwise.default
        works = all(
            torch.allclose(product(x, weight, bias, name, [], "none"), function(F.linear(x, weight, bias)))
            for name, function in _ACTIVATIONS.items()
        )
    except (AttributeError, RuntimeError):
        return None
    return product if works else None


@cache
def _pack() -> Any:
    """PyTorch's operator that brings a weight into the order in which oneDNN multiplies. None where it is missing."""
    product = _onednn()
    if product is None:
        return None
    x, weight = (torch.arange(rows * 8, dtype=torch.float32, device="cpu").view(rows, 8) / 7 - 1 for rows in (3, 5))
    try:
        pack = torch.ops.mkldnn._reorder_linear_weight.default
        works = torch.allclose(product(x, pack(weight, _USUAL_ROWS), None, "none", [], "none"), F.linear(x, weight))
    except (AttributeError, RuntimeError):
        return None
    return pack if works else None


class PackedWeights:
    """Weights in the order in which oneDNN multiplies with them, kept for a model that does not change.

    Without them oneDNN orders the weight of every product anew, which for the few rows of a text is up to a quarter of
    the time. They take as much memory as the weights that they stand for.
    """

    def __init__(self) -> None:
        self._kept: dict[nn.Parameter, Tensor] = {}

    def of(self, weight: Tensor, x: Tensor) -> Tensor:
        """The packed weight for a product with x, or the weight itself where that would gain nothing.

        That is what was computed from parameters, which is new every time, and the product of a single row, which
        reads the weight but once.
        """
        if not isinstance(weight, nn.Parameter) or x.numel() < 2 * x.shape[-1]:
            return weight
        kept = self._kept.get(weight)
        if kept is None:
            pack = _pack()
            # not for the rows of x: the order, and with it the last bits, must not depend on what was asked first
            kept = self._kept[weight] = weight if pack is None else pack(weight, _USUAL_ROWS)
        return kept


_PACKED: Final[ContextVar[PackedWeights | None]] = ContextVar("packed weights", default=None)


@contextmanager
def with_packed(weights: PackedWeights) -> Iterator[None]:
    """Let products on the CPU keep their packed weights in `weights`."""
    token = _PACKED.set(weights)
    try:
        yield
    finally:
        _PACKED.reset(token)


class Linear(nn.Linear):
    """A linear layer that computes by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return linear(x, self.weight, self.bias)


def compute_by_linear(network: nn.Module) -> None:
    """Let every linear layer of a network, stock ones too, compute by `linear`; weights and names stay as they are."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            module.__class__ = Linear


def attend(
    attention: nn.MultiheadAttention,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    causal: bool = False,
) -> Tensor:
    """What stock attention computes, by `linear`.

    Args:
        attention: with the weights, batch first.
        queries: (E, Q, width).
        keys: (E, K, width).
        values: (E, K, width).
        causal: attend to nothing that comes later.

    Returns:
        (E, Q, width).
    """
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    if queries is keys and keys is values:
        parts = list(linear(queries, weight, bias).chunk(3, dim=-1))
    else:
        pieces = zip((queries, keys, values), weight.chunk(3), bias.chunk(3), strict=True)
        parts = [linear(*piece) for piece in pieces]
    q, k, v = (part.view(*part.shape[:2], attention.num_heads, -1).transpose(1, 2) for part in parts)
    attended = F.scaled_dot_product_attention(q, k, v, is_causal=causal)  # (E, heads, Q, width/heads)
    return cast(Tensor, attention.out_proj(attended.transpose(1, 2).flatten(2)))


class MLP(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        width_in: width of the input.
        width_hidden: width of every layer but the last.
        width_out: width of the output.
        layers: number of linear layers.
    """

    def __init__(self, width_in: int, width_hidden: int, width_out: int, layers: int) -> None:
        super().__init__()
        widths = [width_in, *[width_hidden] * (layers - 1), width_out]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width_in) -> (..., width_out)."""
        for module in self.layers[:-1]:
            layer = cast(nn.Linear, module)
            x = linear(x, layer.weight, layer.bias, "relu")
        return cast(Tensor, self.layers[-1](x))
