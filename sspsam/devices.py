"""Devices and precision: checked arguments, and the context in which the model computes."""

import functools
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, ParamSpec, TypeVar

import torch
from torch import Tensor

from sspsam.errors import DeviceError, ForkedProcessError, NumericalError, OutOfMemoryError, SSPSAMError
from sspsam.messages import OptionMessage, setting
from sspsam.utils.memory import OUT_OF_MEMORY_MESSAGE, is_out_of_memory, release_memory
from sspsam.utils.paths import first_line, kind_name, shown, shown_repr

_USE_CPU: Final = setting("device", "cpu")
_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

DTYPES: Final[Mapping[str, torch.dtype]] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def checked_device(device: str | torch.device | None) -> torch.device:
    """Return the device with its index; None means a GPU if PyTorch finds one, else the CPU.

    Raises:
        DeviceError: this computer has no such device.
    """
    kind = str(device).lower().partition(":")[0]
    if kind == "mkldnn":  # PyTorch would warn before it refuses
        raise DeviceError(
            OptionMessage(f"device '{shown(device)}' is no device: ", _USE_CPU, " computes with oneDNN (MKL-DNN)")
        )
    if kind == "gpu":
        raise DeviceError(
            OptionMessage(
                f"device '{shown(device)}' is called 'cuda' by PyTorch: use ", setting("device", "cuda"), " or 'cuda:1'"
            )
        )
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not isinstance(device, str | torch.device):
        raise TypeError(f"device must be a string or a torch.device, not {kind_name(device)}")
    try:
        # "cuda" means the current device of the calling thread; the device of a tensor carries its index. The tensor is
        # filled because a GPU that is too old for this PyTorch fails at the first computation
        chosen = torch.ones(1, dtype=torch.float32, device=torch.device(device)).device
    except (RuntimeError, AssertionError, ImportError) as error:
        raise DeviceError(
            OptionMessage(f"device '{shown(device)}' cannot be used here: {_refusal(error)}. Use ", _USE_CPU, ".")
        ) from error
    if chosen.type == "meta":
        raise DeviceError("device 'meta' holds no values; use 'cpu' or 'cuda'")
    return chosen


def _refusal(error: Exception) -> str:
    """Return in one clause why PyTorch refuses a device; its own message may be pages about its dispatcher."""
    message = str(error).strip() or type(error).__name__
    if "at start of device string" in message:  # the message lists all types of devices, most of them historical
        return "PyTorch knows no device of that name"
    if isinstance(error, NotImplementedError | ImportError) or "INTERNAL ASSERT" in message:
        return f"this PyTorch ({torch.__version__}) was built without it"
    return shown(message.splitlines()[0].split(". ")[0].rstrip("."))


def checked_dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    """Return one of `DTYPES`, given by name or as itself; None means float32.

    Raises:
        ValueError: not one of `DTYPES`.
    """
    chosen = torch.float32 if dtype is None else DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen is None or chosen not in DTYPES.values():
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {shown_repr(dtype)}")
    return chosen


def default_dtype(device: torch.device) -> torch.dtype:
    """Return the default precision of a device: mixed float16 on a GPU, float32 elsewhere."""
    return torch.float16 if device.type == "cuda" else torch.float32


def dtype_name(dtype: str | torch.dtype | None) -> str:
    """Return the name in `DTYPES` of one of them."""
    chosen = checked_dtype(dtype)
    return next(name for name, known in DTYPES.items() if known is chosen)


