"""The weights of patches: PyTorch's operators on the CPU, and the kernels for a GPU in Triton's interpreter."""

import json
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from sspsam.models import patch_weights
from tests.support.own_kernels import PatchKernels, acceptance, with_nan
from tests.support.triton_interpreter import COMPARE, interpreted, needs_triton

INTERPRETED = (
    COMPARE
    + """
from sspsam.models import patch_kernels as kernels, patch_weights

with torch.no_grad():
    for expressions, count, width in ((1, 9, 32), (3, 25, 48), (2, 7, 512)):
        name = f"{expressions} {count} {width}"
        projected, bias = torch.randn(count, width).to(dtype), torch.randn(width).to(dtype)
        products = torch.randn(count, expressions).T  # strided
        for relu in (False, True):
            by_sentence = products, projected, bias
            expected = patch_weights.weight_by_sentence(*by_sentence, torch.float32, relu=relu)
            similarity, weighted = kernels.weight_by_sentence(*by_sentence, dtype, relu=relu)
            compare(f"similarity {name} {relu}", similarity, expected[0], wide=True)
            compare(f"weighted {name} {relu}", weighted, expected[1])
        norm = nn.LayerNorm(width)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        image, patches = (torch.randn(expressions, count, width).to(dtype) * 3 for _ in range(2))
        context = (image + torch.randn(expressions, count, width).to(dtype)).contiguous()
        context[0, 1] = 0  # has no direction
        context = context.transpose(0, 1).contiguous().transpose(0, 1)  # strided
        sentence = torch.randn(width, expressions).T
        for sigma in (0.5, 0.05, -0.3):
            by_words = norm, torch.tensor([1.3]), torch.tensor([sigma]), image, context, patches, sentence
            expected = patch_weights.weight_by_words(*by_words, torch.float32)
            verification, gated = kernels.weight_by_words(*by_words, dtype)
            compare(f"verification {name} {sigma}", verification, expected[0], wide=True)
            compare(f"gated {name} {sigma}", gated, expected[1])
    products[0, 3] = torch.nan
    similarity, weighted = kernels.weight_by_sentence(products, projected, bias, dtype, relu=True)
    assert similarity[0].isnan().any() and similarity[1].isfinite().all()
    assert weighted[0, 3].isnan().all() and weighted[1].isfinite().all()
    patches[1, 2, 3] = torch.nan
    _, gated = kernels.weight_by_words(*by_words, dtype)
    assert gated.isnan().any(dim=-1).nonzero().tolist() == [[1, 2]]
json.dump(differences, sys.stdout)
"""
)

TRIAL = """
import torch
from sspsam.models import patch_kernels, patch_weights
for dtype in (torch.float16, torch.bfloat16):
    torch.set_default_dtype(dtype)  # of an application
    assert patch_weights.patch_kernels_on(torch.device("cpu"), dtype) is patch_kernels, dtype
"""


@needs_triton
def test_the_kernels_give_pytorch_s_results_in_the_interpreter() -> None:
    differences = json.loads(interpreted(INTERPRETED))
    assert len(differences) == 30
    assert {name: value for name, value in differences.items() if not value < 1e-3} == {}


@needs_triton
@pytest.mark.slow
def test_the_kernels_pass_their_own_trial_in_the_interpreter() -> None:
    interpreted(TRIAL)


def test_on_the_cpu_they_follow_the_definition() -> None:
    """docs/method.md, section 3."""
    products, projected, bias = torch.randn(2, 5).double(), torch.randn(5, 8).double(), torch.randn(8).double()
    similarity, weighted = patch_weights.weight_by_sentence(products, projected, bias, torch.float64, relu=True)
    assert torch.equal(similarity.amin(1), torch.zeros(2))
    assert torch.equal(similarity.amax(1), torch.ones(2))
    assert torch.allclose(weighted, (similarity[:, :, None] * projected + bias).relu())
    by_image = projected.expand(2, -1, -1)  # an image for each expression
    _, other = patch_weights.weight_by_sentence(products, by_image, bias, torch.float64, relu=False)
    assert torch.allclose(other.relu(), weighted)
    norm = nn.LayerNorm(8).double()
    image, context, patches = (torch.randn(2, 5, 8).double() for _ in range(3))
    sentence, scale, sigma = torch.randn(2, 8).double(), torch.tensor([1.5]).double(), torch.tensor([0.4]).double()
    verification, gated = patch_weights.weight_by_words(
        norm, scale, sigma, image, context, patches, sentence, torch.float64
    )
    cosine = (image * context).sum(-1) / (image.norm(dim=-1) * context.norm(dim=-1))
    assert torch.allclose(verification, 1.5 * (-((1 - cosine) ** 2) / (2 * 0.4**2)).exp())
    expected = (norm(patches) * verification[..., None]).tanh() * sentence.tanh()[:, None]
    assert torch.allclose(gated, expected)


def test_an_image_for_each_expression_is_weighted_by_pytorch_s_operators(monkeypatch) -> None:
    kernels = PatchKernels()
    monkeypatch.setattr(patch_weights, "_kernels", lambda x, dtype: kernels if dtype is torch.float16 else None)
    products, projected, bias = torch.randn(2, 5), torch.randn(5, 8), torch.randn(8)
    _, expected = patch_weights.weight_by_sentence(products, projected, bias, torch.float16, relu=False)
    assert set(kernels.results) == {"similarity", "weighted"}
    kernels.results.clear()
    by_image = projected.expand(2, -1, -1)
    _, weighted = patch_weights.weight_by_sentence(products, by_image, bias, torch.float16, relu=False)
    assert not kernels.results
    assert torch.allclose(weighted, expected.float(), atol=1e-2)


@pytest.fixture
def accepted(monkeypatch) -> Iterator[Callable[..., bool]]:
    yield from acceptance(monkeypatch, patch_weights, patch_weights.patch_kernels_on)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wrong", ["similarity", "weighted", "weighted with relu", "verification", "gated"])
def test_kernels_of_which_one_result_is_nan_or_wrong_are_refused(accepted, dtype, wrong, caplog) -> None:
    assert accepted(PatchKernels(), dtype)
    with caplog.at_level("INFO"):
        assert not accepted(PatchKernels(wrong, with_nan), dtype)
        assert "its results differ by nan" in caplog.messages[-1]
        assert not accepted(PatchKernels(wrong, lambda value: value.flip(0, 1)), dtype)
        # in one of the two sizes of the trial only
        assert not accepted(PatchKernels(wrong, lambda value: value + 1 if value.shape[1] == 576 else value), dtype)
        assert not accepted(PatchKernels(wrong, lambda value: value + 1 if value.shape[1] != 576 else value), dtype)
    assert len(caplog.messages) == 4
