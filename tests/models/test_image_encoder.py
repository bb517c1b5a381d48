"""SAM's image encoder in parts: what the stock modules compute whole."""

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from sspsam.models import image_encoder, layers


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


def test_mixed_precision_stays_as_near_as_the_stock_encoders() -> None:
    stock = encoder(31, 14)
    pixels = torch.randn(1, 3, 124, 124)
    with torch.no_grad():
        exact = stock(pixels)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            theirs, ours = stock(pixels), image_encoder.encode_image(stock, pixels)
    assert ours.dtype is torch.float32
    assert 0 < (ours - exact).norm() <= 1.2 * (theirs.float() - exact).norm()


def test_all_at_once_as_on_a_gpu_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    stock, pixels = encoder(31, 14), torch.randn(2, 3, 124, 124)
    with torch.no_grad():
        in_parts = image_encoder.encode_image(stock, pixels)
        monkeypatch.setattr(image_encoder, "_rows_at_once", lambda x, window: x.shape[1])
        monkeypatch.setattr(image_encoder, "_heads_at_once", lambda q, k: len(q))
        assert torch.allclose(image_encoder.encode_image(stock, pixels), in_parts, atol=2e-5)


def test_the_padding_below_the_last_row_of_windows_does_not_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    stock, asked = encoder(20, 7), []
    attend = image_encoder._attend
    monkeypatch.setattr(
        image_encoder, "_attend", lambda a, q, *others: asked.append(q.shape[1]) or attend(a, q, *others)
    )
    with torch.no_grad():
        image_encoder.encode_image(stock, torch.randn(1, 3, 80, 80))
    assert asked == [7, 7, 6, 7, 7, 6]  # in windows, then globally


# of four; a part has 120 to 147 queries of each
@pytest.mark.parametrize(("threads", "heads"), [(1, {1}), (2, {1, 2}), (1000, {4})])
def test_more_threads_take_more_heads_at_once_and_give_the_same(
    monkeypatch: pytest.MonkeyPatch, threads: int, heads: set[int]
) -> None:
    stock, pixels = encoder(20, 7), torch.randn(1, 3, 80, 80)
    taken = set()
    original = image_encoder._heads_at_once
    with torch.no_grad():
        one = image_encoder.encode_image(stock, pixels)
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        monkeypatch.setattr(image_encoder, "_heads_at_once", lambda q, k: taken.add(original(q, k)) or original(q, k))
        assert torch.equal(image_encoder.encode_image(stock, pixels), one)
    assert taken == heads


@pytest.mark.parametrize("threads", [2, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cpu_needs_nothing_of_32_mb_on_the_way(
    monkeypatch: pytest.MonkeyPatch, threads: int, dtype: torch.dtype
) -> None:
    """At the size of SAM's ViT-H; the stock encoder makes a matrix of all scores, 1 GB for these sixteen heads."""
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            nonlocal largest
            made = function(*arguments, **(keywords or {}))
            for each in made if isinstance(made, tuple | list) else [made]:
                if isinstance(each, torch.Tensor) and each.dim() > 2:  # the others are weights
                    largest = max(largest, each.numel() * each.element_size())
            return made

    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    layers._onednn()  # which tries real numbers
    with FakeTensorMode(allow_non_fake_inputs=True):
        stock = encoder(64, 14, width=1280, heads=16)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16), Watch():
            embedding = image_encoder.encode_image(stock, torch.randn(1, 3, 256, 256))
    assert embedding.shape == (1, 8, 64, 64)
    assert 64 * 64 * 1280 * 4 <= largest < 32e6