def host_buffer(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return empty host memory to exchange with a device; page-locked for CUDA, so that copies need not wait."""
    pinned = device.type == "cuda" and torch.cuda.is_available()
    return torch.empty(tuple(shape), dtype=dtype, device="cpu", pin_memory=pinned)


@contextmanager
def inference_context(device: torch.device) -> Iterator[None]:
    """Compute without gradients on `device`, in the precision of the weights, without the application's autocast.

    Raises:
        ForkedProcessError: see `require_working_thread_pool`.
    """
    require_working_thread_pool()
    _THREAD_POOL.note_computation()
    no_autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=False)
    with torch.no_grad(), no_autocast, ieee_float32(device):
        yield


class _ThreadPool:
    """The process in which PyTorch's CPU thread pool was started: a fork copies the pool without its threads."""

    def __init__(self) -> None:
        self._started_in: int | None = None

    def note_computation(self) -> None:
        if torch.get_num_threads() > 1:
            self._started_in = os.getpid()

    def is_broken(self) -> bool:
        return self._started_in not in (None, os.getpid()) and torch.get_num_threads() > 1


_THREAD_POOL: Final = _ThreadPool()  # one per process, as PyTorch's own pool


def require_working_thread_pool() -> None:
    """Refuse to compute where PyTorch would wait forever for threads that exist in the parent process only.

    A forked process may compute with one thread, as the workers of `torch.utils.data.DataLoader` do.

    Raises:
        ForkedProcessError: the process was forked after a computation and computes with more than one thread.
    """
    if _THREAD_POOL.is_broken():
        raise ForkedProcessError(
            "this process was forked after its parent had computed with sspsam, and PyTorch's threads do not survive a "
            "fork. Start processes with the 'spawn' or 'forkserver' method, fork before the first computation, or call "
            "torch.set_num_threads(1) in the forked process."
        )


class _Float32Settings:
    """PyTorch's process-wide settings of float32 products on one kind of device, set to IEEE while threads compute.

    The first of several threads that compute at once changes the settings, the last one restores them. Settings that
    already mean IEEE float32 (`"ieee"`, or `"none"`, PyTorch's default on a CPU) are not changed.

    Args:
        settings: each setting with its parent, whose value the setting follows while its own is `"none"`.
        flag: object with the older setting `allow_tf32` of the same products. PyTorch refuses to read it while the two
            disagree, and programs read it often, so it is changed and restored with the settings. None: there is none.
    """

    def __init__(self, settings: list[tuple[Any, Any]], flag: Any = None) -> None:
        self._settings, self._flag = settings, flag
        self._lock = threading.Lock()
        self._threads = 0
        self._changed: list[tuple[Any, str]] = []  # settings, with the values to restore
        self._flag_changed = False

    def enter(self) -> None:
        with self._lock:
            if self._threads == 0:
                self._changed = [
                    (setting, _own_value(setting, parent))
                    for setting, parent in self._settings
                    if setting.fp32_precision not in ("ieee", "none")
                ]
                self._flag_changed = _allows_tf32(self._flag)
                if self._flag_changed:
                    self._flag.allow_tf32 = False  # before the settings, which PyTorch changes with it
                for setting, _ in self._changed:
                    setting.fp32_precision = "ieee"
            self._threads += 1

    def leave(self) -> None:
        with self._lock:
            self._threads -= 1
            if self._threads == 0:
                if self._flag_changed:
                    self._flag.allow_tf32 = True
                for setting, value in self._changed:
                    setting.fp32_precision = value
                self._changed = []


def _allows_tf32(flag: Any) -> bool:
    """Return the older setting; False where it must be left alone.

    That is where there is none, where the program's own settings disagree with it, and where the program has forbidden
    changes with `torch.backends.disable_global_flags`, which does not apply to the newer settings.
    """
    try:
        return flag is not None and not _BACKENDS.flags_frozen() and bool(flag.allow_tf32)
    except RuntimeError:
        return False


def _own_value(setting: Any, parent: Any) -> str:
    """Return the value to restore: the setting's own, or `"none"` where the setting equals its parent."""
    inherited = str(parent.fp32_precision)
    return "none" if setting.fp32_precision == inherited else str(setting.fp32_precision)


_BACKENDS: Final[Any] = torch.backends
_CUDA, _CUDNN, _CPU = _BACKENDS.cuda, _BACKENDS.cudnn, _BACKENDS.mkldnn
_FLOAT32_SETTINGS: Final = {
    "cuda": _Float32Settings([(_CUDA.matmul, _BACKENDS), (_CUDNN.conv, _CUDNN), (_CUDNN.rnn, _CUDNN)], _CUDNN),
    "cpu": _Float32Settings([(_CPU.matmul, _CPU), (_CPU.conv, _CPU), (_CPU.rnn, _CPU)]),
}


@contextmanager
def ieee_float32(device: torch.device) -> Iterator[None]:
    """Compute float32 products on one kind of device in IEEE float32, without TF32 and without bfloat16.

    PyTorch has no such setting for a single call or thread. Where its process-wide settings allow less (by default TF32
    in convolutions and recurrent networks of a GPU; on a CPU only what the application allowed itself, with
    `torch.set_float32_matmul_precision`), they are set to IEEE for the duration of the context and restored by the last
    thread that leaves it. Meanwhile products of other threads on that kind of device are more precise and slower, never
    less precise, and `torch.backends.cudnn.allow_tf32` is False. A thread that changes such a setting meanwhile (as
    `torch.backends.cudnn.flags` does) changes it for this context, too. Settings of other kinds of devices do not
    change.
    """
    settings = _FLOAT32_SETTINGS.get(device.type)
    if settings is None:
        yield
        return
    settings.enter()
    try:
        yield
    finally:
        settings.leave()


@contextmanager
def named_out_of_memory(message: str = OUT_OF_MEMORY_MESSAGE) -> Iterator[None]:
    """Turn every error that reports a lack of memory into an `OutOfMemoryError` with a message.

    Args:
        message: beginning of the error's message.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, SSPSAMError) or not is_out_of_memory(error):
            raise
        reason = first_line(error)
    else:
        return
    # outside of the except clause, whose traceback would keep the memory that has to be freed
    release_memory()
    raise OutOfMemoryError(OptionMessage(message, f": {reason}"))


def naming_out_of_memory(message: str) -> Callable[[Callable[_Parameters, _Result]], Callable[_Parameters, _Result]]:
    """Decorate a function with `named_out_of_memory`, whose own decorator would hide the caller from warnings."""

    def decorated(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
        @functools.wraps(function)
        def named(*arguments: _Parameters.args, **keywords: _Parameters.kwargs) -> _Result:
            with named_out_of_memory(message):
                return function(*arguments, **keywords)

        return named

    return decorated


def not_finite(subject: str) -> NumericalError:
    """Return the error for values that are not finite, which a threshold would turn into an empty mask.

    Args:
        subject: names the values in the message.
    """
    return NumericalError(
        OptionMessage(
            f"{subject}: some values are infinite or NaN. The weights are damaged, or the precision is too low. "
            "Load the model with verify=True and ",
            setting("dtype", "float32"),
            ".",
        )
    )
