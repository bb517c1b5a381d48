"""CLIP's transformers, against open_clip's and against the definition of the surgery."""

import dataclasses

import open_clip.transformer as stock
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.authors_checkpoint import tiny_architecture
from sspsam.models.clip import CLIPWithSurgery, SurgeryBlock, TextTransformer, VisionTransformer

# feed-forward widths that are no multiple of the width
CONFIG = dataclasses.replace(tiny_architecture().clip, vision_mlp_width=115, text_mlp_width=115)


def randomize(network: nn.Module) -> None:
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)


def test_text_features_are_those_of_the_stock_transformer() -> None:
    ours = TextTransformer(CONFIG).eval()
    randomize(ours)
    theirs = stock.TextTransformer(
        context_length=CONFIG.context_length,
        vocab_size=CONFIG.vocab_size,
        width=CONFIG.text_width,
        layers=CONFIG.text_layers,
        heads=CONFIG.text_heads,
        mlp_ratio=CONFIG.text_mlp_width / CONFIG.text_width,
        output_dim=CONFIG.embed_dim,
        act_layer=stock.QuickGELU,
        output_tokens=True,
    ).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    ids = torch.zeros(2, CONFIG.context_length, dtype=torch.long)
    ids[0, :4] = torch.tensor([49406, 320, 1929, 49407])
    ids[1, :6] = torch.tensor([49406, 518, 736, 2972, 269, 49407])
    with torch.no_grad():
        sentence, words = theirs(ids)
        features = ours(ids)
    assert torch.allclose(features.words, words, atol=1e-5)
    assert torch.allclose(features.sentence, F.normalize(sentence, dim=-1), atol=1e-5)


def test_the_class_token_is_that_of_the_stock_vision_transformer() -> None:
    ours = VisionTransformer(CONFIG).eval()
    randomize(ours)
    theirs = stock.VisionTransformer(
        image_size=CONFIG.image_size,
        patch_size=CONFIG.patch_size,
        width=CONFIG.vision_width,
        layers=CONFIG.vision_layers,
        heads=CONFIG.vision_heads,
        mlp_ratio=CONFIG.vision_mlp_width / CONFIG.vision_width,
        output_dim=CONFIG.embed_dim,
        act_layer=stock.QuickGELU,
    ).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(2, 3, CONFIG.image_size, CONFIG.image_size)
    with torch.no_grad():
        assert torch.allclose(ours(images)[:, 0], theirs(images), atol=1e-4)


def test_the_new_path_attends_value_to_value() -> None:
    block = SurgeryBlock(32, 4, 64).double()
    randomize(block)
    original, new = torch.randn(2, 2, 10, 32).double()
    normed = block.ln_1(original)
    value_weight, value_bias = block.attn.in_proj_weight.chunk(3)[2], block.attn.in_proj_bias.chunk(3)[2]
    values = F.linear(normed, value_weight, value_bias).view(2, 10, 4, 8).transpose(1, 2)
    weights = (values @ values.transpose(2, 3) / 8**0.5).softmax(dim=-1)
    attended = block.attn.out_proj((weights @ values).transpose(1, 2).flatten(2))
    next_original, next_new = block(original, new)
    assert torch.allclose(next_new, new + attended)
    assert torch.allclose(next_original, _stock_block(block)(original))


def _stock_block(block: SurgeryBlock) -> stock.ResidualAttentionBlock:
    theirs = stock.ResidualAttentionBlock(32, 4, mlp_ratio=2.0, act_layer=stock.QuickGELU).double()
    theirs.load_state_dict(block.state_dict(), strict=True)
    return theirs


def test_image_features_include_no_class_token() -> None:
    clip = CLIPWithSurgery(CONFIG).eval()
    with torch.no_grad():
        features = clip.encode_image(torch.randn(1, 3, CONFIG.image_size, CONFIG.image_size))
    assert features.shape == (1, CONFIG.grid**2, CONFIG.embed_dim)
