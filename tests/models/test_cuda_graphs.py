"""Recorded functions, with a stand-in for CUDA's graphs; `tests/test_cuda.py` tests the graphs themselves."""

import logging
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from sspsam.models import cuda_graphs
from sspsam.models.cuda_graphs import SWITCH, RecordedFunctions, recorded_functions
from tests.support.recording import CPURecorder


def square_and_sum(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x * x, x + y


def test_a_function_is_recorded_once_for_each_name_shape_and_dtype() -> None:
    recorder = CPURecorder()
    call = RecordedFunctions(recorder)
    for _ in range(3):
        call("f", square_and_sum, torch.ones(2), torch.ones(2))
    call("f", square_and_sum, torch.ones(4), torch.ones(4))
    call("f", square_and_sum, torch.ones(4), torch.ones(4).double())
    call("g", square_and_sum, torch.ones(4), torch.ones(4))
    assert recorder.recorded == [(2,), (4,), (4,), (4,)]


def test_a_later_call_does_not_change_the_result_of_an_earlier_one_nor_its_inputs() -> None:
    call = RecordedFunctions(CPURecorder())
    x, y = torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0])
    first = call("f", square_and_sum, x, y)
    second = call("f", square_and_sum, y, y)
    assert [tensor.tolist() for tensor in first] == [[1, 4], [11, 22]]
    assert [tensor.tolist() for tensor in second] == [[100, 400], [20, 40]]
    assert x.tolist() == [1, 2]


def test_inputs_and_outputs_of_several_dtypes_and_layouts_keep_their_places(monkeypatch) -> None:
    """Copies to and from a recording are made together for each dtype."""
    copy, copied = torch._foreach_copy_, []

    def counted(targets, sources, **options) -> None:
        copied.append({tensor.dtype for tensor in (*targets, *sources)})
        copy(targets, sources, **options)

    monkeypatch.setattr(torch, "_foreach_copy_", counted)

    def shuffled(x: Tensor, flags: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return y.half(), flags, x.T, x[:, 1:], flags.logical_not(), x + y, x

    call, generator = RecordedFunctions(CPURecorder()), torch.Generator().manual_seed(0)
    for _ in range(3):
        x, y = (torch.randn(3, 4, generator=generator) for _ in range(2))
        inputs = x, torch.randn(5, generator=generator) > 0, y.T.contiguous().T
        for result, expected in zip(call("f", shuffled, *inputs), shuffled(*inputs), strict=True):
            assert result.dtype == expected.dtype
            assert torch.equal(result, expected)
    assert all(len(dtypes) == 1 for dtypes in copied)
    assert len(copied) == 3 * (2 + 3)  # two dtypes of inputs, three of outputs


def test_many_threads_get_the_results_of_their_own_inputs() -> None:
    """The stand-in fails if two threads use recordings, which share memory, at once."""
    call = RecordedFunctions(CPURecorder())
    wrong: list[int] = []

    def work(number: int) -> None:
        for step in range(50):
            x = torch.full((1 + number % 3,), float(number * 100 + step))
            squared, total = call("f", square_and_sum, x, x)
            if not (torch.equal(squared, x * x) and torch.equal(total, 2 * x)):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_recording_made_in_inference_mode_serves_calls_outside_of_it_and_the_other_way_round() -> None:
    call = RecordedFunctions(CPURecorder())
    for inside in (True, False, True):
        with torch.inference_mode(inside), torch.no_grad():
            for value in (1.0, 2.0):
                x = torch.full((2,), value)
                squared, total = call("f", square_and_sum, x, x)
                assert (squared.tolist(), total.tolist()) == ([value**2] * 2, [2 * value] * 2)


def test_an_input_is_copied_again_only_if_it_is_another_tensor_or_was_changed() -> None:
    recorder = CPURecorder()
    call = RecordedFunctions(recorder)
    image, texts = torch.ones(3), torch.ones(3)
    call("f", square_and_sum, image, texts)
    [(recording, _)] = call._recordings.values()  # that nothing is copied is seen nowhere else
    recording.inputs[0].fill_(5.0)
    assert call("f", square_and_sum, image, torch.zeros(3))[0].tolist() == [25.0] * 3
    image.mul_(2)
    assert call("f", square_and_sum, image, texts)[0].tolist() == [4.0] * 3
    assert call("f", square_and_sum, texts, image)[0].tolist() == [1.0] * 3


def test_an_input_of_inference_mode_does_not_pass_for_the_tensor_before_it() -> None:
    call = RecordedFunctions(CPURecorder())
    x, y = torch.full((2,), 3.0), torch.ones(2)
    call("f", square_and_sum, x, y)
    with torch.inference_mode():
        assert call("f", square_and_sum, torch.full((2,), 5.0), y)[0].tolist() == [25.0] * 2
    assert call("f", square_and_sum, x, y)[0].tolist() == [9.0] * 2


class BrokenRecorder(CPURecorder):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def record(self, function, inputs):
        raise self.error


def test_a_device_that_cannot_record_computes_eagerly_and_says_so_once(caplog) -> None:
    call = RecordedFunctions(BrokenRecorder(RuntimeError("operation not permitted when stream is capturing\nmore")))
    with caplog.at_level(logging.WARNING, "sspsam"):
        results = [call("f", square_and_sum, torch.full((2,), float(n)), torch.ones(2)) for n in range(3)]
    assert [squared.tolist() for squared, _ in results] == [[0, 0], [1, 1], [4, 4]]
    [record] = caplog.records
    assert "operation not permitted when stream is capturing" in record.message
    assert "more" not in record.message


def test_a_recording_that_fails_once_is_tried_again_at_the_next_call(caplog) -> None:
    recorder = CPURecorder()
    call = RecordedFunctions(recorder)
    call("f", square_and_sum, torch.ones(2), torch.ones(2))
    record, recorder.record = recorder.record, BrokenRecorder(RuntimeError("stream is capturing")).record
    with caplog.at_level(logging.WARNING, "sspsam"):
        assert call("g", square_and_sum, torch.full((2,), 3.0), torch.ones(2))[0].tolist() == [9, 9]
        recorder.record = record
        for value in (2.0, 3.0):
            assert call("g", square_and_sum, torch.full((2,), value), torch.ones(2))[0].tolist() == [value**2] * 2
    assert recorder.recorded == [(2,), (2,)]
    assert not caplog.records


def test_a_use_that_fails_is_waited_for_by_the_next_one(monkeypatch) -> None:
    recorder = CPURecorder()
    call = RecordedFunctions(recorder)
    call("f", square_and_sum, torch.ones(2), torch.ones(2))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty_like", out_of_memory)
        with pytest.raises(torch.OutOfMemoryError):
            call("f", square_and_sum, torch.full((2,), 5.0), torch.ones(2))
    assert not recorder.busy
    assert call("f", square_and_sum, torch.full((2,), 3.0), torch.ones(2))[0].tolist() == [9, 9]


def test_an_input_of_which_the_copy_failed_is_copied_again(monkeypatch) -> None:
    call = RecordedFunctions(CPURecorder())
    x, y = torch.ones(2), torch.ones(2)
    call("f", square_and_sum, x, y)
    copy = torch._foreach_copy_

    def half(targets, sources, **options) -> None:
        copy(targets[:1], sources[:1], **options)
        raise RuntimeError("CUDA error")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "_foreach_copy_", half)
        with pytest.raises(RuntimeError, match="CUDA error"):
            call("f", square_and_sum, torch.full((2,), 5.0), torch.zeros(2))
    assert [tensor.tolist() for tensor in call("f", square_and_sum, x, y)] == [[1, 1], [2, 2]]


