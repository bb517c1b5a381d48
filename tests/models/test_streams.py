"""Waiting for the work of another stream, with stand-ins for CUDA's streams and tensors."""

from collections.abc import Callable

import pytest
import torch

from sspsam.models.streams import Finished

GPU = torch.device("cuda", 0)
Log = list[str]


class Stream:
    def __init__(self, name: str, log: Log) -> None:
        self.name, self.log = name, log

    def record_event(self) -> str:
        return f"event of {self.name}"

    def wait_event(self, event: str) -> None:
        self.log.append(f"{self.name} waits for {event}")


class KeptTensor:
    def __init__(self, log: Log) -> None:
        self.log = log

    def record_stream(self, stream: Stream) -> None:
        self.log.append(f"memory is kept for {stream.name}")


@pytest.fixture
def log() -> Log:
    return []


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Stream], None]:
    """Make a stream the current one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return lambda stream: monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)


def test_another_stream_waits_and_keeps_the_memory_of_the_tensors(use: Callable[[Stream], None], log: Log) -> None:
    first, second = Stream("first", log), Stream("second", log)
    use(first)
    finished = Finished(GPU)
    finished.wait([KeptTensor(log)])
    assert log == []
    use(second)
    finished.wait([KeptTensor(log)])
    assert log == ["second waits for event of first", "memory is kept for second"]


def test_other_devices_have_no_streams_to_wait_for(use: Callable[[Stream], None], log: Log) -> None:
    use(Stream("first", log))
    finished = Finished(torch.device("cpu"))
    use(Stream("second", log))
    finished.wait([KeptTensor(log)])
    assert log == []
