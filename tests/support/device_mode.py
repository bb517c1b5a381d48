"""A simulated device: tensors that say they are on an accelerator, with their values on the CPU.

Inside `simulated_device` a whole `predict` runs without the hardware, and computes the CPU's numbers. All that code
decides by `device.type` is decided as on the accelerator. As there, an operator refuses a mixture of devices and
refuses float64; and every operator, every copy to the host and every wait for the device is recorded.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final
from unittest import mock

import torch
import torchgen
import yaml
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

# a device without a backend, of an index that is never used, carries requests for the simulated device through PyTorch
_MARKER: Final = torch.device("meta", 77)
# functions for which PyTorch starts the device's backend before they become operators, with the names to record
_BEFORE_OPERATORS: Final[Mapping[Any, str]] = {
    Tensor.__getitem__: "aten.slice.Tensor",
    Tensor.__setitem__: "aten.copy_.default",
    Tensor.contiguous: "aten.contiguous.default",
    Tensor.copy_: "aten.copy_.default",
    Tensor.tolist: "aten._local_scalar_dense.default",
    F.scaled_dot_product_attention: "aten.scaled_dot_product_attention.default",
    Tensor.nonzero: "aten.nonzero.default",
    torch.nonzero: "aten.nonzero.default",
    **dict.fromkeys((Tensor.__int__, Tensor.__float__, Tensor.__index__), "aten._local_scalar_dense.default"),
}
# on a CUDA GPU these reach cuDNN before they become operators; other devices compute them by smaller operators
_CUDA_FUNCTIONS: Final[Mapping[Any, str]] = {**_BEFORE_OPERATORS, torch.gru: "aten._cudnn_rnn.default"}
_WAITS: Final = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")


@dataclass
class Record:
    """Operators, waits and copies of the simulated device.

    Args:
        operators: number of calls of every operator, by name.
        copies_to_host: bytes of each copy to the host, in order.
        copies_to_device: bytes of each copy from the host, in order.
    """

    operators: Counter[str] = field(default_factory=Counter)
    copies_to_host: list[int] = field(default_factory=list)
    copies_to_device: list[int] = field(default_factory=list)

    def clear(self) -> None:
        """Forget what happened before."""
        self.operators.clear()
        self.copies_to_host.clear()
        self.copies_to_device.clear()

    def waits(self) -> dict[str, int]:
        """Return the calls of operators whose result the host needs before it can continue, but for copies."""
        return {
            name: count
            for name, count in self.operators.items()
            if count and name.removeprefix("aten.").partition(".")[0].startswith(_WAITS)
        }


class DeviceTensor(Tensor):
    """A tensor on the simulated device.

    Args:
        host: the values.
        device: that the tensor claims to be on.
    """

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor, device: torch.device) -> "DeviceTensor":
        tensor: DeviceTensor = Tensor._make_wrapper_subclass(
            cls,
            host.shape,
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=device,
        )
        tensor.host = host
        return tensor

    def __repr__(self) -> str:
        return f"DeviceTensor({tuple(self.shape)}, {self.dtype}, {self.device})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} of a tensor on the simulated device, outside of `simulated_device`")


def _host(value: Any) -> Any:
    return value.host if isinstance(value, DeviceTensor) else value


class _Functions(TorchFunctionMode):
    """Mark requests for the device, and run functions on the CPU that choose their kernel by the type of device."""

    def __init__(self, device: torch.device, record: Record) -> None:
        super().__init__()
        self._device, self._record = device, record

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(self._marked, (list(args), dict(kwargs or {})))
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == _MARKER:
            del kwargs["device"]
            return func(*args, **kwargs).to(_MARKER)
        if func is Tensor.new_tensor and isinstance(args[0], DeviceTensor):
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype, **kwargs}).to(_MARKER)
        if func is Tensor.to and isinstance(args[1] if args[1:] else None, DeviceTensor):
            args[1:2] = [_MARKER, args[1].dtype]
        known = _CUDA_FUNCTIONS if self._device.type == "cuda" else _BEFORE_OPERATORS
        if func not in known or not isinstance(args[0], DeviceTensor):
            return func(*args, **kwargs)
        self._note(func, args)
        result = func(*tree_map(_host, args), **tree_map(_host, kwargs))
        if result is args[0].host:
            return args[0]
        return tree_map(lambda value: DeviceTensor(value, self._device) if isinstance(value, Tensor) else value, result)

    def _note(self, func: Any, args: Sequence[Any]) -> None:
        """Record a function of a tensor on the device, and which of its other operands come from the host."""
        self._record.operators[_CUDA_FUNCTIONS[func]] += 1
        operands = [value for value in tree_leaves(list(args[1:])) if isinstance(value, Tensor)]
        for operand in operands:
            if not isinstance(operand, DeviceTensor):
                self._record.copies_to_device.append(operand.nbytes)
            if operand.dtype is torch.bool and func in (Tensor.__getitem__, Tensor.__setitem__):
                self._record.operators["aten.nonzero.default"] += 1  # the host waits for the number of elements

    def _marked(self, value: Any) -> Any:
        kind = value.partition(":")[0] if isinstance(value, str) else getattr(value, "type", None)
        is_device = isinstance(value, str | torch.device) and kind == self._device.type
        return _MARKER if is_device else value


class _Operators(TorchDispatchMode):
    """Compute every operator on the CPU, and check and record it if it has operands on the device."""

    def __init__(self, device: torch.device, record: Record, refused: Callable[[str], bool]) -> None:
        super().__init__()
        self._device, self._record, self._refused = device, record, refused

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        on_device = [tensor for tensor in tensors if isinstance(tensor, DeviceTensor)]
        target = kwargs.get("device")
        to_device = bool(on_device) if target is None else target == _MARKER or target.type == self._device.type
        if target is not None and to_device:
            kwargs["device"] = torch.device("cpu")
        if on_device:
            self._check(func, tensors, to_device)
        elif to_device:
            self._record.copies_to_device.extend(tensor.nbytes for tensor in tensors)
        result = func(*tree_map(_host, args), **tree_map(_host, kwargs))
        if on_device and torch.Tag.inplace_view in func.tags:
            with no_dispatch():
                func(*args, **kwargs)  # transposes the operand itself, whose values are transposed by now
        if not to_device:
            return result
        return tree_map(lambda value: self._placed(func, value, tensors), result)

    def _check(self, func: Any, tensors: Sequence[Tensor], stays_on_device: bool) -> None:
        name = str(func)
        self._record.operators[name] += 1
        if self._refused(name):
            raise NotImplementedError(f"The operator '{name}' is not implemented on the simulated device")
        is_copy = name.startswith(("aten.copy_", "aten._to_copy"))
        if not is_copy and any(tensor.ndim and not isinstance(tensor, DeviceTensor) for tensor in tensors):
            raise RuntimeError(f"{name}: expected all tensors to be on the same device")
        if not stays_on_device or (is_copy and not isinstance(tensors[0], DeviceTensor)):
            self._record.copies_to_host.append(tensors[-1].nbytes)

    def _placed(self, func: Any, value: Any, inputs: Sequence[Tensor]) -> Any:
        """Return a result as a tensor on the device; the result of an operator in place is its operand."""
        if not isinstance(value, Tensor):
            return value
        if value.dtype is torch.float64:
            raise TypeError(f"{func}: the simulated device does not support float64")
        operands = [tensor for tensor in inputs if _host(tensor) is value]
        return operands[0] if operands else DeviceTensor(value, self._device)


@contextmanager
def simulated_device(kind: str = "mps", refused: Callable[[str], bool] = lambda name: False) -> Iterator[Record]:
    """Simulate an accelerator inside the context; move models there with `predictor.to(kind)`.

    Args:
        kind: "mps" or "cuda"; on this computer PyTorch must not find such a device.
        refused: whether the device lacks an operator, by its name such as `"aten.mm.default"`.

    Yields:
        What happens on the device.
    """
    device, record = torch.device(kind), Record()
    if kind == "cuda":
        torch._C._ensureCUDADeviceGuardSet()  # as PyTorch's own fake tensors: CUDA's functions in Python need no driver
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # a parameter cannot change its class

    def run(thread: threading.Thread) -> None:  # PyTorch's modes hold for one thread
        with _Functions(device, record), _Operators(device, record, refused):
            run_thread(thread)

    run_thread = threading.Thread.run
    try:
        with (
            mock.patch.object(threading.Thread, "run", run),
            _Functions(device, record),
            _Operators(device, record, refused),
        ):
            yield record
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)


@cache
def operators_without_mps() -> frozenset[str]:
    """Return the operators that have no kernel for MPS, from the table that PyTorch generates its dispatcher from."""
    table = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native" / "native_functions.yaml"
    entries = yaml.load(table.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    by_name = {entry["func"].partition("(")[0]: entry for entry in entries}

    def has_kernel(entry: dict[str, Any]) -> bool:
        delegate = entry.get("structured_delegate")
        if delegate:
            return has_kernel(by_name[delegate])
        keys = ",".join(entry.get("dispatch") or {"CompositeImplicitAutograd": ""})
        return "MPS" in keys or "Composite" in keys

    return frozenset(
        f"aten.{name if '.' in name else name + '.default'}" for name, entry in by_name.items() if not has_kernel(entry)
    )
