"""A check of every access to memory in Triton's interpreter, imported where it interprets.

The interpreter reads and writes wherever a kernel asks it to. On a GPU an access outside of all tensors ends the use of
the device by the whole process, which no comparison of results before the first use can prevent.
"""

from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from triton.runtime.interpreter import GridExecutor, InterpreterBuilder


class _Accesses:
    """The tensors of the running kernel, and the places that its blocks have written."""

    def __init__(self) -> None:
        self._tensors: list[tuple[int, int]] = []  # first address, and the address after the last
        self._blocks: dict[int, tuple[int, ...]] = {}  # the block that wrote an address

    def begin(self, tensors: list[torch.Tensor]) -> None:
        self._tensors = [(tensor.data_ptr(), tensor.data_ptr() + _extent(tensor)) for tensor in tensors]
        self._blocks = {}

    def check(self, pointers: Any, mask: Any) -> list[int]:
        """Return the addresses of an access that are not masked, all of which lie in the tensors."""
        size = pointers.get_element_ty().primitive_bitwidth // 8
        addresses = pointers.data[np.broadcast_to(mask.data, pointers.data.shape)].astype(np.int64)
        inside = np.zeros(addresses.shape, bool)
        for start, stop in self._tensors:
            inside |= (addresses >= start) & (addresses + size <= stop)
        assert inside.all(), f"{(~inside).sum()} of {len(addresses)} elements lie outside of the kernel's tensors"
        return addresses.tolist()

    def write(self, addresses: list[int], block: tuple[int, ...]) -> None:
        """Remember what a block has written, which no other block writes: their order is not defined."""
        for address in addresses:
            assert self._blocks.setdefault(address, block) == block, "two blocks write to the same place"


def _extent(tensor: torch.Tensor) -> int:
    """Return the bytes from the first element of a tensor to its last."""
    steps = sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (steps + 1) * tensor.element_size() if tensor.numel() else 0


def check_memory() -> None:
    """Check all accesses of the kernels that this process interprets from now on."""
    accesses = _Accesses()
    on_host, load, store = (
        GridExecutor._init_args_hst,
        InterpreterBuilder.create_masked_load,
        InterpreterBuilder.create_masked_store,
    )

    def begin(self, arguments, keywords):
        arguments, keywords = on_host(self, arguments, keywords)
        accesses.begin([value for value in (*arguments, *keywords.values()) if isinstance(value, torch.Tensor)])
        return arguments, keywords

    def checked_load(self, pointers, mask, *others):
        accesses.check(pointers, mask)
        return load(self, pointers, mask, *others)

    def checked_store(self, pointers, value, mask, *others):
        accesses.write(accesses.check(pointers, mask), self.grid_idx)
        return store(self, pointers, value, mask, *others)

    GridExecutor._init_args_hst = begin
    InterpreterBuilder.create_masked_load = checked_load
    InterpreterBuilder.create_masked_store = checked_store


@triton.jit
def copy(source, target, step, block: tl.constexpr):
    """Copy a block of numbers for each `step`, an example with which the check is tested."""
    place = tl.program_id(0) * step + tl.arange(0, block)
    tl.store(target + place, tl.load(source + place))
