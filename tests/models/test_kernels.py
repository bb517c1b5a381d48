"""Products by oneDNN, packed weights, and what happens without either."""

import copy
import math
import pickle
import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sspsam.models import kernels
from sspsam.models.kernels import PackedWeight, linear
from sspsam.models.layers import MLP, Linear, MLPBlock, MultiheadAttention

needs_packing = pytest.mark.skipif(kernels.onednn_packing() is None, reason="PyTorch has no oneDNN here")


def packing_layer(width: int, out: int) -> Linear:
    return Linear(width, out, packed=True).eval()


def is_packed(layer: Linear | MultiheadAttention) -> bool:
    return layer.packed_weight is not None and layer.packed_weight.packed is not None


@pytest.mark.parametrize("shape", [(1, 7), (3, 77, 40), (2, 5, 5, 16), (0, 7)])
@pytest.mark.parametrize("biased", [True, False])
def test_products_are_those_of_float64(shape, biased) -> None:
    x, weight = torch.randn(*shape), torch.randn(9, shape[-1])
    bias = torch.randn(9) if biased else None
    exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    with torch.no_grad():
        assert torch.allclose(linear(x, weight, bias).double(), exact, atol=1e-5)
        strided = torch.stack([x, x], dim=-1)[..., 1]
        columns = weight.T.contiguous().T
        assert torch.allclose(linear(strided, columns, bias).double(), exact, atol=1e-5)
        without_bias = linear(x.double(), weight.double())
    assert without_bias.dtype is torch.float64


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("gradients", [False, True])
def test_a_product_with_an_activation_is_the_activation_of_the_product(activation, gradients) -> None:
    x, weight, bias = torch.randn(3, 50, 16) * 3, torch.randn(9, 16), torch.randn(9)
    product = F.linear(x.double(), weight.double(), bias.double())
    exact = product.clamp(min=0) if activation == "relu" else product * (1 + torch.erf(product / math.sqrt(2))) / 2
    with torch.set_grad_enabled(gradients):
        assert torch.allclose(linear(x, weight, bias, activation).double(), exact, atol=1e-5)


def test_products_have_derivatives_and_follow_mixed_precision() -> None:
    x, weight = torch.randn(2, 3), torch.randn(4, 3, requires_grad=True)
    linear(x, weight).sum().backward()
    assert torch.allclose(weight.grad, x.sum(0).expand(4, 3))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(x, weight).dtype is torch.bfloat16


@needs_packing
@pytest.mark.parametrize(("width", "out"), [(7, 9), (256, 2048), (3072, 768), (512, 1)])
@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
def test_packed_weights_give_the_products_of_float64(width, out, activation) -> None:
    weight, bias, packed = torch.randn(out, width), torch.randn(out), PackedWeight()
    with torch.no_grad():
        for x in (torch.randn(2, width), torch.randn(3, 77, width), torch.randn(1, 1, 700, width)):
            exact = kernels.ACTIVATIONS[activation](F.linear(x.double(), weight.double(), bias.double()))
            product = linear(x, weight, bias, activation, packed)
            assert torch.allclose(product.double(), exact, atol=1e-5 * width)
    assert packed.packed.is_mkldnn


@needs_packing
def test_products_with_packed_weights_do_not_depend_on_the_product_that_came_first() -> None:
    weight, few, many = torch.randn(768, 3072), torch.randn(2, 3072), torch.randn(700, 3072)
    products = []
    for order in ([few, many], [many, few]):
        packed = PackedWeight()
        with torch.no_grad():
            products.append({len(x): linear(x, weight, packed=packed) for x in order})
    assert torch.equal(products[0][2], products[1][2])
    assert torch.equal(products[0][700], products[1][700])


def test_a_weight_is_packed_only_for_several_rows_in_evaluation_mode_without_gradients() -> None:
    layer = packing_layer(7, 9)
    with torch.no_grad():
        for x in (torch.randn(1, 7), torch.randn(7), torch.randn(0, 7)):
            assert torch.allclose(layer(x), F.linear(x, layer.weight, layer.bias), atol=1e-5)
        layer.train()(torch.randn(5, 7))
        layer.double().eval()(torch.randn(5, 7).double())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            layer.float()(torch.randn(5, 7))
    assert not is_packed(layer)
    layer(torch.randn(5, 7)).sum().backward()
    assert not is_packed(layer)
    assert layer.weight.grad is not None
    with torch.no_grad():
        Linear(7, 9).eval()(torch.randn(5, 7))
        layer(torch.randn(5, 7))
    assert is_packed(layer) == (kernels.onednn_packing() is not None)


