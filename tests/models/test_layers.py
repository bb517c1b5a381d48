"""The layers that several networks share, against PyTorch's own."""

import pytest
import torch
from torch import nn

from sspsam.models import MLP
from sspsam.models.layers import MultiheadAttention


def test_mlp_has_relu_between_its_layers_only() -> None:
    torch.manual_seed(0)
    mlp = MLP(5, 7, 3, 3)
    x = torch.randn(11, 5)
    a, b, c = ((layer.weight, layer.bias) for layer in mlp.layers)
    hidden = torch.clamp(x @ a[0].T + a[1], min=0)
    hidden = torch.clamp(hidden @ b[0].T + b[1], min=0)
    assert torch.allclose(mlp(x), hidden @ c[0].T + c[1], atol=1e-6)
    assert (mlp(x) < 0).any()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_attention_is_that_of_the_stock_module(causal: bool, packed: bool) -> None:
    stock = nn.MultiheadAttention(32, 4, batch_first=True)
    nn.init.normal_(stock.in_proj_bias)
    ours = MultiheadAttention(32, 4, packed=packed).eval()
    ours.load_state_dict(stock.state_dict(), strict=True)
    queries, keys, values = torch.randn(3, 2, 9, 32)
    mask = torch.full((9, 9), float("-inf")).triu(1) if causal else None
    with torch.no_grad():
        expected, _ = stock(queries, queries, queries, attn_mask=mask, need_weights=False)
        assert torch.allclose(ours.self_attend(queries, causal=causal), expected, atol=1e-5)
        expected, _ = stock(queries, keys, values, need_weights=False)
        assert torch.allclose(ours.attend(queries, keys, values), expected, atol=1e-5)
        expected, _ = stock(queries, queries, values, need_weights=False)
        assert torch.allclose(ours.attend(queries, queries, values), expected, atol=1e-5)
