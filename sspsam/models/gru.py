"""The GRU that reads an expression: on a GPU in float16 a kernel of this package where it works (`gru_kernel.py`)."""

from collections.abc import Callable
from functools import cache, partial
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from sspsam.models.trials import gpu_kernels_allowed, works_on

_ROWS: Final = (16, 32, 64)  # of the variants of the GRU kernel, see `gru_kernel.bidirectional_gru`
_MOST_DIFFERENCE: Final = 1e-2  # in float16; states lie between -1 and 1


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
    """Return a function with the results of `gru(x)[0]` that launches `gru_kernel.bidirectional_gru`, or None.

    The kernel needs float16, Triton with its compiler, and an NVIDIA GPU of compute capability 8.0 or later. It has a
    variant for up to 16, 32 and 64 expressions, with other numbers of blocks and other needs of shared memory. Each
    variant is compared once with PyTorch's GRU. Where the one for `count` expressions does not work, a smaller one
    computes them in parts.

    Args:
        width: of inputs and hidden state.
        count: E, of the inputs.
        dtype: of both.
        device: of both.
    """
    powers = 32 <= width <= 1024 and width & (width - 1) == 0
    if dtype is not torch.float16 or not powers or not gpu_kernels_allowed(device):
        return None
    wanted = next((rows for rows in _ROWS if rows >= count), _ROWS[-1])
    for rows in reversed(_ROWS[: _ROWS.index(wanted) + 1]):
        if _works(width, rows, dtype, device):
            return partial(_in_parts, rows=rows)
    return None


def _in_parts(weights: GRUWeights, x: Tensor, rows: int) -> Tensor:
    """Compute `gru(x)[0]` for (E, L, H), at most `rows` expressions in one launch."""
    from sspsam.models.gru_kernel import bidirectional_gru

    states = [bidirectional_gru(part, *weights) for part in torch.split(x, rows)]
    return states[0] if len(states) == 1 else torch.cat(states)


@cache
def _works(width: int, rows: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Return True if the variant of the GRU kernel for up to `rows` expressions works on a device."""

    def difference() -> float:
        if torch.cuda.get_device_capability(device) < (8, 0):
            raise RuntimeError("needs compute capability 8.0")
        from sspsam.models.gru_kernel import bidirectional_gru

        generator = torch.Generator("cpu").manual_seed(0)  # the application's generator is left alone
        gru = nn.GRU(width, width, batch_first=True, bidirectional=True, device="meta", dtype=torch.float32)
        gru = gru.to_empty(device="cpu")
        for parameter in gru.parameters():
            parameter.uniform_(-(width**-0.5), width**-0.5, generator=generator)
        gru = gru.to(device, dtype)
        # the last rows of the kernel's product are padding
        x = torch.randn(rows - 3, 21, width, generator=generator, dtype=torch.float32).to(device, dtype)
        return float((bidirectional_gru(x, *stack_directions(gru)) - gru(x)[0]).abs().max())

    return works_on(device, f"GRU of up to {rows} expressions", "cuDNN", difference, _MOST_DIFFERENCE)