def out_of_memory(*_: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_lack_of_memory_while_recording_is_raised_and_a_smaller_call_is_recorded() -> None:
    recorder = CPURecorder()
    call = RecordedFunctions(recorder)
    record, error = recorder.record, torch.OutOfMemoryError("CUDA out of memory")

    def short_of_memory(function, inputs):
        if len(inputs[0]) > 2:
            raise error
        return record(function, inputs)

    recorder.record = short_of_memory
    with pytest.raises(torch.OutOfMemoryError):
        call("f", square_and_sum, torch.ones(4), torch.ones(4))
    call("f", square_and_sum, torch.ones(2), torch.ones(2))
    assert recorder.recorded == [(2,)]


def test_a_cpu_has_no_graphs_and_the_environment_turns_those_of_a_gpu_off(monkeypatch) -> None:
    assert recorded_functions(torch.device("cpu")) is None
    for off in ("0", "False"):
        monkeypatch.setenv(SWITCH, off)
        assert recorded_functions(torch.device("cuda", 0)) is None


class FakeCUDA:
    """In the place of `torch.cuda`: streams that do nothing, and graphs whose recording can fail."""

    def __init__(self) -> None:
        self.current = self.default = types.SimpleNamespace(wait_stream=lambda other: None)
        self.recorded_on: list[tuple[object, object]] = []  # pool and stream
        self.priorities: list[int] = []
        self.fails = False
        self.CUDAGraph = object

    def Stream(self, device: torch.device, priority: int) -> types.SimpleNamespace:  # noqa: N802, a name of torch.cuda
        self.priorities.append(priority)
        return types.SimpleNamespace(wait_stream=lambda other: None)

    def current_stream(self, device: torch.device) -> types.SimpleNamespace:
        return self.current

    @contextmanager
    def stream(self, stream: types.SimpleNamespace) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def graph(self, graph: object, pool: object, stream: object, capture_error_mode: str) -> Iterator[None]:
        self.recorded_on.append((pool, stream))
        self.current = stream
        yield
        if self.fails:  # as PyTorch, which does not restore the stream then
            raise RuntimeError("operation failed due to a previous error during capture")


@pytest.fixture
def cuda(monkeypatch) -> Iterator[FakeCUDA]:
    fake = FakeCUDA()
    for name in ("CUDAGraph", "Stream", "current_stream", "stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, getattr(fake, name))
    cuda_graphs._recording_stream.cache_clear()
    yield fake
    cuda_graphs._recording_stream.cache_clear()


def test_all_graphs_of_a_device_are_recorded_on_one_stream_so_that_they_share_memory(cuda) -> None:
    """PyTorch's allocator reuses memory of a pool only for the stream that allocated it."""
    for pool in ("first", "first", "second"):
        cuda_graphs.CUDARecording(square_and_sum, [torch.ones(2), torch.ones(2)], pool)
    assert [pool for pool, _ in cuda.recorded_on] == ["first", "first", "second"]
    assert len({id(stream) for _, stream in cuda.recorded_on}) == 1
    assert cuda.priorities == [-1]  # the application's streams are of ordinary priority


def test_a_recording_that_fails_leaves_the_current_stream_of_the_thread_as_it_was(cuda) -> None:
    cuda.fails = True
    with pytest.raises(RuntimeError, match="previous error during capture"):
        cuda_graphs.CUDARecording(square_and_sum, [torch.ones(2), torch.ones(2)], "pool")
    assert cuda.current is cuda.default
