"""Where and how precisely the model computes."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch

from sspsam.errors import DeviceError

DTYPES: Final[Mapping[str, torch.dtype]] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def checked_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, of several the one by its number; None: a GPU if PyTorch sees one, else the CPU.

    Raises:
        DeviceError: this computer has no such device.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not isinstance(device, str | torch.device):
        raise TypeError(f"a device is a string or a torch.device, not {type(device).__name__}")
    try:
        # "cuda" is another one in every thread that chooses another; the tensor's own device has its number
        chosen = torch.empty(0, device=torch.device(device)).device
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DeviceError(f"device {str(device)!r} cannot be used here: {reason}. Use device='cpu'.") from error
    if chosen.type == "meta":
        raise DeviceError("device 'meta' holds no numbers; use 'cpu' or 'cuda'")
    return chosen


def checked_dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    """One of `DTYPES`, by name or itself; None: float32."""
    chosen = torch.float32 if dtype is None else DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen is None or chosen not in DTYPES.values():
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
    return chosen


def default_dtype(device: torch.device) -> torch.dtype:
    """Mixed float16 on a GPU, which is built for it; float32 elsewhere."""
    return torch.float16 if device.type == "cuda" else torch.float32


def dtype_name(dtype: str | torch.dtype | None) -> str:
    """The name in `DTYPES` of one of them."""
    chosen = checked_dtype(dtype)
    return next(name for name, each in DTYPES.items() if each is chosen)


@contextmanager
def inference_context(device: torch.device, dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Compute without gradients on `device`, in mixed precision unless `dtype` is float32.

    An application's own autocast must not reach in here, nor its default device: stock SAM makes tensors on that.
    """
    mixed = dtype is not torch.float32
    autocast = torch.autocast(device.type, dtype=dtype if mixed else torch.bfloat16, enabled=mixed)
    with torch.no_grad(), device, autocast, ieee_float32(device):
        yield


class _IEEE:
    """PyTorch's settings of float32 products on one kind of device, which hold for the whole process.

    The first of several threads that need it changes them, the last puts them back.

    Args:
        places: each setting with the one that it follows.
    """

    def __init__(self, places: list[tuple[Any, Any]]) -> None:
        self._places = places
        self._lock = threading.Lock()
        self._inside = 0
        self._before: list[str] = []

    def enter(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = [_own(place, parent) for place, parent in self._places]
                for place, _ in self._places:
                    place.fp32_precision = "ieee"
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                for (place, _), precision in zip(self._places, self._before, strict=True):
                    place.fp32_precision = precision


def _own(place: Any, parent: Any) -> str:
    """What to put back: what a setting says, or that it follows the other, where it says the same."""
    followed = str(parent.fp32_precision)
    return "none" if place.fp32_precision == followed else str(place.fp32_precision)


_EVERY: Final[Any] = torch.backends
_CUDA, _CUDNN, _CPU = _EVERY.cuda, _EVERY.cudnn, _EVERY.mkldnn
_IEEE_FLOAT32: Final = {
    "cuda": _IEEE([(_CUDA.matmul, _EVERY), (_CUDNN.conv, _CUDNN), (_CUDNN.rnn, _CUDNN)]),
    "cpu": _IEEE([(_CPU.matmul, _CPU), (_CPU.conv, _CPU), (_CPU.rnn, _CPU)]),
}


@contextmanager
def ieee_float32(device: torch.device) -> Iterator[None]:
    """Float32 products in float32 on one kind of device; the settings of others stay as they are.

    Not in TF32, which PyTorch allows a GPU for convolutions and recurrent networks, nor in what an application allows.
    """
    settings = _IEEE_FLOAT32.get(device.type)
    if settings is None:
        yield
        return
    settings.enter()
    try:
        yield
    finally:
        settings.leave()
