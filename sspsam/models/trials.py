"""Kernels of a GPU are compared with PyTorch's operators before their first use on a device."""

import logging
import types
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVarTuple, Unpack

import torch
from torch import Tensor

from sspsam.utils.paths import first_line
from sspsam.utils.switches import switched_on

_LOG: Final = logging.getLogger(__name__)
HALF_PRECISION: Final = (torch.float16, torch.bfloat16)
SWITCH: Final = "SSPSAM_TRITON"  # environment variable; 0 turns the kernels of this package for a GPU off
PYTORCH: Final = "PyTorch's operators"
_MOST_ROUNDINGS: Final = 4  # distances between numbers in half precision by which a kernel's results may differ

Arguments = TypeVarTuple("Arguments")


class Trial(NamedTuple):
    """Result of a trial of kernels on a device."""

    device: torch.device
    kernels: types.ModuleType | None  # the module of the kernels; None where they do not work or are turned off
    failure: str | None = None  # a message, where they do not work


class TriedKernels(Generic[*Arguments]):
    """A function that returns a module of kernels, or None where they do not work, after one trial.

    Args:
        trial: tries the kernels; it is called once for the same arguments.
    """

    def __init__(self, trial: Callable[[Unpack[Arguments]], Trial]) -> None:
        self._trial = trial
        self._trials: dict[tuple[*Arguments], Trial] = {}

    def __call__(self, *arguments: *Arguments) -> types.ModuleType | None:
        """Return the module, or None where a kernel does not work or where kernels are turned off."""
        trial = self._trials.get(arguments)
        if trial is None:
            trial = self._trials[arguments] = self._trial(*arguments)
        return trial.kernels

    def failures(self, device: torch.device) -> list[str]:
        """Return the messages of the trials that failed on a device; without an index, on all devices of its type."""
        return [
            trial.failure
            for trial in list(self._trials.values())
            if trial.failure is not None
            and trial.device.type == device.type
            and device.index in (None, trial.device.index)
        ]

    def cache_clear(self) -> None:
        """Forget all trials."""
        self._trials.clear()


def try_kernels(
    load: Callable[[], types.ModuleType],
    device: torch.device,
    name: str,
    fallback: str,
    difference: Callable[[types.ModuleType], float],
    tolerance: float,
) -> Trial:
    """Try kernels of this package on a device; where one does not work, the log says why.

    The environment variable `SSPSAM_TRITON` turns all of them off where it is 0; see `switched_on`.

    Args:
        load: imports their module; raises an error where Triton is missing.
        device: to try them on.
        name: of what they compute.
        fallback: name of what computes it otherwise.
        difference: returns the largest difference between the results of both for an example; raises an error of any
            kind where a kernel cannot run, for example because Triton finds no C compiler.
        tolerance: the difference of kernels that work is smaller.
    """
    if not switched_on(SWITCH):
        return Trial(device, None)
    try:
        # tensors are made on the CPU: another thread may be recording a graph, in which the device's generator takes
        # part
        with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
            kernels = load()
            largest = difference(kernels)
        if largest < tolerance:  # False for NaN
            return Trial(device, kernels)
        reason = f"its results differ by {largest}"
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
    message = f"{name}: {fallback} on {device}, the kernel does not work there: {reason:.300}"
    _LOG.info("%s", message)
    return Trial(device, None, message)


def try_in_half_precision(
    load: Callable[[], types.ModuleType],
    device: torch.device,
    dtype: torch.dtype,
    name: str,
    pairs: Callable[..., list[tuple[Tensor, Tensor]]],
    sizes: Iterable[tuple[int, ...]],
) -> Trial:
    """Try kernels whose results are in half precision against PyTorch's operators.

    Args:
        load: imports their module.
        device: to try them on.
        dtype: of the results.
        name: of what they compute.
        pairs: called with the module, the numbers of a size, dtype and device; returns results of the kernels, each
            with that of PyTorch's operators.
        sizes: of the examples.
    """

    def difference(kernels: types.ModuleType) -> float:
        return max_difference([pair for size in sizes for pair in pairs(kernels, *size, dtype, device)])

    in_dtype = f"{name} in {str(dtype).removeprefix('torch.')}"
    return try_kernels(load, device, in_dtype, PYTORCH, difference, _MOST_ROUNDINGS * torch.finfo(dtype).eps)


def failed_trials(device: torch.device, tried: Iterable[TriedKernels[*tuple[Any, ...]]]) -> list[str]:
    """Return a message for each kernel that does not work on a device, of those tried in this process so far.

    Args:
        device: without an index, all devices of its type.
        tried: all kernels.
    """
    messages = [message for kernels in tried for message in kernels.failures(device)]
    if device.type == "cuda" and not switched_on(SWITCH):
        messages.append(f"the environment variable {SWITCH} turns the kernels of sspsam off")
    return messages


def allowed_kernels(
    choose: Callable[[torch.device, Unpack[Arguments]], types.ModuleType | None],
    device: torch.device,
    *arguments: *Arguments,
) -> types.ModuleType | None:
    """Return the module of kernels that work with some arguments, or None where PyTorch's operators must be used.

    Args:
        choose: tries the kernels; see `TriedKernels`.
        device: of the tensors.
        arguments: the other arguments of `choose`.
    """
    return choose(device, *arguments) if gpu_kernels_allowed(device) else None


def half_precision_kernels(
    choose: Callable[[torch.device, torch.dtype], types.ModuleType | None], x: Tensor, dtype: torch.dtype
) -> types.ModuleType | None:
    """Return the module of the kernels where they compute half precision in `dtype` from `x`, or None."""
    return allowed_kernels(choose, x.device, dtype) if dtype in HALF_PRECISION else None


def gpu_kernels_allowed(device: torch.device) -> bool:
    """Return True where kernels for a GPU of NVIDIA may take the place of PyTorch's operators.

    They have no derivative and know nothing of autocast. PyTorch's compiler writes such kernels itself; it gets those
    that it cannot write as operators (`norm_operators.py`).
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
