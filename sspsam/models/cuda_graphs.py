"""CUDA graphs: functions of tensors that are recorded at their first call and replayed afterwards.

The network launches hundreds of small kernels for one expression, and launching them takes longer than running them. A
graph launches them all at once.
"""

import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from sspsam.errors import SSPSAMError
from sspsam.models.kernels import copy_together
from sspsam.utils.memory import is_out_of_memory
from sspsam.utils.paths import first_line
from sspsam.utils.switches import switched_on

_LOG: Final = logging.getLogger(__name__)
_WARM_UP_CALLS: Final = 2  # before recording, in which libraries choose their kernels and allocate workspaces
_RECORDING: Final = threading.Lock()  # one recording at a time in a process
_MOST_FAILURES: Final = 3  # after which nothing is recorded any more
_HIGH_PRIORITY: Final = -1
SWITCH: Final = "SSPSAM_CUDA_GRAPHS"  # environment variable; 0 turns graphs off

Function = Callable[..., Sequence[Tensor]]


class Recording(Protocol):
    """A recorded function with tensors of its own."""

    @property
    def inputs(self) -> Sequence[Tensor]:
        """Read by `replay`."""

    @property
    def outputs(self) -> Sequence[Tensor]:
        """Written by `replay`."""

    def replay(self) -> None:
        """Compute the outputs from the inputs."""


class Recorder(Protocol):
    """Record functions and order their replays on one device."""

    def record(self, function: Function, inputs: Sequence[Tensor]) -> Recording:
        """Record `function(*inputs)`."""

    def wait(self) -> None:
        """Let the current stream wait for the last replay, which may have run on another stream."""

    def mark(self) -> None:
        """Remember the current stream's work so far as the last replay."""


class CUDARecording:
    """A CUDA graph and its tensors.

    Args:
        function: is called several times.
        inputs: copied, on the device of the graph.
        pool: memory that the graphs of one recorder share.
    """

    def __init__(self, function: Function, inputs: Sequence[Tensor], pool: Any) -> None:
        device = inputs[0].device
        self.inputs = [tensor.clone() for tensor in inputs]
        self._graph = torch.cuda.CUDAGraph()
        stream = _recording_stream(device)
        with _RECORDING:
            stream.wait_stream(torch.cuda.current_stream(device))
            # `torch.cuda.graph` does not restore the current stream of the thread where a recording fails
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP_CALLS):
                    function(*self.inputs)
                # other threads may allocate memory meanwhile, but not wait for the whole device
                with torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                    self.outputs = tuple(function(*self.inputs))
            torch.cuda.current_stream(device).wait_stream(stream)

    def replay(self) -> None:
        """Launch the graph on the current stream."""
        self._graph.replay()


@cache
def _recording_stream(device: torch.device) -> Any:
    """Return the stream on which all graphs of a device are recorded.

    Memory of a pool is reused only by recordings on the stream that allocated it. PyTorch hands out its 32 ordinary
    streams of a device in turn, so that a stream of the application could be the same one, and its work would be
    recorded; streams of high priority are others.
    """
    return torch.cuda.Stream(device, priority=_HIGH_PRIORITY)  # type: ignore[no-untyped-call]


