"""Operators that only one backend has: oneDNN's products on a CPU, and the choice of fused attention on a GPU.

On the CPU PyTorch multiplies float32 matrices with MKL, which is slow on processors that Intel did not make. oneDNN,
which PyTorch uses for half precision and for convolutions, is fast there too, and it applies an activation while the
result is in the cache, with the same bits: in SAM's ViT-H that saves 84 MB of memory traffic in every block.

PyTorch offers these products only as private operators of its compiler. All of them are named in this file, and each is
tried on small matrices before its first use.
"""

import logging
import math
import threading
import types
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Final, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from sspsam.models.trials import HALF_PRECISION

_LOG: Final = logging.getLogger(__name__)
Activation = Literal["none", "relu", "gelu"]
ACTIVATIONS: Final[Mapping[Activation, Callable[[Tensor], Tensor]]] = types.MappingProxyType(
    {"none": lambda x: x, "relu": F.relu, "gelu": F.gelu}
)
_EXACT_GELU: Final = "none"  # oneDNN's algorithm for "gelu": the error function, not the approximation by tanh
_MOST_PLAIN_SCORES: Final = 2**23  # 32 MB of float32
_PACKED_FOR_ROWS: Final = 77  # weights are packed for the rows of CLIP's texts, where packing gains most


class PackedWeight:
    """A weight in the memory layout of oneDNN, kept between the products of the layer that owns the weight.

    Without a packed weight oneDNN reorders the weight in every product, which takes up to a quarter of the time of a
    product with the few rows of a text. The packed weight takes as much memory as the weight itself.

    The first product packs the weight. A later product packs it again if the weight was replaced or changed in place.
    Only a change through `weight.data` goes unnoticed, so a layer calls `drop` where PyTorch makes such changes.
    Threads may share an instance. A copied or unpickled instance is empty.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._packed: Tensor | None = None
        self._source: Callable[[], Tensor | None] = lambda: None  # a weak reference to the weight that was packed
        self._version = 0  # of that weight, PyTorch's count of its changes in place

    def __reduce__(self) -> tuple[type["PackedWeight"], tuple[()]]:
        """Leave the lock and the packed weight out of copies and pickles."""
        return PackedWeight, ()

    @property
    def packed(self) -> Tensor | None:
        """The packed weight, or None before the first product and after `drop`."""
        return self._packed

    def drop(self) -> None:
        """Free the packed weight."""
        with self._lock:
            self._packed = None

    def of(self, weight: Tensor) -> Tensor:
        """Return the packed form of a weight, or the weight itself where PyTorch cannot pack it.

        Args:
            weight: (out, in) float32 on the CPU.
        """
        with self._lock:
            if self._packed is None or self._source() is not weight or self._version != weight._version:
                self._pack(weight)
            return weight if self._packed is None else self._packed

    def _pack(self, weight: Tensor) -> None:
        pack = onednn_packing()
        if pack is None or weight.is_inference():  # PyTorch does not count the changes of inference tensors
            self._packed = None
            return
        # always for the same number of rows: the layout, and with it the last bits of a product, must not depend on the
        # product that came first
        self._packed = pack(weight, _PACKED_FOR_ROWS)
        self._source, self._version = weakref.ref(weight), weight._version


def widened(x: Tensor) -> Tensor:
    """Return half-precision values in float32, for what half precision cannot hold; others as they are."""
    return x.float() if x.dtype in HALF_PRECISION else x


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: Activation = "none",
    packed: PackedWeight | None = None,
) -> Tensor:
    """Compute `activation(x @ weight.T + bias)` in the weight's dtype, with the fastest product for the device.

    Args:
        x: (..., in), cast to the dtype of the weight.
        weight: (out, in).
        bias: (out,), or None.
        activation: applied to the product; "gelu" is the exact one.
        packed: keeps the packed weight between calls; None: the weight is not packed.

    Returns:
        (..., out).
    """
    if not torch.is_autocast_enabled(x.device.type):  # which casts both
        x = x.to(weight.dtype)
    product = onednn_product() if _onednn_can_multiply(x) else None
    if product is None:
        # PyTorch splits a product with a tensor that is not contiguous into many, and copies the weight for each
        return ACTIVATIONS[activation](F.linear(x.contiguous(), weight, bias))
    if packed is not None and x.numel() >= 2 * x.shape[-1]:  # a single row reads the weight once: packing gains nothing
        weight = packed.of(weight)
    if activation == "relu":  # oneDNN's own turns NaN into 0: damaged weights would go unnoticed
        return product(x, weight, bias, "none", [], _EXACT_GELU).relu_()
    return product(x, weight, bias, activation, [], _EXACT_GELU)


def _onednn_can_multiply(x: Tensor) -> bool:
    """Float32 on the CPU, outside mixed precision, and without gradients: the operator has no derivative."""
    if torch.compiler.is_compiling():  # PyTorch's compiler has its own products, and cannot trace the private operator
        return False
    plain = x.device.type == "cpu" and x.dtype is torch.float32 and not torch.is_autocast_enabled("cpu")
    return plain and not torch.is_grad_enabled() and bool(torch.backends.mkldnn.enabled)


@cache
def fused_attention_accepts(width: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Return True if a fused attention kernel of a GPU takes heads of this width; False on devices other than CUDA's.

    Without such a kernel PyTorch would write the matrix of all scores to memory.
    """
    if device.type != "cuda":
        return False
    x = torch.empty(1, 1, 64, width, dtype=dtype, device=device)
    try:
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]  # PyTorch answers for the current device
            parameters = torch.backends.cuda.SDPAParams(x, x, x, None, 0.0, False, False)
            accepts = torch.backends.cuda.can_use_flash_attention(
                parameters
            ) or torch.backends.cuda.can_use_efficient_attention(parameters)
    except (AttributeError, TypeError):  # PyTorch's question for a kernel is not part of its stable API
        accepts = False
    way = "as columns of queries and keys" if accepts else "as a bias: no fused kernel takes heads of this width"
    _LOG.info("relative positions of SAM's encoder on %s in %s, heads of %d: %s", device, dtype, width, way)
    return accepts


def attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False) -> Tensor:
    """Attend from queries to keys, with the fastest kernels for the device.

    PyTorch's fused float32 kernel for a GPU fills the device with many heads or tokens only; for a matrix of scores
    that is small enough, two plain products are several times as fast.

    Args:
        q: (..., Q, d) queries.
        k: (..., K, d) keys.
        v: (..., K, d) values.
        causal: whether a query attends only to the keys that are not after it.

    Returns:
        (..., Q, d).
    """
    scores = q.shape[:-1].numel() * k.shape[-2]
    plain = q.device.type == "cuda" and q.dtype is torch.float32 and scores <= _MOST_PLAIN_SCORES and not causal
    if not plain or torch.compiler.is_compiling() or torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return plain_attention(q, k, v)


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend by two products with the matrix of scores between them; (..., tokens, d) each -> the same."""
    return (q / math.sqrt(q.shape[-1]) @ k.mT).softmax(dim=-1) @ v


def copy_together(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy tensors to others of the same shapes and of one dtype: on a GPU with one launch, where PyTorch can."""
    try:
        torch._foreach_copy_(list(targets), list(sources), non_blocking=True)  # as PyTorch's optimizers do
    except AttributeError:
        for target, source in zip(targets, sources, strict=True):
            target.copy_(source, non_blocking=True)


@cache
def onednn_product() -> Callable[..., Tensor] | None:
    """Return PyTorch's operator for a oneDNN product, or None where the operator is missing or wrong."""
    x, weight, bias = _example(2, 3), _example(4, 3), _example(1, 4)[0]
    try:
        product: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise.default
        correct = all(
            torch.allclose(product(x, weight, bias, name, [], _EXACT_GELU), function(F.linear(x, weight, bias)))
            for name, function in ACTIVATIONS.items()
        )
    except (AttributeError, RuntimeError):
        return None
    return product if correct else None


@cache
def onednn_packing() -> Callable[[Tensor, int], Tensor] | None:
    """Return PyTorch's operator that packs a weight for oneDNN, or None where the operator is missing or wrong."""
    product = onednn_product()
    if product is None:
        return None
    x, weight = _example(3, 8), _example(5, 8)
    try:
        pack: Callable[[Tensor, int], Tensor] = torch.ops.mkldnn._reorder_linear_weight.default
        packed_product = product(x, pack(weight, _PACKED_FOR_ROWS), None, "none", [], _EXACT_GELU)
    except (AttributeError, RuntimeError):
        return None
    return pack if torch.allclose(packed_product, F.linear(x, weight)) else None


def _example(rows: int, columns: int) -> Tensor:
    """(rows, columns) small numbers; the application's default dtype and device are ignored."""
    return torch.arange(rows * columns, dtype=torch.float32, device="cpu").view(rows, columns) / 8 - 1
