"""The forward pass of a step gives what the network gives to a user."""

from pathlib import Path

import numpy as np
import torch

from sspsam.checkpoints.format import load_checkpoint
from sspsam.finetuning.network import Features, segment_pairs
from sspsam.models import ExpressionFeatures, ImageFeatures
from sspsam.text.encoder import tokenizer_for


def test_pairs_are_answered_as_the_network_answers_each_image(tiny_model: Path) -> None:
    model, config = load_checkpoint(tiny_model)
    clip = torch.randn(3, config.architecture.clip.grid**2, config.architecture.clip.embed_dim) / 6
    sam = torch.randn(3, config.architecture.sam.prompt_width, *[config.architecture.sam.grid] * 2)
    tokenizer, image = tokenizer_for(config), torch.tensor([2, 0, 2, 1])
    token_ids = torch.from_numpy(np.stack([tokenizer(text) for text in ("a cat", "two dogs", "the cup", "left")]))
    with torch.no_grad():
        expressions = model.encode_text(token_ids)
        output = segment_pairs(model, Features(clip, sam), image, expressions)
        for row, number in enumerate(image.tolist()):
            alone = ExpressionFeatures(*(tensor[row : row + 1] for tensor in expressions))
            expected = model.segment(model.prepare(ImageFeatures(clip[number], sam[number])), alone)
            torch.testing.assert_close(output.low_res[row], expected.low_res[0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(output.box[row], expected.box[0], atol=1e-5, rtol=1e-4)
