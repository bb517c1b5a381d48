"""Stand-ins for the kernels of a GPU: PyTorch computes their results, in the dtypes of the kernels."""

import types
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import nan
from typing import Any, Final, TypeVar
from unittest import mock

import pytest
from torch import Tensor, device, float16, float32, is_autocast_enabled, is_grad_enabled, sigmoid
from torch.compiler import is_compiling
from torch.nn import functional as F

from sspsam import models
from sspsam.models import Prediction, norms, patch_weights, trials
from sspsam.models.column_attention import from_windows, to_windows
from sspsam.segmentation import summary

CPU: Final = device("cpu")
Kernels = TypeVar("Kernels")


class _Kernels:
    """The results of kernels, computed by PyTorch, of which one may be spoilt; the calls are counted by name.

    Args:
        wrong: name of the result.
        spoilt: returns what takes the place of its value.
    """

    def __init__(self, wrong: str = "none", spoilt: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        self._wrong, self._spoilt = wrong, spoilt
        self.results: Counter[str] = Counter()

    def _spoil(self, name: str, value: Tensor) -> Tensor:
        self.results[name] += 1
        return self._spoilt(value) if name == self._wrong else value


def _layer_norm(norm: Any, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)


class NormKernels(_Kernels):
    """In the place of `sspsam.models.norm_kernels`."""

    def normalize(self, norm, x, dtype, *, gelu=False):
        value = _layer_norm(norm, x.float())
        name, value = ("gelu", F.gelu(value)) if gelu else ("norm", value)
        return self._spoil(name, value.to(dtype))

    def normalize_into_windows(self, norm, x, update, window, dtype):
        if update is None:
            return x, self._spoil("windows", to_windows(_layer_norm(norm, x), window).to(dtype))
        total = (x + update).contiguous()
        windows = to_windows(_layer_norm(norm, total), window).to(dtype)
        return self._spoil("total before windows", total), self._spoil("windows of the total", windows)

    def add_and_normalize(self, norm, x, update, dtype, window=0):
        update = from_windows(update, window, x.shape[1]) if window else update.view(x.shape)
        total = (x + update).contiguous()
        return self._spoil("total", total), self._spoil("norm of the total", _layer_norm(norm, total).to(dtype))

    def normalize_sum(self, norm, x, update, dtype, position=None):
        wide, of = _layer_norm(norm, update.float() if x is None else x + update), " of the update" if x is None else ""
        positioned = None if position is None else self._spoil(f"positioned{of}", (wide + position).to(dtype))
        return self._spoil(f"wide{of}", wide), self._spoil(f"narrow{of}", wide.to(dtype)), positioned

    def quick_gelu(self, x):
        return self._spoil("quick gelu", (x.float() * sigmoid(1.702 * x.float())).to(x.dtype))


class PatchKernels(_Kernels):
    """In the place of `sspsam.models.patch_kernels`."""

    def weight_by_sentence(self, *arguments, relu):
        *others, dtype = arguments
        similarity, weighted = patch_weights.weight_by_sentence(*others, float32, relu=relu)
        name = "weighted with relu" if relu else "weighted"
        return self._spoil("similarity", similarity), self._spoil(name, weighted.to(dtype))

    def weight_by_words(self, *arguments):
        *others, dtype = arguments
        verification, gated = patch_weights.weight_by_words(*others, float32)
        return self._spoil("verification", verification), self._spoil("gated", gated.to(dtype))


class SummaryKernels(_Kernels):
    """In the place of `sspsam.segmentation.summary_kernel`; the name of a result is the number of its column."""

    def summarize(self, prediction: Prediction, pixels: Tensor) -> Tensor:
        assert {tensor.dtype for tensor in prediction} == {float32}
        table = summary.summarize_with_pytorch(prediction, pixels)
        for column in range(table.shape[1]):
            table[:, column] = self._spoil(str(column), table[:, column])
        return table


@contextmanager
def norm_kernels_on_the_cpu(kernels: Kernels) -> Iterator[Kernels]:
    """Compute with stand-ins, or in Triton's interpreter, where a GPU would compute with `norm_kernels`."""

    def allowed(_: object) -> bool:
        return not (is_compiling() or is_grad_enabled() or is_autocast_enabled("cpu"))

    with (
        mock.patch.object(models, "norm_kernels", kernels, create=True),
        mock.patch.object(trials, "gpu_kernels_allowed", allowed),
        mock.patch.object(norms, "_TRIED_SIZES", ((8, 4),)),  # the others take seconds
    ):
        norms.norm_kernels_on.cache_clear()
        assert norms.norm_kernels_on(CPU, float16) is kernels
        if isinstance(kernels, NormKernels):
            kernels.results.clear()  # of the trial
        try:
            yield kernels
        finally:
            norms.norm_kernels_on.cache_clear()


def acceptance(monkeypatch: pytest.MonkeyPatch, module: types.ModuleType, choose: Any) -> Iterator[Callable[..., bool]]:
    """Yield a function that says whether kernels are used after their trial, which runs on the CPU here.

    Args:
        monkeypatch: of the test.
        module: that loads the kernels.
        choose: its cached function that tries them; called with the CPU and the other arguments of the yielded one.
    """

    def is_accepted(kernels: object, *arguments: object) -> bool:
        monkeypatch.setattr(module, "_load_kernels", lambda: kernels)
        choose.cache_clear()
        return choose(CPU, *arguments) is kernels

    yield is_accepted
    choose.cache_clear()


def with_nan(value: Tensor) -> Tensor:
    """Return a copy whose last value is NaN."""
    value = value.clone()
    value.view(-1)[-1] = nan
    return value
