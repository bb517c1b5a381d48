"""Checkpoints that share image encoders, or differ in one bit of them, for several test files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sspsam import SSPSAMPredictor
from sspsam.checkpoints.format import load_checkpoint, save_checkpoint
from sspsam.models import SSPSAM

TENSOR = "sam.image_encoder.neck.0.weight"
Change = Callable[[dict[str, torch.Tensor]], None]


class EncodedImages:
    """The number of images that went through the image encoders."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        encode = SSPSAM.encode_image

        def counting(model: SSPSAM, clip_input: torch.Tensor, sam_input: torch.Tensor) -> Any:
            self.count += len(clip_input)
            return encode(model, clip_input, sam_input)

        monkeypatch.setattr(SSPSAM, "encode_image", counting)


def changed_copy(source: Path, directory: Path, change: Change) -> Path:
    """Write a checkpoint with some tensors changed."""
    model, config = load_checkpoint(source)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    change(state)
    save_checkpoint(directory, config, state)
    return directory


def other_head(state: dict[str, torch.Tensor]) -> None:
    state["ssp.fusion.weight"] *= 1.5
    state["clip.text.token_embedding.weight"] *= 0.5


def one_bit(state: dict[str, torch.Tensor]) -> None:
    state[TENSOR].view(torch.int32).view(-1)[3] ^= 1


def load(directory: Path, **options: Any) -> SSPSAMPredictor:
    return SSPSAMPredictor.from_pretrained(directory, device="cpu", **options)


def answers(predictor: SSPSAMPredictor, **source: Any) -> list[bytes]:
    results = predictor.predict(["the mug", "a cat"], return_logits="full", **source)
    return [result.logits.tobytes() for result in results]