class CUDARecorder:
    """Record CUDA graphs that share one pool of memory, so that no two of them may run at once.

    Args:
        device: of the graphs.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._last_replay: torch.cuda.Event | None = None

    def record(self, function: Function, inputs: Sequence[Tensor]) -> Recording:
        """Record `function(*inputs)`."""
        return CUDARecording(function, inputs, self._pool)

    def wait(self) -> None:
        """Let the current stream wait for the last replay."""
        if self._last_replay is not None:
            torch.cuda.current_stream(self._device).wait_event(self._last_replay)

    def mark(self) -> None:
        """Record an event on the current stream."""
        self._last_replay = torch.cuda.current_stream(self._device).record_event()


class _Source:
    """The tensor that an input of a recording was last copied from."""

    def __init__(self) -> None:
        self._tensor: weakref.ref[Tensor] | None = None  # None: unknown
        self._version = 0  # PyTorch's count of the tensor's changes in place

    def forget(self) -> None:
        self._tensor = None

    def set(self, tensor: Tensor) -> None:
        self.forget()
        if not tensor.is_inference():  # PyTorch does not count the changes of inference tensors
            self._tensor, self._version = weakref.ref(tensor), tensor._version

    def holds(self, tensor: Tensor) -> bool:
        """Return True if the input holds the values of this tensor already."""
        return self._tensor is not None and self._tensor() is tensor and self._version == tensor._version


class RecordedFunctions:
    """Call functions of tensors by replaying what was recorded at their first call; threads may share an instance.

    Recordings share memory. So a lock is held from the copy of the inputs to the copy of the outputs, both of which
    only queue work for the device, and every use waits, on the device, for the one before.

    Args:
        recorder: of the device.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._lock = threading.Lock()
        self._recordings: dict[tuple[object, ...], tuple[Recording, list[_Source]]] = {}
        self._failures = 0

    def __call__(self, name: str, function: Function, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return `function(*inputs)`, as new tensors.

        Args:
            name: identifies the function together with the shapes and dtypes of the inputs.
            function: without side effects; it must not wait for the device.
            inputs: on the device.
        """
        key = (name, *((tuple(tensor.shape), tensor.dtype) for tensor in inputs))
        with self._lock:
            if self._failures < _MOST_FAILURES:
                self._recorder.wait()
                try:
                    entry = self._recordings.get(key) or self._recorded(key, function, inputs)
                    if entry is not None:
                        return self._replayed(*entry, inputs)
                finally:  # also after an error: what was queued before it still runs
                    self._recorder.mark()
        return tuple(function(*inputs))

    def _replayed(
        self, recording: Recording, sources: Sequence[_Source], inputs: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        changed = [
            (own, given, source)
            for own, given, source in zip(recording.inputs, inputs, sources, strict=True)
            if not source.holds(given)  # further expressions come with the image of the first
        ]
        for _, _, source in changed:
            source.forget()
        _copy([own for own, _, _ in changed], [given for _, given, _ in changed])
        for _, given, source in changed:
            source.set(given)
        recording.replay()
        outputs = tuple(torch.empty_like(tensor) for tensor in recording.outputs)
        _copy(outputs, recording.outputs)
        return outputs

    def _recorded(
        self, key: tuple[object, ...], function: Function, inputs: Sequence[Tensor]
    ) -> tuple[Recording, list[_Source]] | None:
        """Record a function; None if the recording fails.

        Another thread that waits for the whole device makes a recording fail, so it is tried again at the next call;
        after some failures nothing is recorded any more.
        """
        try:
            # tensors of the application's inference mode could not be written to in a later call outside of it
            with torch.inference_mode(False), torch.no_grad():
                self._recordings[key] = self._recorder.record(function, inputs), [_Source() for _ in inputs]
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error) or (error.__context__ is not None and is_out_of_memory(error.__context__)):
                raise
            if isinstance(error, SSPSAMError):  # of the function itself, not of its recording
                raise
            self._failures += 1
            reason = first_line(error)
            if self._failures == _MOST_FAILURES:
                _LOG.warning("CUDA graphs are off, this predictor launches every operation itself: %s", reason)
                self._recordings.clear()
            else:
                _LOG.info("a CUDA graph could not be recorded, this call launches every operation itself: %s", reason)
        return self._recordings.get(key)


def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy tensors to others of the same shapes and dtypes; a GPU copies all of a dtype at once."""
    pairs_of: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = {}
    for pair in zip(targets, sources, strict=True):
        pairs_of.setdefault(pair[0].dtype, []).append(pair)
    for pairs in pairs_of.values():
        copy_together([target for target, _ in pairs], [source for _, source in pairs])


def recorded_functions(device: torch.device) -> RecordedFunctions | None:
    """Return a recorder for a device that has graphs, unless `SSPSAM_CUDA_GRAPHS` turns them off."""
    if device.type != "cuda" or not switched_on(SWITCH):
        return None
    return RecordedFunctions(CUDARecorder(device))
