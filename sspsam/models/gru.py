"""The GRU that reads an expression: on a GPU a kernel of this package where it works (`gru_kernel.py`)."""

import types
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from sspsam.models.trials import Trial, TriedKernels, allowed_kernels, try_kernels


class _Variants(NamedTuple):
    """The kernel for one dtype; see `gru_kernel.bidirectional_gru`."""

    widths: tuple[int, ...]  # powers of two, of which the weights fit into registers and shared memory
    rows: tuple[int, ...]  # most expressions of each variant
    in_parts: bool  # whether several launches take more expressions
    most_difference: float  # from PyTorch's states, which lie between -1 and 1


_VARIANTS: Final[Mapping[torch.dtype, _Variants]] = types.MappingProxyType(
    {
        torch.float16: _Variants((32, 64, 128, 256, 512, 1024), (16, 32, 64), True, 1e-2),
        torch.float32: _Variants((32, 64, 128, 256, 512), (4,), False, 1e-5),
    }
)


class GRUWeights(NamedTuple):
    """The weights of both directions of a GRU, the forward direction first; names and gates as in `torch.nn.GRU`."""

    weight_ih: Tensor  # (2*3H, H)
    bias_ih: Tensor  # (2*3H,)
    weight_hh: Tensor  # (2, 3H, H)
    bias_hh: Tensor  # (2, 3H)


def stack_directions(gru: nn.GRU) -> GRUWeights:
    """Copy the weights of a bidirectional GRU with one layer."""

    def stacked(name: str) -> Tensor:
        return torch.stack([getattr(gru, f"{name}_l0{suffix}") for suffix in ("", "_reverse")])

    weight_ih, bias_ih = stacked("weight_ih").flatten(0, 1), stacked("bias_ih").flatten()
    return GRUWeights(weight_ih, bias_ih, stacked("weight_hh"), stacked("bias_hh"))


def fused_gru(
    width: int, count: int, dtype: torch.dtype, device: torch.device
) -> Callable[[GRUWeights, Tensor], Tensor] | None:
    """Return a function with the results of `gru(x)[0]` that launches a kernel of `gru_kernel`, or None.

    The kernels need Triton with its compiler, and an NVIDIA GPU of compute capability 8.0 or later. That for float16
    has a variant for up to 16, 32 and 64 expressions, with other numbers of blocks and other needs of shared memory;
    where the one for `count` expressions does not work, a smaller one computes them in parts. That for float32 takes a
    few expressions. Each variant is compared once with PyTorch's GRU.

    Args:
        width: of inputs and hidden state.
        count: E, of the inputs.
        dtype: of both.
        device: of both.
    """
    kinds = _VARIANTS.get(dtype)
    if kinds is None or width not in kinds.widths:
        return None
    largest = kinds.rows[-1]
    if count > largest and not kinds.in_parts:
        return None
    wanted = next((rows for rows in kinds.rows if rows >= count), largest)
    for rows in reversed(kinds.rows[: kinds.rows.index(wanted) + 1]):
        kernel = allowed_kernels(gru_kernel_on, device, dtype, width, rows)
        if kernel is not None:
            return partial(_in_parts, kernel, rows)
    return None


def _in_parts(kernel: types.ModuleType, rows: int, weights: GRUWeights, x: Tensor) -> Tensor:
    """Compute `gru(x)[0]` for (E, L, H), at most `rows` expressions in one launch."""
    states: list[Tensor] = [kernel.bidirectional_gru(part, *weights) for part in torch.split(x, rows)]
    return states[0] if len(states) == 1 else torch.cat(states)


@TriedKernels
def gru_kernel_on(device: torch.device, dtype: torch.dtype, width: int, rows: int) -> Trial:
    """Try the variant of `gru_kernel` for up to `rows` expressions in a dtype on a device."""

    def difference(kernel: types.ModuleType) -> float:
        if torch.cuda.get_device_capability(device) < (8, 0):
            raise RuntimeError("needs compute capability 8.0")
        generator = torch.Generator("cpu").manual_seed(0)  # the application's generator is left alone
        gru = nn.GRU(width, width, batch_first=True, bidirectional=True, device="meta", dtype=torch.float32)
        gru = gru.to_empty(device="cpu")
        for parameter in gru.parameters():
            parameter.uniform_(-(width**-0.5), width**-0.5, generator=generator)
        # the last rows of the product in half precision are padding
        count = rows - 3 if dtype is torch.float16 else rows
        x = torch.randn(count, 21, width, generator=generator, dtype=torch.float32)
        expected = gru(x)[0]  # on the CPU: cuDNN may compute float32 with fewer digits
        gru = gru.to(device, dtype)
        states = kernel.bidirectional_gru(x.to(device, dtype), *stack_directions(gru))
        return float((states.cpu() - expected).abs().max())

    kind = str(dtype).removeprefix("torch.")
    name = f"GRU of up to {rows} expressions in {kind}"
    return try_kernels(_load_kernel, device, name, "cuDNN", difference, _VARIANTS[dtype].most_difference)


def _load_kernel() -> types.ModuleType:
    from sspsam.models import gru_kernel

    return gru_kernel
