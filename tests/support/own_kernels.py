"""Stand-ins for the kernels of a GPU: PyTorch computes their results, in the dtypes of the kernels."""

import types
from collections import Counter
from collections.abc import Callable, Iterator
from math import nan
from typing import Any, Final

import pytest
from torch import Tensor, device, float32, sigmoid
from torch.nn import functional as F

from sspsam.models import Prediction, patch_weights
from sspsam.models.column_attention import from_windows, to_windows
from sspsam.segmentation import summary

CPU: Final = device("cpu")


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


class NormKernels(_Kernels):
    """In the place of `sspsam.models.norm_kernels`."""

    def normalize(self, norm, x, dtype, *, gelu=False):
        value = F.layer_norm(x.float(), x.shape[-1:], norm.weight, norm.bias, norm.eps)
        name, value = ("gelu", F.gelu(value)) if gelu else ("norm", value)
        return self._spoil(name, value.to(dtype))

    def normalize_into_windows(self, norm, x, update, window, dtype):
        if update is None:
            return x, self._spoil("windows", to_windows(norm(x), window).to(dtype))
        total = self._spoil("total before windows", x + update)
        return total, self._spoil("windows of the total", to_windows(norm(x + update), window).to(dtype))

    def add_and_normalize(self, norm, x, update, dtype, window=0):
        total = x + (from_windows(update, window, x.shape[1]) if window else update.view(x.shape))
        return self._spoil("total", total), self._spoil("norm of the total", norm(total).to(dtype))

    def normalize_sum(self, norm, x, update, dtype, position=None):
        wide, of = (norm(update.float()), " of the update") if x is None else (norm(x + update), "")
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
        table = summary.summarize_with_pytorch(prediction, pixels)
        for column in range(table.shape[1]):
            table[:, column] = self._spoil(str(column), table[:, column])
        return table


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
