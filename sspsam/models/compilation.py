"""SAM's blocks compiled by `torch.compile`, with errors that name what to do."""

import types
from collections.abc import Callable, Iterable
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from sspsam.errors import DeviceError
from sspsam.models import norms
from sspsam.models.image_encoder import Block, ImageEncoderViT
from sspsam.utils.memory import is_out_of_memory
from sspsam.utils.paths import first_line

_MOST_COMPILATIONS: Final = 8  # of one function by PyTorch; then it prints pages and compiles no more


class CompiledForward:
    """A forward pass of `Block`, compiled for the blocks of one encoder with one size of window.

    PyTorch counts the compilations of a function, and stops after a few. So this is a copy of the function, with a
    count of its own; other encoders, and blocks with other windows, have other copies.

    Args:
        forward: a method of `Block`.
    """

    def __init__(self, forward: Callable[..., Any]) -> None:
        code = forward.__code__.replace()  # a new object, by which PyTorch counts
        self._own = types.FunctionType(
            code, forward.__globals__, forward.__name__, forward.__defaults__, forward.__closure__
        )
        self._compiled: Callable[..., Any] = torch.compile(self._own, dynamic=False)
        self._compiled_for: set[tuple[object, ...]] = set()  # kinds of arguments

    def __call__(self, block: Block, *arguments: Any) -> Any:
        """Compute the method of a block; after `_MOST_COMPILATIONS`, a new shape is computed uncompiled.

        Args:
            block: any of the blocks.
            arguments: of the method.

        Raises:
            DeviceError: PyTorch cannot compile here.
        """
        kind = tuple(_kind(argument) for argument in arguments)
        if kind not in self._compiled_for and len(self._compiled_for) == _MOST_COMPILATIONS:
            return self._own(block, *arguments)
        try:
            result = self._compiled(block, *arguments)
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


def _kind(argument: Any) -> object:
    """Return all of an argument by which PyTorch compiles anew."""
    return (argument.shape, argument.is_inference()) if isinstance(argument, Tensor) else argument


class CompiledBlock(nn.Module):
    """A block whose forward passes are compiled.

    Args:
        block: of SAM's encoder.
        forward: shared by the blocks of the encoder with the same window.
        forward_with_columns: shared by the same blocks.
    """

    def __init__(self, block: Block, forward: CompiledForward, forward_with_columns: CompiledForward) -> None:
        super().__init__()
        self.block, self._forward, self._forward_with_columns = block, forward, forward_with_columns
        self.attn, self.window_size = block.attn, block.window_size

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block; see `Block.forward`."""
        result: Tensor = self._forward(self.block, x)
        return result

    def forward_with_columns(self, x: Tensor, update: Tensor | None, buffer: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the block; see `Block.forward_with_columns`.

        Without an update, as in the first block, it is computed uncompiled: compiling that too takes seconds.
        """
        if update is None:
            return self.block.forward_with_columns(x, update, buffer)
        operators = _operators_for_compiler(x, self.attn.qkv.weight.dtype)
        total, update = self._forward_with_columns(self.block, x, update, buffer, operators)
        return total, update


def _operators_for_compiler(x: Tensor, dtype: torch.dtype) -> types.ModuleType:
    """Return the module with the norms of a compiled block; the compiler cannot ask which kernels work.

    Args:
        x: input of the block.
        dtype: of the block's products.
    """
    if norms.chosen_kernels(x, dtype) is None:
        return norms
    from sspsam.models import norm_operators

    return norm_operators


def compile_blocks(encoder: ImageEncoderViT) -> None:
    """Let PyTorch compile the blocks of an encoder at their first use, once for each shape of their inputs."""
    blocks = list(cast(Iterable[Block], encoder.blocks))
    forwards = {
        window: (CompiledForward(Block.forward), CompiledForward(Block.forward_with_columns))
        for window in {block.window_size for block in blocks}
    }
    for index, block in enumerate(blocks):
        encoder.blocks[index] = CompiledBlock(block, *forwards[block.window_size])
