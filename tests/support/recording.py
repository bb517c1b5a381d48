"""A stand-in for CUDA graphs that records and replays on the CPU, with the same ownership of tensors."""

from collections.abc import Sequence

from torch import Tensor

from sspsam.models.cuda_graphs import Function


class CPURecording:
    """Computes into outputs of its own, so that every replay overwrites those of the replay before."""

    def __init__(self, function: Function, inputs: Sequence[Tensor]) -> None:
        self.function = function
        self.inputs = [tensor.clone() for tensor in inputs]
        self.outputs = [tensor.clone() for tensor in function(*self.inputs)]

    def replay(self) -> None:
        for output, value in zip(self.outputs, self.function(*self.inputs), strict=True):
            output.copy_(value)


class CPURecorder:
    """Counts recordings; the calls of `wait` and `mark` must alternate."""

    def __init__(self) -> None:
        self.recorded: list[tuple[int, ...]] = []  # shapes of the last input
        self.busy = False

    def record(self, function: Function, inputs: Sequence[Tensor]) -> CPURecording:
        self.recorded.append(tuple(inputs[-1].shape))
        return CPURecording(function, inputs)

    def wait(self) -> None:
        assert not self.busy, "a recording was used while another one was in use"
        self.busy = True

    def mark(self) -> None:
        self.busy = False
