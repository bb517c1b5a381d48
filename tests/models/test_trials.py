"""Kernels are tried before they are used."""

import math

import pytest
import torch

from sspsam.models import trials


def test_an_environment_variable_turns_the_kernels_off(monkeypatch) -> None:
    device = torch.device("cuda")
    assert trials.works_on(device, "sums", "PyTorch", lambda: 0.0, 1.0)
    for off in ("0", "off"):
        monkeypatch.setenv(trials.SWITCH, off)
        assert not trials.works_on(device, "sums", "PyTorch", lambda: 0.0, 1.0)


@pytest.mark.parametrize(
    ("device", "version", "applies"),
    [("cuda", "13.0", True), ("cpu", "13.0", False), ("cuda", None, False)],  # ROCm's devices are called "cuda" too
)
def test_own_kernels_are_for_gpus_of_nvidia_without_gradients(monkeypatch, device, version, applies) -> None:
    monkeypatch.setattr(torch.version, "cuda", version)
    with torch.no_grad():
        assert trials.gpu_kernels_allowed(torch.device(device)) is applies
    assert not trials.gpu_kernels_allowed(torch.device(device))


@pytest.mark.parametrize(("module", "question"), [(torch.compiler, "is_compiling"), (torch, "is_autocast_enabled")])
def test_own_kernels_are_neither_for_the_compiler_nor_for_mixed_precision(monkeypatch, module, question) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(module, question, lambda *_: True)
    with torch.no_grad():
        assert not trials.gpu_kernels_allowed(torch.device("cuda"))


def test_a_trial_does_not_depend_on_the_modes_of_the_application() -> None:
    modes = []

    def difference() -> float:
        modes.append((torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.empty(1).device.type))
        return 0.0

    with torch.inference_mode(), torch.device("meta"):
        assert trials.works_on(torch.device("cpu"), "sums", "PyTorch", difference, 1.0)
    assert trials.works_on(torch.device("cpu"), "sums", "PyTorch", difference, 1.0)
    assert modes == [(False, False, "cpu")] * 2


def test_failed_trials_are_remembered_for_their_device_in_one_line(monkeypatch) -> None:
    monkeypatch.setattr(trials, "_FAILED", {})

    def fails() -> float:
        raise RuntimeError("Triton finds no C compiler\nin many words")

    assert not trials.works_on(torch.device("cuda", 0), "sums", "PyTorch", fails, 1.0)
    assert not trials.works_on(torch.device("cuda", 1), "norms", "PyTorch", lambda: 0.5, 0.1)
    assert trials.works_on(torch.device("cuda", 0), "others", "PyTorch", lambda: 0.0, 0.1)
    [message] = trials.failed_trials(torch.device("cuda", 0))
    assert message.startswith("sums: PyTorch on cuda:0, the kernel does not work there: RuntimeError: Triton finds no")
    assert "\n" not in message
    [other] = trials.failed_trials(torch.device("cuda", 1))
    assert other.endswith("its results differ by 0.5")
    assert trials.failed_trials(torch.device("cuda")) == [message, other]
    assert trials.failed_trials(torch.device("cpu")) == []
    monkeypatch.setenv(trials.SWITCH, "0")
    assert trials.SWITCH in trials.failed_trials(torch.device("cuda"))[-1]


def test_the_largest_difference_is_relative_above_1_and_keeps_nan() -> None:
    near, far = torch.tensor([0.5, 100.0]), torch.tensor([0.25, 110.0])
    assert trials.max_difference([(near, near), (near, far)]) == pytest.approx(0.25)
    assert math.isnan(trials.max_difference([(torch.tensor([torch.nan, 1.0]), near), (near, far)]))
