"""SAM's mask decoder, against segment_anything's."""

import pytest
import segment_anything.modeling as stock
import torch
from segment_anything.modeling.transformer import Attention as StockAttention
from torch import nn

from benchmarks.authors_checkpoint import tiny_architecture
from sspsam.models.mask_decoder import MaskDecoder
from sspsam.models.transformer import Attention


def test_attention_is_that_of_the_stock_module() -> None:
    ours, theirs = Attention(32, 4, downsample=2).double(), StockAttention(32, 4, downsample_rate=2).double()
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    queries, image, position = (torch.randn(*shape).double() for shape in ((3, 2, 32), (3, 49, 32), (49, 32)))
    expected = theirs(q=queries, k=image + position, v=image)
    assert torch.allclose(ours(queries, image + position, image), expected)
    assert torch.allclose(ours.attend_to_image(queries, image, position), expected)


@pytest.mark.parametrize("expressions", [1, 3])
def test_masks_and_predicted_iou_are_those_of_the_stock_decoder(expressions: int) -> None:
    torch.manual_seed(expressions)
    config = tiny_architecture().sam
    width, grid = config.prompt_width, config.grid
    ours = MaskDecoder(config).eval()
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.3)
    theirs = stock.MaskDecoder(
        transformer_dim=width,
        transformer=stock.TwoWayTransformer(
            depth=config.decoder_layers,
            embedding_dim=width,
            num_heads=config.decoder_heads,
            mlp_dim=config.decoder_mlp_width,
            attention_downsample_rate=config.decoder_attention_downsample,
        ),
        num_multimask_outputs=config.mask_tokens - 1,
        iou_head_depth=config.iou_head_layers,
        iou_head_hidden_dim=config.iou_head_width,
    ).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    embedding, position = torch.randn(width, grid, grid), torch.randn(1, width, grid, grid)
    no_mask, prompts = torch.randn(1, width), torch.randn(expressions, 5, width)
    with torch.no_grad():
        logits, iou = ours(ours.prepare(embedding, position, no_mask), prompts)
        expected_logits, expected_iou = theirs(
            image_embeddings=embedding.unsqueeze(0),
            image_pe=position,
            sparse_prompt_embeddings=prompts,
            dense_prompt_embeddings=no_mask.view(1, width, 1, 1).expand(expressions, -1, grid, grid),
            multimask_output=False,
        )
    assert expected_logits.std() > 0.1
    assert torch.allclose(logits, expected_logits[:, 0], rtol=1e-4, atol=1e-4 * float(expected_logits.abs().max()))
    assert torch.allclose(iou, expected_iou[:, 0], rtol=1e-4, atol=1e-4 * float(expected_iou.abs().max()))
