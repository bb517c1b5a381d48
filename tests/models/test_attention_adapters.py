"""The attention adapters, against the stock GRU and the stock attention."""

import pytest
import torch
from torch import nn

from sspsam.models import LinguisticAttentionAdapter, VisualAttentionAdapter
from sspsam.models.attention_adapters import LinguisticFeatures


def test_the_gru_stops_at_the_last_word_and_starts_in_the_padding_as_the_authors_does(monkeypatch) -> None:
    adapter = LinguisticAttentionAdapter(12, 16).double()
    for parameter in adapter.parameters():
        nn.init.normal_(parameter)
    words = torch.randn(3, 9, 12).double()
    padding = torch.arange(9) >= torch.tensor([[4], [7], [1]])
    padding[1, 2] = True  # CLIP's id of an exclamation mark is that of padding
    gru, lengths = torch.gru, []
    monkeypatch.setattr(torch, "gru", lambda x, *others: lengths.append(x.shape[1]) or gru(x, *others))
    features = adapter(words, padding)
    monkeypatch.undo()
    assert lengths == [7, 9]
    projected = adapter.word_projection(words)
    scores = adapter.score(adapter.gru(projected)[0]).squeeze(-1)
    attention = scores.softmax(dim=-1) * ~padding
    attention = attention / attention.sum(dim=-1, keepdim=True)
    assert torch.allclose(features.word_attention, attention)
    assert torch.allclose(features.sentence, (attention.unsqueeze(-1) * projected).sum(dim=1))
    assert torch.equal(features.words, projected)


@pytest.mark.parametrize("length", [1, 8, 9])
def test_the_attention_to_words_has_every_position_of_the_text(length: int) -> None:
    adapter = LinguisticAttentionAdapter(12, 16)
    features = adapter(torch.randn(2, 9, 12), torch.arange(9).expand(2, 9) >= length)
    assert features.word_attention.shape == (2, 9)
    assert torch.allclose(features.word_attention.sum(dim=1), torch.ones(2))
    assert not features.word_attention[:, length:].any()


@pytest.mark.parametrize("inside", [False, True])
def test_the_verification_context_is_that_of_the_stock_attention(inside: bool) -> None:
    """Padding after the words only, or between them too: CLIP's id of an exclamation mark is that of padding."""
    adapter = VisualAttentionAdapter(12, 32, 4, 2).double()
    for parameter in adapter.parameters():
        nn.init.normal_(parameter)
    patches, words = torch.randn(3, 25, 32).double(), torch.randn(3, 9, 32).double()
    padding = torch.arange(9) >= torch.tensor([[4], [7], [1]])
    if inside:
        padding[1, 2:5] = True
    attended, _ = adapter.word_attention(patches, words, words, key_padding_mask=padding, need_weights=False)
    expected = adapter.verify_words(attended)
    assert torch.allclose(adapter._verification_context(patches, words, padding), expected)
    adapter.float().eval()
    with torch.no_grad():  # by oneDNN, which multiplies the words without their padding as they lie in memory
        context = adapter._verification_context(patches.float(), words.float(), padding)
    assert torch.allclose(context, expected.float(), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_patches_are_those_of_the_definition(layers: int) -> None:
    """docs/method.md, section 3, written with the stock modules."""
    torch.manual_seed(layers)
    adapter = VisualAttentionAdapter(12, 32, 4, layers).double()
    for parameter in adapter.parameters():
        nn.init.normal_(parameter, std=0.3)
    features, sentence = torch.randn(25, 12).double(), torch.randn(3, 12).double()
    padding = torch.arange(9) >= torch.tensor([[4], [7], [1]])
    words, gate = torch.randn(3, 9, 32).double(), torch.randn(3, 32).double()
    language = LinguisticFeatures(words, words[..., 0], gate)
    result = adapter(features, adapter.project(features), sentence, language, padding, torch.float64)
    products = sentence @ features.T
    low, high = products.amin(1, keepdim=True), products.amax(1, keepdim=True)
    similarity = (products - low) / (high - low)
    patches = similarity[..., None] * features
    for index, layer in enumerate(adapter.image_projection.layers):
        patches = nn.functional.linear(patches if index == 0 else patches.relu(), layer.weight, layer.bias)
    attended, _ = adapter.word_attention(patches, words, words, key_padding_mask=padding, need_weights=False)
    cosine = nn.functional.cosine_similarity(adapter.verify_image(patches), adapter.verify_words(attended), dim=-1)
    verification = adapter.scale * (-((1 - cosine) ** 2) / (2 * adapter.sigma**2)).exp()
    gated = (adapter.norm(patches) * verification[..., None]).tanh() * gate.tanh()[:, None]
    assert torch.allclose(result.similarity, similarity)
    assert torch.allclose(result.verification, verification)
    assert torch.allclose(result.patches, gated)