def changed_as_often(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The tensor, with the count of changes of the other, so that the count does not tell them apart."""
    while tensor._version < other._version:
        tensor += 0
    return tensor


def double_in_place(layer: Linear) -> None:
    layer.weight.mul_(2)


def replace_the_parameter(layer: Linear) -> None:
    layer.weight = nn.Parameter(changed_as_often(layer.weight * 2, layer.weight))


def load_a_state(layer: Linear) -> None:
    layer.load_state_dict({name: tensor * 2 for name, tensor in layer.state_dict().items()})


def assign_a_state(layer: Linear) -> None:
    state = {name: changed_as_often(tensor * 2, tensor) for name, tensor in layer.state_dict(keep_vars=True).items()}
    layer.load_state_dict(state, assign=True)


def round_to_half(layer: Linear) -> None:
    layer.half().float()


def change_in_float64(layer: Linear) -> None:
    layer.double()
    layer.weight.data *= 2
    layer.float()


def train_a_step(layer: Linear) -> None:
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    with torch.enable_grad():
        layer(torch.randn(5, 7)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize(
    "change",
    [
        double_in_place,
        replace_the_parameter,
        load_a_state,
        assign_a_state,
        round_to_half,
        change_in_float64,
        train_a_step,
    ],
)
def test_a_changed_weight_is_packed_again(change) -> None:
    layer, x = packing_layer(7, 9), torch.randn(5, 7)
    with torch.no_grad():
        before = layer(x)
        change(layer)
        expected = F.linear(x, layer.weight, layer.bias)
        assert torch.allclose(layer(x), expected, atol=1e-5)
        assert not torch.equal(layer(x), before)


@needs_packing
def test_converting_a_layer_frees_its_packed_weight() -> None:
    layer, attention = packing_layer(8, 9), MultiheadAttention(8, 2, packed=True).eval()
    with torch.no_grad():
        layer(torch.randn(5, 8))
        attention.self_attend(torch.randn(1, 5, 8))
    owners = [layer, attention, attention.out_proj]
    assert all(map(is_packed, owners))
    nn.ModuleList([layer, attention]).to(torch.float64)
    assert not any(map(is_packed, owners))


@needs_packing
def test_a_changed_input_projection_of_attention_is_packed_again() -> None:
    attention, x = MultiheadAttention(8, 2, packed=True).eval(), torch.randn(1, 5, 8)
    with torch.no_grad():
        attention.self_attend(x)
        assert attention.packed_weight.packed.is_mkldnn
        attention.in_proj_weight.mul_(2)
        expected, _ = attention(x, x, x, need_weights=False)
        assert torch.allclose(attention.self_attend(x), expected, atol=1e-5)


@needs_packing
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_packed_weights_are_neither_saved_nor_copied(duplicate) -> None:
    layer, x = packing_layer(7, 9), torch.randn(5, 7)
    with torch.no_grad():
        expected = layer(x)
        assert set(layer.state_dict()) == {"weight", "bias"}
        other = duplicate(layer)
        assert is_packed(layer)
        assert not is_packed(other)
        assert torch.equal(other(x), expected)
        assert is_packed(other)


@needs_packing
def test_threads_that_share_a_layer_pack_its_weight_once(monkeypatch) -> None:
    pack, calls, start = kernels.onednn_packing(), [], threading.Barrier(8)

    def counting_pack(weight: torch.Tensor, rows: int) -> torch.Tensor:
        calls.append(rows)
        return pack(weight, rows)

    monkeypatch.setattr(kernels, "onednn_packing", lambda: counting_pack)
    layer, x, products = packing_layer(256, 512), torch.randn(5, 256), []

    def multiply() -> None:
        start.wait()
        with torch.no_grad():
            products.append(layer(x))

    threads = [threading.Thread(target=multiply) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(products) == 8
    assert all(torch.equal(product, products[0]) for product in products)


def test_inference_tensors_are_not_packed_as_pytorch_does_not_count_their_changes() -> None:
    x = torch.randn(5, 7)
    with torch.inference_mode():
        layer = packing_layer(7, 9)
        layer(x)
        layer.weight.mul_(2)
        assert torch.allclose(layer(x), F.linear(x, layer.weight, layer.bias), atol=1e-5)
    assert not is_packed(layer)


def test_an_applications_default_dtype_does_not_disable_onednn() -> None:
    usual = kernels.onednn_product() is None, kernels.onednn_packing() is None
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    kernels.onednn_product.cache_clear()
    kernels.onednn_packing.cache_clear()
    try:
        assert (kernels.onednn_product() is None, kernels.onednn_packing() is None) == usual
    finally:
        torch.set_default_dtype(before)


def test_without_the_packing_operator_products_are_the_same(monkeypatch) -> None:
    x, layer = torch.randn(5, 7), packing_layer(7, 9)
    with torch.no_grad():
        expected = linear(x, layer.weight, layer.bias)
        monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", None, raising=False)
        kernels.onednn_packing.cache_clear()
        try:
            assert torch.equal(layer(x), expected)
            assert kernels.onednn_packing() is None
            assert not is_packed(layer)
        finally:
            monkeypatch.undo()
            kernels.onednn_packing.cache_clear()


def test_attention_by_plain_products_is_that_of_pytorch() -> None:
    q, k, v = (torch.randn(2, 3, tokens, 8, dtype=torch.float64) for tokens in (5, 7, 7))
    expected = F.scaled_dot_product_attention(q, k, v)
    assert torch.allclose(kernels.plain_attention(q, k, v), expected, atol=1e-12)
    assert torch.equal(
        kernels.attention(q.float(), k.float(), v.float(), causal=False),
        F.scaled_dot_product_attention(q.float(), k.float(), v.float()),
    )  # the fused kernel on a CPU


@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
def test_nan_stays_nan(activation: kernels.Activation) -> None:
    """oneDNN's products with a ReLU turn it into 0; an answer that is not finite would go unnoticed."""
    layer, x = Linear(7, 9), torch.randn(3, 7)
    x[1, 2] = torch.nan
    with torch.no_grad():
        assert layer(x, activation)[1].isnan().all()
        assert MLP(7, 9, 4, 3)(x)[1].isnan().all()
        assert MLPBlock(7, 9, "relu")(x)[1].isnan().all()
        layer.weight[4, 0] = torch.nan  # damaged
        assert layer(x, activation)[0].isnan().tolist() == [False] * 4 + [True] + [False] * 4
