"""accelerate, which starts the processes of a training and joins their gradients and records."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from sspsam.errors import FinetuningError
from sspsam.messages import OptionMessage, argument
from sspsam.utils.installing import missing_extra

_Item = TypeVar("_Item")


class Processes:
    """The processes of a training, of which this is one.

    Args:
        device: that the user chose; with several processes accelerate chooses one for each.
        mixed_precision: `no`, `bf16` or `fp16`.

    Raises:
        MissingExtraError: accelerate is not installed.
        FinetuningError: the device has no such precision, or this process has used accelerate with another one.
    """

    def __init__(self, device: torch.device, mixed_precision: str) -> None:
        try:
            from accelerate import Accelerator
        except ImportError as error:
            raise missing_extra("fine-tuning", "accelerate", "train", error) from error
        if mixed_precision == "fp16" and device.type == "cpu":  # accelerate would compute without scaling the loss
            raise FinetuningError(
                OptionMessage(argument("mixed_precision='fp16'", "--mixed-precision"), " needs a GPU: use bf16 or no")
            )
        try:
            with _restored_environment():
                self.accelerator: Any = Accelerator(cpu=device.type == "cpu", mixed_precision=mixed_precision)
        except ValueError as error:
            raise FinetuningError(
                f"accelerate refuses mixed_precision={mixed_precision!r} on {device}: {error}"
            ) from error
        self.index, self.count = int(self.accelerator.process_index), int(self.accelerator.num_processes)
        self.device: torch.device = device if self.count == 1 else self.accelerator.device

    @property
    def is_first(self) -> bool:
        """True in the process that writes files and messages."""
        return self.index == 0

    def wait(self) -> None:
        """Wait for the other processes."""
        self.accelerator.wait_for_everyone()

    def gathered(self, items: list[_Item]) -> list[_Item]:
        """Return the items of all processes, in the order of the processes."""
        if self.count == 1:
            return items
        from accelerate.utils import gather_object

        gathered: list[_Item] = gather_object(items)
        return gathered


@contextmanager
def _restored_environment() -> Iterator[None]:
    """Undo changes to environment variables: accelerate leaves notes for its own subprocesses."""
    environment = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)
