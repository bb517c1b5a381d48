"""SAM's image encoder in bands of rows, against segment_anything's, which computes all rows together."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT as StockEncoder
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from sspsam.config import SAMConfig
from sspsam.models import column_attention, image_encoder, kernels
from sspsam.models.image_encoder import ImageEncoderViT


def encoder(grid: int, window: int, width: int = 32, heads: int = 4) -> ImageEncoderViT:
    """One block with windows, one without, all weights random."""
    torch.manual_seed(grid + window)
    config = SAMConfig(
        image_size=4 * grid,
        patch_size=4,
        width=width,
        layers=2,
        heads=heads,
        mlp_width=4 * width,
        window_size=window,
        global_blocks=(1,),
        prompt_width=8,
        decoder_heads=1,
    )
    encoder = ImageEncoderViT(config)
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.2)
    return encoder


def stock_encoder(ours: ImageEncoderViT, window: int) -> StockEncoder:
    """The stock encoder of the same size, with the same weights by the same names."""
    _, grid, _, width = ours.pos_embed.shape
    stock = StockEncoder(
        img_size=4 * grid,
        patch_size=4,
        embed_dim=width,
        depth=2,
        num_heads=ours.blocks[0].attn.num_heads,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        out_chans=8,
        use_rel_pos=True,
        window_size=window,
        global_attn_indexes=(1,),
    )
    stock.load_state_dict(ours.state_dict(), strict=True)
    return stock


@pytest.mark.parametrize(
    ("grid", "window"),
    [(8, 3), (8, 8), (8, 11), (14, 7), (15, 14), (31, 14), (30, 4)],
)
@pytest.mark.parametrize("count", [1, 3])
def test_bands_give_the_embedding_of_the_stock_encoder(grid: int, window: int, count: int) -> None:
    """Windows that fit the grid, that do not, and that are larger than it; global rows that end inside a band."""
    ours = encoder(grid, window)
    stock = stock_encoder(ours, window)
    pixels = torch.randn(count, 3, 4 * grid, 4 * grid)
    with torch.no_grad():
        expected, embedding = stock(pixels), ours(pixels)
    assert expected.std() > 0.1
    assert torch.allclose(embedding, expected, atol=2e-5)


@pytest.fixture
def fused_attention(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, torch.dtype]]:
    """A CPU whose fused attention takes every width, as that of a GPU does; the list of the widths in question."""
    widths: list[tuple[int, torch.dtype]] = []
    accepts = lambda width, dtype, device: widths.append((width, dtype)) is None  # noqa: E731
    monkeypatch.setattr(image_encoder, "fused_attention_accepts", accepts)
    return widths


@pytest.mark.parametrize(
    ("grid", "window"),
    [(8, 3), (8, 8), (8, 11), (14, 7), (15, 14), (31, 14), (30, 4)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_relative_positions_as_columns_give_the_embedding_of_the_stock_encoder(
    grid: int, window: int, dtype: torch.dtype, fused_attention: list[tuple[int, torch.dtype]]
) -> None:
    ours = encoder(grid, window).to(dtype)
    stock = stock_encoder(ours.float(), window).to(dtype)
    ours, pixels = ours.to(dtype), torch.randn(2, 3, 4 * grid, 4 * grid, dtype=dtype)
    with torch.no_grad():
        expected, embedding = stock(pixels), ours(pixels)
    assert fused_attention
    assert all(width % 8 == 0 and width_dtype is dtype for width, width_dtype in fused_attention)
    assert torch.allclose(embedding, expected.to(embedding.dtype), atol=2e-5)


@pytest.mark.parametrize("widest", [True, False])
def test_columns_and_a_bias_may_take_turns(monkeypatch: pytest.MonkeyPatch, widest: bool) -> None:
    """A device may have a fused kernel for the narrower heads of blocks with windows only."""
    ours, pixels, widths = encoder(15, 6), torch.randn(1, 3, 60, 60), set[int]()
    ours.blocks.extend([ours.blocks[1], ours.blocks[0], ours.blocks[1]])
    with torch.no_grad():
        expected = ours(pixels)
        monkeypatch.setattr(image_encoder, "fused_attention_accepts", lambda width, *_: widths.add(width) is not None)
        ours(pixels)
        chosen = max(widths) if widest else min(widths)
        monkeypatch.setattr(image_encoder, "fused_attention_accepts", lambda width, *_: width == chosen)
        assert torch.allclose(ours(pixels), expected, atol=2e-5)
    assert len(widths) == 2


def test_folded_relative_positions_give_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, fused_attention: list[object]
) -> None:
    ours, pixels = encoder(15, 6), torch.randn(1, 3, 60, 60)
    with torch.no_grad():
        expected = ours(pixels)
        for block in ours.blocks:
            block.attn.fold()
        monkeypatch.setattr(column_attention, "table_of_distances", None)  # is not called any more
        assert torch.equal(ours(pixels), expected)
    assert fused_attention


def test_columns_are_for_inference_only_since_blocks_share_their_memory(
    fused_attention: list[tuple[int, torch.dtype]],
) -> None:
    ours = encoder(15, 6)
    ours(torch.randn(1, 3, 60, 60)).sum().backward()
    assert not fused_attention


def test_the_kernels_of_the_device_itself_count_and_not_those_of_the_current_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if torch.cuda.is_available():
        pytest.skip("a CUDA GPU cannot be simulated where there is one")
    current = [0]

    @contextmanager
    def device_of(tensor: torch.Tensor) -> Iterator[None]:
        before, current[0] = current[0], tensor.device.index
        yield
        current[0] = before

    def only_on_the_second(_: object) -> bool:
        return current[0] == 1

    devices = [torch.device("cuda", index) for index in (0, 1)]
    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    monkeypatch.setattr(kernels.torch, "empty", lambda *_, dtype, device: SimpleNamespace(device=device))
    monkeypatch.setattr(torch.backends.cuda, "SDPAParams", lambda *arguments: arguments)
    monkeypatch.setattr(torch.backends.cuda, "can_use_flash_attention", only_on_the_second)
    monkeypatch.setattr(torch.backends.cuda, "can_use_efficient_attention", only_on_the_second)
    kernels.fused_attention_accepts.cache_clear()
    try:
        assert [kernels.fused_attention_accepts(208, torch.float16, device) for device in devices] == [False, True]
    finally:
        kernels.fused_attention_accepts.cache_clear()


def test_a_device_other_than_cuda_has_no_fused_attention_for_columns() -> None:
    assert not kernels.fused_attention_accepts(208, torch.float32, torch.device("cpu"))
    assert not kernels.fused_attention_accepts(208, torch.float16, torch.device("mps"))


def test_bands_have_the_gradients_of_the_stock_encoder() -> None:
    ours = encoder(15, 6)
    stock = stock_encoder(ours, 6)
    pixels = torch.randn(2, 3, 60, 60)
    for network in (stock, ours):
        network(pixels).square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    for name, parameter in stock.named_parameters():
        expected = parameter.grad
        assert torch.allclose(gradients[name], expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())), name


def test_mixed_precision_is_as_close_to_float32_as_the_stock_encoder() -> None:
    ours = encoder(31, 14)
    stock = stock_encoder(ours, 14)
    pixels = torch.randn(1, 3, 124, 124)
    with torch.no_grad():
        exact = stock(pixels)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            expected, embedding = stock(pixels), ours(pixels)
    assert embedding.dtype is torch.float32
    assert 0 < (embedding - exact).norm() <= 1.2 * (expected.float() - exact).norm()


def test_all_rows_together_as_on_a_gpu_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, pixels = encoder(31, 14), torch.randn(2, 3, 124, 124)
    with torch.no_grad():
        in_bands = ours(pixels)
        monkeypatch.setattr(image_encoder, "_rows_at_once", lambda x, window: x.shape[1])
        monkeypatch.setattr(image_encoder, "_heads_at_once", lambda q, k: len(q))
        assert torch.allclose(ours(pixels), in_bands, atol=2e-5)


def test_the_padding_below_the_last_row_of_windows_is_no_query(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, query_rows = encoder(20, 7), []
    attend = image_encoder.Attention.attend

    def recording_attend(self: image_encoder.Attention, queries: torch.Tensor, *others: object) -> torch.Tensor:
        query_rows.append(queries.shape[1])
        return attend(self, queries, *others)

    monkeypatch.setattr(image_encoder.Attention, "attend", recording_attend)
    with torch.no_grad():
        ours(torch.randn(1, 3, 80, 80))
    assert query_rows == [7, 7, 6, 7, 7, 6]  # in windows, then globally


# of four heads; a band has 120 to 147 queries of each
@pytest.mark.parametrize(("threads", "heads"), [(1, {1}), (2, {1, 2}), (1000, {4})])
def test_more_threads_compute_more_heads_at_once_and_give_the_same(
    monkeypatch: pytest.MonkeyPatch, threads: int, heads: set[int]
) -> None:
    ours, pixels = encoder(20, 7), torch.randn(1, 3, 80, 80)
    group_sizes = set()
    original = image_encoder._heads_at_once

    def recording_heads_at_once(q: torch.Tensor, k: torch.Tensor) -> int:
        group_sizes.add(original(q, k))
        return original(q, k)

    with torch.no_grad():
        expected = ours(pixels)
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        monkeypatch.setattr(image_encoder, "_heads_at_once", recording_heads_at_once)
        assert torch.equal(ours(pixels), expected)
    assert group_sizes == heads


@pytest.mark.parametrize("threads", [2, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_tensor_of_a_band_takes_32_mb_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, threads: int, dtype: torch.dtype
) -> None:
    """At the size of SAM's ViT-H; the stock encoder makes a matrix of all scores, 1 GB for these sixteen heads."""
    largest = 0

    class LargestTensor(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            nonlocal largest
            outputs = function(*arguments, **(keywords or {}))
            for output in outputs if isinstance(outputs, tuple | list) else [outputs]:
                if isinstance(output, torch.Tensor) and output.dim() > 2:  # the others are weights
                    largest = max(largest, output.numel() * output.element_size())
            return outputs

    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    kernels.onednn_product()  # it multiplies real numbers once, which fake tensors cannot
    with FakeTensorMode(allow_non_fake_inputs=True):
        ours = encoder(64, 14, width=1280, heads=16)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16), LargestTensor():
            embedding = ours(torch.randn(1, 3, 256, 256))
    assert embedding.shape == (1, 8, 64, 64)
    assert 64 * 64 * 1280 * 4 <= largest < 32e6
