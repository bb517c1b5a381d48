"""Writes a trained model as a checkpoint that the library loads: `python -m training.export RUN MODEL`."""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from sspsam.checkpoints.format import load_checkpoint, save_checkpoint
from sspsam.config import ModelConfig
from training.recipe import RECIPES, Recipe
from training.vocabulary import Vocabulary, vocabulary_of

_EMBEDDING = "clip.text.token_embedding.weight"


def export(recipe: Recipe, run: Path, model: Path, dtype: str = "float16") -> ModelConfig:
    """Write the model of a run's last stage.

    Args:
        recipe: of the run.
        run: folder of `training.train`.
        model: folder to write; the bundled one is `sspsam/bundled/shapes`.
        dtype: of the stored weights.
    """
    learned = torch.load(run / f"{list(recipe.stages)[-1]}.pt", weights_only=True)["objective"]
    state = {key.removeprefix("model."): value for key, value in learned.items() if key.startswith("model.")}
    state[_EMBEDDING] = vocabulary_of(recipe, run).spread(state[_EMBEDDING])
    return save_checkpoint(model, recipe.config, state, dtype)


def taken_up(model: Path, vocabulary: Vocabulary) -> dict[str, Tensor]:
    """The weights of a checkpoint, its token embedding gathered into the small vocabulary of a training."""
    state = load_checkpoint(model)[0].state_dict()
    return state | {_EMBEDDING: vocabulary.gather(state[_EMBEDDING])}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--recipe", choices=list(RECIPES), default="shapes")
    parser.add_argument("--dtype", default="float16")
    arguments = parser.parse_args()
    print(export(RECIPES[arguments.recipe], arguments.run, arguments.model, arguments.dtype).fingerprint)


if __name__ == "__main__":
    main()
