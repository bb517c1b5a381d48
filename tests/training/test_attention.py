"""Plain attention, compared with PyTorch's fused kernel."""

import pytest
import torch
from torch.nn import functional as F

from training import attention


@pytest.mark.parametrize("mask", ["none", "bool", "float", "broadcast", "causal"])
def test_plain_attention_and_its_gradients_equal_the_fused_ones(mask: str) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, tokens, 4, dtype=torch.float64, requires_grad=True) for tokens in (5, 6, 6)]
    options: dict[str, object] = {}
    if mask == "bool":
        options["attn_mask"] = torch.arange(6).view(1, 1, 1, 6) < 4
    elif mask in ("float", "broadcast"):
        shape = (2, 3, 5, 6) if mask == "float" else (3, 1, 6)
        options["attn_mask"] = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        inputs.append(options["attn_mask"])
    elif mask == "causal":
        inputs[0] = torch.randn(2, 3, 6, 4, dtype=torch.float64, requires_grad=True)
        options["is_causal"] = True
    fused = F.scaled_dot_product_attention(*inputs[:3], **options)
    with attention.PlainAttention():
        plain = F.scaled_dot_product_attention(*inputs[:3], **options)
    assert "_Attention" in plain.grad_fn.name()
    assert "_Attention" not in fused.grad_fn.name()
    assert torch.allclose(plain, fused)
    direction = torch.randn_like(fused)
    gradients = (torch.autograd.grad(output, inputs, direction) for output in (plain, fused))
    for plain_gradient, fused_gradient in zip(*gradients, strict=True):
        assert torch.allclose(plain_gradient, fused_gradient)


def test_plain_attention_computes_in_the_dtype_of_autocast_with_gradients_in_the_dtype_of_its_inputs() -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 40, 16, requires_grad=True) for _ in range(3)]
    fused = F.scaled_dot_product_attention(*inputs)
    with torch.autocast("cpu", torch.bfloat16), attention.PlainAttention():
        plain = F.scaled_dot_product_attention(*inputs)
    assert plain.dtype is torch.bfloat16
    assert torch.allclose(plain.float(), fused, atol=0.03)
    gradients = (torch.autograd.grad(output.float().sum(), inputs) for output in (plain, fused))
    for plain_gradient, fused_gradient in zip(*gradients, strict=True):
        assert plain_gradient.dtype is torch.float32
        assert torch.allclose(plain_gradient, fused_gradient, atol=0.03)
