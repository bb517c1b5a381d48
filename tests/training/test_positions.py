"""Positions of a model that are interpolated for another size of its input."""

import torch

from training import positions


def test_interpolated_positions_keep_a_ramp_and_everything_else() -> None:
    small, large = torch.arange(8.0), torch.linspace(-0.25, 7.25, 16)  # the same ramp, at pixel centres
    ramp = small.view(1, 1, 8, 1) + 10 * small.view(1, 8, 1, 1)
    weights = {
        "sam.image_encoder.pos_embed": ramp,
        "sam.image_encoder.blocks.1.attn.rel_pos_h": torch.arange(7.0).view(7, 1),
        "sam.image_encoder.blocks.0.attn.rel_pos_h": torch.arange(3.0).view(3, 1),
        "other": torch.ones(2),
    }
    model = {
        "sam.image_encoder.pos_embed": torch.zeros(1, 16, 16, 1),
        "sam.image_encoder.blocks.1.attn.rel_pos_h": torch.zeros(15, 1),
        "sam.image_encoder.blocks.0.attn.rel_pos_h": torch.zeros(3, 1),
    }
    fitted = positions.fit_positions(weights, model)
    inner = slice(4, 12)  # at the border the values are extrapolated
    expected = large.view(1, 1, 16, 1) + 10 * large.view(1, 16, 1, 1)
    error = (fitted["sam.image_encoder.pos_embed"] - expected)[:, inner, inner].abs().max()
    assert error < 0.6  # PyTorch's bicubic weights follow a ramp within 0.05 of a step
    distances = fitted["sam.image_encoder.blocks.1.attn.rel_pos_h"][:, 0]
    assert torch.allclose(distances[1:-1], torch.linspace(-0.2667, 6.2667, 15)[1:-1], atol=1e-3)
    assert distances[7] == 3  # distance 0 stays
    for name in ("sam.image_encoder.blocks.0.attn.rel_pos_h", "other"):
        assert fitted[name] is weights[name]
