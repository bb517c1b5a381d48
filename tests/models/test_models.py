"""The networks: shapes, independence of neighbours, and what must never depend on what."""

import math

import pytest
import torch
from segment_anything.modeling.transformer import Attention
from torch import nn
from torch.nn import functional as F

from benchmarks.authors_checkpoint import tiny_architecture
from sspsam.models import MLP, SSPSAM, ImageFeatures, layers, mask_decoder
from sspsam.models.ssp_encoder import LinguisticAttentionAdapter, VisualAttentionAdapter


@pytest.fixture(scope="module")
def model() -> SSPSAM:
    torch.manual_seed(1)
    with torch.no_grad():
        return SSPSAM(tiny_architecture()).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def inputs(model: SSPSAM) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    clip = torch.randn(3, 3, 48, 48, generator=generator)
    sam = torch.randn(3, 3, 128, 128, generator=generator)
    ids = torch.zeros(4, 77, dtype=torch.long)
    for row, length in enumerate([1, 3, 8, 75]):
        ids[row, 0] = 49406
        ids[row, 1 : 1 + length] = torch.randint(1, 40000, (length,), generator=generator)
        ids[row, 1 + length] = 49407
    return clip, sam, ids


def test_shapes_follow_the_configuration(model: SSPSAM, inputs) -> None:
    clip, sam, ids = inputs
    images = model.encode_image(clip, sam)
    assert len(images) == 3
    assert images[0].clip.shape == (36, 40)
    assert images[0].sam.shape == (64, 8, 8)
    answer = model.segment(model.prepare(images[0]), model.encode_text(ids))
    assert answer.low_res.shape == (4, 32, 32)
    assert answer.iou.shape == (4,)
    assert answer.box.shape == (4, 4)
    assert answer.prompts.shape == (4, 7, 64)
    assert answer.similarity.shape == answer.verification.shape == (4, 6, 6)
    assert answer.word_attention.shape == (4, 77)


def test_pictures_of_a_batch_do_not_influence_each_other(model: SSPSAM, inputs) -> None:
    clip, sam, _ = inputs
    together = model.encode_image(clip, sam)
    for row, features in enumerate(together):
        [alone] = model.encode_image(clip[row : row + 1], sam[row : row + 1])
        assert torch.allclose(alone.clip, features.clip, atol=1e-5)
        assert torch.allclose(alone.sam, features.sam, atol=1e-5)


def test_expressions_of_a_batch_do_not_influence_each_other(model: SSPSAM, inputs) -> None:
    clip, sam, ids = inputs
    [image] = model.encode_image(clip[:1], sam[:1])
    together = model.segment(model.prepare(image), model.encode_text(ids))
    for row in range(len(ids)):
        alone = model.segment(model.prepare(image), model.encode_text(ids[row : row + 1]))
        for ours, theirs in zip(alone, together, strict=True):
            assert torch.allclose(ours[0], theirs[row], atol=1e-5)


def test_word_attention_is_a_distribution_over_the_words(model: SSPSAM, inputs) -> None:
    ids = inputs[2]
    attention = model.encode_text(ids).word_attention
    assert torch.allclose(attention.sum(dim=-1), torch.ones(4))
    assert (attention[ids == 0] == 0).all()
    assert (attention[ids != 0] > 0).all()


def test_image_features_are_normalised_along_the_tokens(model: SSPSAM, inputs) -> None:
    # with the class token the squares of each channel add up to one; it alone is missing here
    squares = model.encode_image(inputs[0][:1], inputs[1][:1])[0].clip.square().sum(dim=0)
    assert (squares < 1).all()
    assert squares.mean() > 0.8


def test_both_pictures_and_words_matter(model: SSPSAM, inputs) -> None:
    clip, sam, ids = inputs
    first, second, _ = model.encode_image(clip, sam)
    words = model.encode_text(ids)
    base = model.segment(model.prepare(first), words).low_res
    assert not torch.allclose(base[0], base[1], atol=1e-4)
    assert not torch.allclose(
        base, model.segment(model.prepare(ImageFeatures(second.clip, first.sam)), words).low_res, atol=1e-4
    )
    assert not torch.allclose(
        base, model.segment(model.prepare(ImageFeatures(first.clip, second.sam)), words).low_res, atol=1e-4
    )


def test_gradients_reach_every_parameter_that_the_computation_uses(inputs) -> None:
    torch.manual_seed(4)
    model = SSPSAM(tiny_architecture())
    clip, sam, ids = inputs
    answer = model.segment(model.prepare(model.encode_image(clip[:1], sam[:1])[0]), model.encode_text(ids))
    sum(value.float().square().sum() for value in (answer.low_res, answer.iou, answer.box)).backward()
    idle = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    # SAM's point, box and mask prompts, and its other mask tokens' networks, play no part in SSP-SAM
    expected = {n for n, _ in model.named_parameters() if n.startswith("sam.prompt_encoder.") and "no_mask" not in n}
    assert {name for name in idle if not name.startswith("sam.mask_decoder.")} == expected


