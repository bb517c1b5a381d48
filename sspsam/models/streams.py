"""Streams of a CUDA device: a tensor that is kept may be read on another stream than that of its computation."""

from collections.abc import Iterable

import torch
from torch import Tensor


class Finished:
    """The work of the current stream so far, for which other streams can wait; nothing on other devices than CUDA's.

    Threads of an application may have streams of their own, and then a GPU does not run their work in order.

    Args:
        device: of the stream.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        has_streams = device.type == "cuda" and torch.cuda.is_available()
        self._stream = torch.cuda.current_stream(device) if has_streams else None
        self._event = None if self._stream is None else self._stream.record_event()

    def wait(self, tensors: Iterable[Tensor] = ()) -> None:
        """Let the current stream wait for the work, on the device.

        Args:
            tensors: made by the work; their memory is not reused before the current stream has read them.
        """
        if self._stream is None or self._event is None:
            return
        stream = torch.cuda.current_stream(self._device)
        if stream == self._stream:
            return
        stream.wait_event(self._event)
        for tensor in tensors:
            tensor.record_stream(stream)
