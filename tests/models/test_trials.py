"""Kernels are tried before they are used."""

import math
import types

import pytest
import torch

from sspsam.models import trials

KERNELS = types.ModuleType("kernels")


def trial(device: torch.device, difference: float = 0.0, name: str = "sums") -> trials.Trial:
    return trials.try_kernels(lambda: KERNELS, device, name, "PyTorch", lambda kernels: difference, 0.1)


def test_an_environment_variable_turns_the_kernels_off(monkeypatch) -> None:
    device = torch.device("cuda")
    assert trial(device).kernels is KERNELS
    for off in ("0", "off"):
        monkeypatch.setenv(trials.SWITCH, off)
        assert trial(device) == (device, None, None)


@pytest.mark.parametrize(
    ("device", "version", "applies"),
    [("cuda", "13.0", True), ("cpu", "13.0", False), ("cuda", None, False)],  # ROCm's devices are called "cuda" too
)
def test_own_kernels_are_for_gpus_of_nvidia_without_gradients(monkeypatch, device, version, applies) -> None:
    monkeypatch.setattr(torch.version, "cuda", version)
    with torch.no_grad():
        assert trials.gpu_kernels_allowed(torch.device(device)) is applies
        assert trials.allowed_kernels(lambda *_: KERNELS, torch.device(device)) is (KERNELS if applies else None)
    assert not trials.gpu_kernels_allowed(torch.device(device))
    assert trials.allowed_kernels(lambda *_: KERNELS, torch.device(device)) is None


@pytest.mark.parametrize(("module", "question"), [(torch.compiler, "is_compiling"), (torch, "is_autocast_enabled")])
def test_own_kernels_are_neither_for_the_compiler_nor_for_mixed_precision(monkeypatch, module, question) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(module, question, lambda *_: True)
    with torch.no_grad():
        assert not trials.gpu_kernels_allowed(torch.device("cuda"))


def test_a_trial_does_not_depend_on_the_modes_of_the_application() -> None:
    modes = []

    def difference(kernels: types.ModuleType) -> float:
        modes.append((torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.empty(1).device.type))
        return 0.0

    def run() -> trials.Trial:
        return trials.try_kernels(lambda: KERNELS, torch.device("cpu"), "sums", "PyTorch", difference, 0.1)

    with torch.inference_mode(), torch.device("meta"):
        assert run().kernels is KERNELS
    assert run().kernels is KERNELS
    assert modes == [(False, False, "cpu")] * 2


def test_a_module_that_cannot_be_imported_is_a_failed_trial() -> None:
    def load() -> types.ModuleType:
        raise ModuleNotFoundError("No module named 'triton'")

    result = trials.try_kernels(load, torch.device("cuda", 0), "sums", "PyTorch", lambda kernels: 0.0, 0.1)
    assert result.kernels is None
    assert result.failure is not None
    assert "ModuleNotFoundError: No module named 'triton'" in result.failure


def test_kernels_are_tried_once_for_each_device_and_a_failure_is_logged_once(caplog) -> None:
    tried = trials.TriedKernels(lambda device: trial(device, 0.0 if device.index == 0 else 0.5))
    with caplog.at_level("INFO"):
        for _ in range(3):
            assert tried(torch.device("cuda", 0)) is KERNELS
            assert tried(torch.device("cuda", 1)) is None
    assert len(caplog.messages) == 1
    tried.cache_clear()
    assert tried.failures(torch.device("cuda")) == []
    with caplog.at_level("INFO"):
        assert tried(torch.device("cuda", 1)) is None
    assert len(caplog.messages) == 2


def test_failed_trials_are_listed_for_their_device_in_one_line(monkeypatch) -> None:
    def fails(device: torch.device, name: str) -> trials.Trial:
        def load() -> types.ModuleType:
            raise RuntimeError("Triton finds no C compiler\nin many words")

        return trials.try_kernels(load, device, name, "PyTorch", lambda kernels: 0.0, 0.1)

    first, second = trials.TriedKernels(fails), trials.TriedKernels(trial)
    first(torch.device("cuda", 0), "sums")
    second(torch.device("cuda", 1), 0.5, "norms")
    second(torch.device("cuda", 0), 0.0, "others")
    [message] = trials.failed_trials(torch.device("cuda", 0), [first, second])
    assert message.startswith("sums: PyTorch on cuda:0, the kernel does not work there: RuntimeError: Triton finds no")
    assert "\n" not in message
    [other] = trials.failed_trials(torch.device("cuda", 1), [first, second])
    assert other.endswith("its results differ by 0.5")
    assert trials.failed_trials(torch.device("cuda"), [first, second]) == [message, other]
    assert trials.failed_trials(torch.device("cpu"), [first, second]) == []
    monkeypatch.setenv(trials.SWITCH, "0")
    assert trials.SWITCH in trials.failed_trials(torch.device("cuda"), [first, second])[-1]


def test_the_largest_difference_is_relative_above_1_and_keeps_nan() -> None:
    near, far = torch.tensor([0.5, 100.0]), torch.tensor([0.25, 110.0])
    assert trials.max_difference([(near, near), (near, far)]) == pytest.approx(0.25)
    assert math.isnan(trials.max_difference([(torch.tensor([torch.nan, 1.0]), near), (near, far)]))
