"""SAM's image encoder in parts: what the stock modules compute whole."""

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sspsam.models import image_encoder


def encoder(grid: int, window: int, width: int = 32, heads: int = 4) -> ImageEncoderViT:
    """One block with windows, one without, all weights random."""
    torch.manual_seed(grid + window)
    stock = ImageEncoderViT(
        img_size=4 * grid,
        patch_size=4,
        embed_dim=width,
        depth=2,
        num_heads=heads,
        out_chans=8,
        use_rel_pos=True,
        window_size=window,
        global_attn_indexes=(1,),
    )
    for parameter in stock.parameters():
        nn.init.normal_(parameter, std=0.2)
    return stock


@pytest.mark.parametrize(
    ("grid", "window"),
    [(8, 3), (8, 8), (8, 11), (14, 7), (15, 14), (31, 14), (30, 4)],
)
@pytest.mark.parametrize("count", [1, 3])
def test_parts_give_what_the_stock_encoder_gives(grid: int, window: int, count: int) -> None:
    """Windows that fit the grid, that do not, and that are larger than it; global rows that end in a part's middle."""
    stock = encoder(grid, window)
    pixels = torch.randn(count, 3, 4 * grid, 4 * grid)
    with torch.no_grad():
        theirs, ours = stock(pixels), image_encoder.encode_image(stock, pixels)
    assert theirs.std() > 0.1
    assert torch.allclose(ours, theirs, atol=2e-5)


def test_parts_have_the_gradients_of_the_stock_encoder() -> None:
    stock = encoder(15, 6)
    pixels = torch.randn(2, 3, 60, 60)
    gradients = []
    for encode in (stock, lambda x: image_encoder.encode_image(stock, x)):
        stock.zero_grad()
        encode(pixels).square().sum().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in stock.named_parameters()})
    theirs, ours = gradients
    for name, gradient in theirs.items():
        assert torch.allclose(ours[name], gradient, rtol=1e-3, atol=1e-3 * float(gradient.abs().max())), name


@pytest.mark.parametrize("threads", [2, 16, 10_000])
def test_more_threads_take_more_heads_at_once_and_give_the_same(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    stock, pixels = encoder(20, 7), torch.randn(1, 3, 80, 80)
    with torch.no_grad():
        one = image_encoder.encode_image(stock, pixels)
        heads = []
        original = image_encoder._heads_at_once
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        monkeypatch.setattr(image_encoder, "_heads_at_once", lambda q: heads.append(original(q)) or heads[-1])
        assert torch.equal(image_encoder.encode_image(stock, pixels), one)
    assert max(heads) == {2: 4, 16: 4, 10_000: 4}[threads]
    assert min(heads) == {2: 2, 16: 4, 10_000: 4}[threads]


def test_a_cpu_needs_nothing_of_32_mb_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """At SAM's grid, with two threads; the stock encoder makes a matrix of all scores, 268 MB for these four heads."""
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            nonlocal largest
            made = function(*arguments, **(keywords or {}))
            if isinstance(made, torch.Tensor):
                largest = max(largest, made.numel() * made.element_size())
            return made

    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    stock = encoder(64, 14, width=128)
    with torch.no_grad(), Watch():
        image_encoder.encode_image(stock, torch.randn(1, 3, 256, 256))
    assert 10e6 < largest < 32e6