def test_mlp_has_relu_between_its_layers_only() -> None:
    torch.manual_seed(0)
    mlp = MLP(5, 7, 3, 3)
    x = torch.randn(11, 5)
    a, b, c = ((layer.weight, layer.bias) for layer in mlp.layers)
    hidden = torch.clamp(x @ a[0].T + a[1], min=0)
    hidden = torch.clamp(hidden @ b[0].T + b[1], min=0)
    assert torch.allclose(mlp(x), hidden @ c[0].T + c[1], atol=1e-6)
    assert (mlp(x) < 0).any()


@pytest.mark.parametrize("shape", [(1, 7), (3, 77, 40), (2, 5, 5, 16), (0, 7)])
@pytest.mark.parametrize("biased", [True, False])
def test_products_are_those_of_float64(shape, biased) -> None:
    x, weight = torch.randn(*shape), torch.randn(9, shape[-1])
    bias = torch.randn(9) if biased else None
    exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    with torch.no_grad():
        assert torch.allclose(layers.linear(x, weight, bias).double(), exact, atol=1e-5)
        strided = torch.stack([x, x], dim=-1)[..., 1]
        columns = weight.T.contiguous().T
        assert torch.allclose(layers.linear(strided, columns, bias).double(), exact, atol=1e-5)
        without = layers.linear(x.double(), weight.double())
    assert without.dtype is torch.float64


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("learning", [False, True])
def test_products_with_an_activation_are_the_product_and_then_it(activation, learning) -> None:
    x, weight, bias = torch.randn(3, 50, 16) * 3, torch.randn(9, 16), torch.randn(9)
    before = F.linear(x.double(), weight.double(), bias.double())
    exact = before.clamp(min=0) if activation == "relu" else before * (1 + torch.erf(before / math.sqrt(2))) / 2
    with torch.set_grad_enabled(learning):
        assert torch.allclose(layers.linear(x, weight, bias, activation).double(), exact, atol=1e-5)


def test_products_have_derivatives_and_follow_mixed_precision() -> None:
    x, weight = torch.randn(2, 3), torch.randn(4, 3, requires_grad=True)
    layers.linear(x, weight).sum().backward()
    assert torch.allclose(weight.grad, x.sum(0).expand(4, 3))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert layers.linear(x, weight).dtype is torch.bfloat16


def test_without_onednn_the_answers_are_the_same(model: SSPSAM, inputs, monkeypatch) -> None:
    clip, sam, ids = inputs

    def answer() -> torch.Tensor:
        with torch.no_grad():
            [image] = model.encode_image(clip[:1], sam[:1])
            return model.segment(model.prepare(image), model.encode_text(ids)).low_res

    fast = answer()
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", None, raising=False)
    layers._onednn.cache_clear()
    try:
        assert layers._onednn() is None
        assert torch.allclose(answer(), fast, atol=1e-4)
    finally:
        monkeypatch.undo()
        layers._onednn.cache_clear()


@pytest.mark.skipif(layers._pack() is None, reason="PyTorch has no oneDNN here")
@pytest.mark.parametrize(("width", "out"), [(7, 9), (256, 2048), (3072, 768), (512, 1)])
@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
def test_packed_weights_give_the_products_of_float64(width, out, activation) -> None:
    weight, bias = nn.Parameter(torch.randn(out, width)), torch.randn(out)
    packed = layers.PackedWeights()
    with torch.no_grad(), layers.with_packed(packed):
        for x in (torch.randn(2, width), torch.randn(3, 77, width), torch.randn(1, 1, 700, width)):
            exact = layers._ACTIVATIONS[activation](F.linear(x.double(), weight.double(), bias.double()))
            ours = layers.linear(x, weight, bias, activation)
            assert torch.allclose(ours.double(), exact, atol=1e-5 * width)
    assert [kept.is_mkldnn for kept in packed._kept.values()] == [True]


@pytest.mark.skipif(layers._pack() is None, reason="PyTorch has no oneDNN here")
def test_answers_with_packed_weights_do_not_depend_on_what_was_asked_first() -> None:
    weight, few, many = nn.Parameter(torch.randn(768, 3072)), torch.randn(2, 3072), torch.randn(700, 3072)
    answers = []
    for order in ([few, many], [many, few]):
        with torch.no_grad(), layers.with_packed(layers.PackedWeights()):
            answers.append({len(x): layers.linear(x, weight) for x in order})
    assert torch.equal(answers[0][2], answers[1][2])
    assert torch.equal(answers[0][700], answers[1][700])


