"""Kernels of a GPU are compared with PyTorch's operators before their first use on a device."""

import logging
import types
from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor

from sspsam.utils.paths import first_line
from sspsam.utils.switches import switched_on

_LOG: Final = logging.getLogger(__name__)
HALF_PRECISION: Final = (torch.float16, torch.bfloat16)
_FAILED: Final[dict[tuple[torch.device, str], str]] = {}  # messages of failed trials, by device and name
SWITCH: Final = "SSPSAM_TRITON"  # environment variable; 0 turns the kernels of this package for a GPU off


def works_on(device: torch.device, name: str, fallback: str, difference: Callable[[], float], tolerance: float) -> bool:
    """Try a kernel of this package on a device; where it does not work, the log says why.

    The environment variable `SSPSAM_TRITON` turns all of them off where it is 0; see `switched_on`.

    Args:
        device: to try it on.
        name: of what the kernel computes.
        fallback: name of what computes it otherwise.
        difference: returns the largest difference between the results of both for an example; raises an error of any
            kind where the kernel cannot run, for example because Triton finds no C compiler.
        tolerance: the difference of a kernel that works is smaller.
    """
    if not switched_on(SWITCH):
        return False
    try:
        # tensors are made on the CPU: another thread may be recording a graph, in which the device's generator takes
        # part
        with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
            largest = difference()
        works, reason = largest < tolerance, f"its results differ by {largest}"  # False for NaN
    except Exception as error:
        works, reason = False, f"{type(error).__name__}: {first_line(error)}"
    if not works:
        message = f"{name}: {fallback} on {device}, the kernel does not work there: {reason:.300}"
        _LOG.info("%s", message)
        _FAILED[device, name] = message
    return works


def failed_trials(device: torch.device) -> list[str]:
    """Return a message for each kernel that does not work on a device, of those tried in this process so far.

    Args:
        device: without an index, all devices of its type.
    """
    messages = [
        message
        for (tried_on, _), message in _FAILED.items()
        if tried_on.type == device.type and device.index in (None, tried_on.index)
    ]
    if device.type == "cuda" and not switched_on(SWITCH):
        messages.append(f"the environment variable {SWITCH} turns the kernels of sspsam off")
    return messages


def tried_module(
    load: Callable[[], types.ModuleType],
    device: torch.device,
    name: str,
    pairs: Callable[[types.ModuleType], Sequence[tuple[Tensor, Tensor]]],
    tolerance: float,
) -> types.ModuleType | None:
    """Return a module of kernels, or None where Triton is missing or a kernel does not give PyTorch's results.

    Args:
        load: imports the module.
        device: to try the kernels on.
        name: of what they compute.
        pairs: returns results of the kernels, each with that of PyTorch's operators.
        tolerance: see `works_on`; differences are those of `max_difference`.
    """

    def difference() -> float:
        return max_difference(pairs(load()))

    works = works_on(device, name, "PyTorch's operators", difference, tolerance)
    return load() if works else None


def gpu_kernels_allowed(device: torch.device) -> bool:
    """Return True where kernels for a GPU of NVIDIA may take the place of PyTorch's operators.

    They have no derivative and know nothing of autocast, and PyTorch's compiler writes such kernels itself.
    """
    if device.type != "cuda" or torch.version.cuda is None:
        return False
    return not (torch.compiler.is_compiling() or torch.is_grad_enabled() or torch.is_autocast_enabled("cuda"))


def wave(*shape: int, device: torch.device, step: float = 0.7) -> Tensor:
    """Return example values between -1 and 1 in float32, the same on every device: sines of multiples of `step`."""
    numbers = torch.arange(torch.Size(shape).numel(), dtype=torch.float32, device="cpu")
    return (numbers * step).sin().view(shape).to(device)


def max_difference(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Return the largest difference of results and expected values; NaN where a result is NaN.

    Differences are relative to expected values above 1.

    Args:
        pairs: results with the values expected, of the same shape.
    """
    differences = [
        ((result.float() - expected.float()).abs() / expected.float().abs().clamp(min=1)).max()
        for result, expected in pairs
    ]
    return float(torch.stack(differences).max())  # Python's `max` would lose NaN
