"""Kernels are tried before they are used."""

import torch

from sspsam.models import trials


def test_an_environment_variable_turns_the_kernels_off(monkeypatch) -> None:
    device = torch.device("cuda")
    assert trials.own_kernel_works_on(device, "sums", "PyTorch", lambda: 0.0, 1.0)
    for off in ("0", "off"):
        monkeypatch.setenv(trials.SWITCH, off)
        assert not trials.own_kernel_works_on(device, "sums", "PyTorch", lambda: 0.0, 1.0)
