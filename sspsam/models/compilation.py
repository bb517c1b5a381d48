"""SAM's blocks compiled by `torch.compile`, with errors that name what to do."""

import types
from collections.abc import Callable, Iterable
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from sspsam.errors import DeviceError
from sspsam.models.image_encoder import Block, ImageEncoderViT
from sspsam.utils.memory import is_out_of_memory
from sspsam.utils.paths import first_line

_MOST_COMPILATIONS: Final = 8  # of one function by PyTorch; then it prints pages and compiles no more


class CompiledForward:
    """`Block.forward`, compiled for the blocks of one encoder with one size of window.

    PyTorch counts the compilations of a function, and stops after a few. So this is a copy of the function, with a
    count of its own; other encoders, and blocks with other windows, have other copies.
    """

    def __init__(self) -> None:
        forward = Block.forward
        code = forward.__code__.replace()  # a new object, by which PyTorch counts
        own = types.FunctionType(code, forward.__globals__, "forward", forward.__defaults__, forward.__closure__)
        self._compiled: Callable[..., Tensor] = torch.compile(own, dynamic=False)
        self._compiled_for: set[tuple[torch.Size, bool]] = set()  # shapes, and whether it was inference mode

    def __call__(self, block: Block, x: Tensor, buffer: Tensor | None) -> Tensor:
        """Compute `block(x, buffer)`; after `_MOST_COMPILATIONS`, a new shape is computed uncompiled.

        Raises:
            DeviceError: PyTorch cannot compile here.
        """
        kind = x.shape, x.is_inference()  # PyTorch compiles anew for either
        if kind not in self._compiled_for and len(self._compiled_for) == _MOST_COMPILATIONS:
            return cast(Tensor, block(x, buffer))
        try:
            result = self._compiled(block, x, buffer)
        except RuntimeError as error:
            if is_out_of_memory(error) or not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            reason = first_line(getattr(error, "inner_exception", error))
        else:
            self._compiled_for.add(kind)
            return result
        if "compiler" in reason.lower():  # of C++, or of C for Triton on a GPU
            reason = f"it finds no C++ compiler, such as g++ or clang++ ({reason:.300}). Install one, or"
        else:
            reason = f"{reason:.300}. Update PyTorch, or"
        raise DeviceError(f"PyTorch cannot compile the model for compile=True: {reason} leave out compile=True.")


class CompiledBlock(nn.Module):
    """A block whose forward pass is compiled.

    Args:
        block: of SAM's encoder.
        forward: shared by the blocks of the encoder with the same window.
    """

    def __init__(self, block: Block, forward: CompiledForward) -> None:
        super().__init__()
        self.block, self._compiled = block, forward
        self.attn, self.window_size = block.attn, block.window_size

    def forward(self, *arguments: Any) -> Tensor:
        """Compute the block; see `Block.forward`."""
        return self._compiled(self.block, *arguments)


def compile_blocks(encoder: ImageEncoderViT) -> None:
    """Let PyTorch compile the blocks of an encoder at their first use, once for each shape of their inputs."""
    blocks = list(cast(Iterable[Block], encoder.blocks))
    forwards = {window: CompiledForward() for window in {block.window_size for block in blocks}}
    for index, block in enumerate(blocks):
        encoder.blocks[index] = CompiledBlock(block, forwards[block.window_size])
