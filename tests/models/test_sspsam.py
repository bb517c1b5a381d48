"""The whole network: shapes, batches, inputs that the output depends on, gradients, and the fallback of oneDNN."""

import pytest
import torch
from torch import nn

from benchmarks.authors_checkpoint import tiny_architecture
from sspsam.models import SSPSAM, ImageFeatures, kernels
from sspsam.models.layers import Linear


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
    prediction = model.segment(model.prepare(images[0]), model.encode_text(ids))
    assert prediction.low_res.shape == (4, 32, 32)
    assert prediction.iou.shape == (4,)
    assert prediction.box.shape == (4, 4)
    assert prediction.prompts.shape == (4, 7, 64)
    assert prediction.similarity.shape == prediction.verification.shape == (4, 6, 6)
    assert prediction.word_attention.shape == (4, 77)


def test_images_of_a_batch_do_not_influence_each_other(model: SSPSAM, inputs) -> None:
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
        for row_alone, rows_together in zip(alone, together, strict=True):
            assert torch.allclose(row_alone[0], rows_together[row], atol=1e-5)


def test_word_attention_is_a_distribution_over_the_words(model: SSPSAM, inputs) -> None:
    ids = inputs[2]
    attention = model.encode_text(ids).word_attention
    assert torch.allclose(attention.sum(dim=-1), torch.ones(4))
    assert (attention[ids == 0] == 0).all()
    assert (attention[ids != 0] > 0).all()


def test_image_features_are_normalised_along_the_tokens(model: SSPSAM, inputs) -> None:
    # with the class token the squares of each channel add up to one; only the class token is missing here
    squares = model.encode_image(inputs[0][:1], inputs[1][:1])[0].clip.square().sum(dim=0)
    assert (squares < 1).all()
    assert squares.mean() > 0.8


def test_the_mask_depends_on_both_image_features_and_on_the_text(model: SSPSAM, inputs) -> None:
    clip, sam, ids = inputs
    first, second, _ = model.encode_image(clip, sam)
    expressions = model.encode_text(ids)
    logits = model.segment(model.prepare(first), expressions).low_res
    assert not torch.allclose(logits[0], logits[1], atol=1e-4)
    for other in (ImageFeatures(second.clip, first.sam), ImageFeatures(first.clip, second.sam)):
        assert not torch.allclose(logits, model.segment(model.prepare(other), expressions).low_res, atol=1e-4)


def test_gradients_reach_every_parameter_that_the_computation_uses(inputs) -> None:
    torch.manual_seed(4)
    model = SSPSAM(tiny_architecture())
    clip, sam, ids = inputs
    prediction = model.segment(model.prepare(model.encode_image(clip[:1], sam[:1])[0]), model.encode_text(ids))
    sum(value.float().square().sum() for value in (prediction.low_res, prediction.iou, prediction.box)).backward()
    without_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    # SSP-SAM uses neither SAM's point, box and mask prompts nor the networks of its other mask tokens
    expected = {n for n, _ in model.named_parameters() if n.startswith("sam.prompt_encoder.") and "no_mask" not in n}
    assert {name for name in without_gradient if not name.startswith("sam.mask_decoder.")} == expected


def test_without_onednn_the_logits_are_the_same(model: SSPSAM, inputs, monkeypatch) -> None:
    clip, sam, ids = inputs

    def logits() -> torch.Tensor:
        with torch.no_grad():
            [image] = model.encode_image(clip[:1], sam[:1])
            return model.segment(model.prepare(image), model.encode_text(ids)).low_res

    expected = logits()
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", None, raising=False)
    kernels.onednn_product.cache_clear()
    kernels.onednn_packing.cache_clear()
    try:
        assert kernels.onednn_product() is None
        assert kernels.onednn_packing() is None
        assert torch.allclose(logits(), expected, atol=1e-4)
    finally:
        monkeypatch.undo()
        kernels.onednn_product.cache_clear()
        kernels.onednn_packing.cache_clear()


def test_every_linear_layer_is_ours(model: SSPSAM) -> None:
    assert {type(module) for module in model.modules() if isinstance(module, nn.Linear)} == {Linear}


def test_only_layers_that_run_for_every_expression_keep_packed_weights(model: SSPSAM) -> None:
    packing = {name for name, module in model.named_modules() if getattr(module, "packed_weight", None) is not None}
    assert "clip.text.transformer.resblocks.0.attn" in packing
    assert {name.split(".")[0] for name in packing} == {"clip", "sam", "ssp"}
    assert not [name for name in packing if name.startswith(("clip.visual.", "sam.image_encoder."))]
