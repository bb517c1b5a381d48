"""A lack of memory: its message, how it is recognised, and memory that is returned."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from sspsam.messages import OptionMessage, setting

OUT_OF_MEMORY_MESSAGE: Final = OptionMessage(
    "not enough memory for a single image; use ",
    setting("dtype", "float16"),
    " on a GPU, a smaller model, or another device",
)
# parts of the messages by which PyTorch and the libraries below it report a lack of memory in a plain RuntimeError
_OUT_OF_MEMORY_PHRASES: Final = ("can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED")


def release_memory() -> None:
    """Return the memory that PyTorch caches to the GPUs."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that PyTorch or Python ran out of memory, on a GPU or on the host."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        phrase in str(error) for phrase in _OUT_OF_MEMORY_PHRASES
    )


@contextmanager
def out_of_memory_suppressed() -> Iterator[None]:
    """End the block at an error that means a lack of memory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
