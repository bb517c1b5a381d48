"""Write a trained model as a checkpoint that the library loads: `python -m training.export RUN MODEL`."""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from sspsam.checkpoints.format import load_checkpoint, save_checkpoint
from sspsam.config import ModelConfig
from training.answers import store_answers
from training.recipe import RECIPES, Recipe
from training.vocabulary import Vocabulary, load_or_create_vocabulary

_EMBEDDING = "clip.text.token_embedding.weight"


def export(recipe: Recipe, run: Path, model: Path, dtype: str = "float16") -> ModelConfig:
    """Write the model of a run's last stage, and its answers for `sspsam check`, which are bound to the weights.

    Args:
        recipe: the recipe of the run.
        run: output folder of `training.train`.
        model: folder to write; the bundled model is `sspsam/bundled/shapes`.
        dtype: of the stored weights.

    Returns:
        The configuration of the written checkpoint.
    """
    objective = torch.load(run / f"{list(recipe.stages)[-1]}.pt", weights_only=True)["objective"]
    state = {key.removeprefix("model."): value for key, value in objective.items() if key.startswith("model.")}
    state[_EMBEDDING] = load_or_create_vocabulary(recipe, run).expand_embedding(state[_EMBEDDING])
    config = save_checkpoint(model, recipe.config, state, dtype)
    store_answers(model)
    return config


def load_for_training(model: Path, vocabulary: Vocabulary) -> dict[str, Tensor]:
    """Load the weights of a checkpoint, with its token embedding reduced to the vocabulary of the training."""
    state = load_checkpoint(model)[0].state_dict()
    return state | {_EMBEDDING: vocabulary.reduce_embedding(state[_EMBEDDING])}


def main() -> None:
    """Parse the command line, write the checkpoint, and print its fingerprint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="output folder of training.train")
    parser.add_argument("model", type=Path, help="folder to write")
    parser.add_argument("--recipe", choices=list(RECIPES), default="shapes")
    parser.add_argument("--dtype", default="float16", help="of the stored weights")
    arguments = parser.parse_args()
    print(export(RECIPES[arguments.recipe], arguments.run, arguments.model, arguments.dtype).fingerprint)


if __name__ == "__main__":
    main()
