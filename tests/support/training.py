"""The smoke recipe, and weights that its stages wrote."""

from pathlib import Path

import torch

from training.recipe import RECIPES

SMOKE = RECIPES["smoke"]


def weights(folder: Path, stage: str) -> dict[str, torch.Tensor]:
    """Weights of the model and the heads at the end of a stage."""
    return torch.load(folder / f"{stage}.pt", weights_only=True)["objective"]
