"""Recorded functions, with a stand-in for CUDA's graphs; `tests/test_cuda.py` tests the graphs themselves."""

import logging
import threading

import pytest
import torch
from torch import Tensor

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
    recorder.busy = False
    call("f", square_and_sum, torch.ones(2), torch.ones(2))
    assert recorder.recorded == [(2,)]


def test_a_cpu_has_no_graphs_and_the_environment_turns_those_of_a_gpu_off(monkeypatch) -> None:
    assert recorded_functions(torch.device("cpu")) is None
    for off in ("0", "False"):
        monkeypatch.setenv(SWITCH, off)
        assert recorded_functions(torch.device("cuda", 0)) is None