def test_only_parameters_are_packed_and_only_for_several_rows() -> None:
    weight, packed = nn.Parameter(torch.randn(9, 7)), layers.PackedWeights()
    with torch.no_grad(), layers.with_packed(packed):
        for x in (torch.randn(1, 7), torch.randn(7), torch.randn(0, 7)):
            assert torch.allclose(layers.linear(x, weight), F.linear(x, weight), atol=1e-5)
        layers.linear(torch.randn(5, 4), weight[:, :4])
        assert len(packed._kept) == 0
    with layers.with_packed(packed):  # where derivatives are wanted
        layers.linear(torch.randn(5, 7), weight).sum().backward()
    assert len(packed._kept) == 0
    assert weight.grad is not None
    with torch.no_grad():  # outside
        layers.linear(torch.randn(5, 7), weight)
    assert len(packed._kept) == 0


def test_an_applications_default_dtype_does_not_make_products_slow() -> None:
    usual = layers._onednn() is None, layers._pack() is None
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    layers._onednn.cache_clear()
    layers._pack.cache_clear()
    try:
        assert (layers._onednn() is None, layers._pack() is None) == usual
    finally:
        torch.set_default_dtype(before)


def test_without_the_packing_operator_products_stay_as_they_are(monkeypatch) -> None:
    x, weight, packed = torch.randn(5, 7), nn.Parameter(torch.randn(9, 7)), layers.PackedWeights()
    with torch.no_grad():
        plain = layers.linear(x, weight)
        monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", None, raising=False)
        layers._pack.cache_clear()
        try:
            with layers.with_packed(packed):
                assert torch.equal(layers.linear(x, weight), plain)
            assert layers._pack() is None
        finally:
            monkeypatch.undo()
            layers._pack.cache_clear()


def test_the_gru_stops_at_the_last_word_and_starts_in_the_padding_as_the_authors_does(monkeypatch) -> None:
    adapter = LinguisticAttentionAdapter(12, 16).double()
    for parameter in adapter.parameters():
        nn.init.normal_(parameter)
    words = torch.randn(3, 9, 12).double()
    padding = torch.arange(9) >= torch.tensor([[4], [7], [1]])
    padding[1, 2] = True  # as CLIP reads an exclamation mark
    gru, lengths = torch.gru, []
    monkeypatch.setattr(torch, "gru", lambda x, *others: lengths.append(x.shape[1]) or gru(x, *others))
    ours = adapter(words, padding)
    monkeypatch.undo()
    assert lengths == [7, 9]
    projected = adapter.word_projection(words)
    scores = adapter.score(adapter.gru(projected)[0]).squeeze(-1)
    attention = scores.softmax(dim=-1) * ~padding
    attention = attention / attention.sum(dim=-1, keepdim=True)
    assert torch.allclose(ours.word_attention, attention)
    assert torch.allclose(ours.sentence, (attention.unsqueeze(-1) * projected).sum(dim=1))
    assert torch.equal(ours.words, projected)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_that_of_the_stock_module(causal) -> None:
    stock = nn.MultiheadAttention(32, 4, batch_first=True)
    nn.init.normal_(stock.in_proj_bias)
    queries, keys, values = torch.randn(3, 2, 9, 32)
    mask = torch.full((9, 9), float("-inf")).triu(1) if causal else None
    for q, k, v in ((queries, keys, values), (queries, queries, queries)):
        theirs, _ = stock(q, k, v, attn_mask=mask, need_weights=False)
        with torch.no_grad():
            ours = layers.attend(stock, q, k, v, causal=causal)
        assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("inside", [False, True])
def test_what_the_words_tell_the_patches_is_what_the_stock_attention_tells_them(inside: bool) -> None:
    """Whether the padding only follows the words or lies between them too, as CLIP reads an exclamation mark."""
    adapter = VisualAttentionAdapter(12, 32, 4, 2).double()
    for parameter in adapter.parameters():
        nn.init.normal_(parameter)
    patches, words = torch.randn(3, 25, 32).double(), torch.randn(3, 9, 32).double()
    padding = torch.arange(9) >= torch.tensor([[4], [7], [1]])
    if inside:
        padding[1, 2:5] = True
    attended, _ = adapter.word_attention(patches, words, words, key_padding_mask=padding, need_weights=False)
    wanted = adapter.verify_words(attended)
    assert torch.allclose(adapter._told(patches, words, padding), wanted)
    layers.compute_by_linear(adapter.float())
    with torch.no_grad():  # by oneDNN, which takes the words without their padding as they lie in memory
        assert torch.allclose(
            adapter._told(patches.float(), words.float(), padding), wanted.float(), rtol=1e-3, atol=1e-2
        )


def test_the_last_attention_is_that_of_the_decoder() -> None:
    attention = Attention(32, 4, downsample_rate=2).double()
    for parameter in attention.parameters():
        nn.init.normal_(parameter)
    queries, image, place = (
        torch.randn(3, 2, 32).double(),
        torch.randn(3, 49, 32).double(),
        torch.randn(49, 32).double(),
    )
    theirs = attention(q=queries, k=image + place, v=image)
    assert torch.allclose(mask_decoder._attention_of_few(attention, queries, image, place), theirs)


def test_every_linear_layer_computes_by_our_product(model: SSPSAM) -> None:
    assert {type(module) for module in model.modules() if isinstance(module, nn.Linear)} == {layers.Linear}
