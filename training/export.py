"""Writes a trained model as a checkpoint that the library loads: `python -m training.export RUN MODEL`."""

import argparse
from pathlib import Path

import torch

from sspsam.checkpoint import save_checkpoint
from sspsam.config import ModelConfig
from sspsam.text import Tokenizer
from training import recipe
from training.vocabulary import Vocabulary

_EMBEDDING = "clip.text.token_embedding.weight"


def export(run: Path, model: Path, dtype: str = "float16") -> ModelConfig:
    """Write the model of a run's last stage.

    Args:
        run: folder of `training.train`.
        model: folder to write; the bundled one is `sspsam/bundled/shapes`.
        dtype: of the stored weights.
    """
    learned = torch.load(run / "joint.pt", weights_only=True)["objective"]
    state = {key.removeprefix("model."): value for key, value in learned.items() if key.startswith("model.")}
    tokenizer = Tokenizer(recipe.ARCHITECTURE.clip.context_length, recipe.PREPROCESSING.text_template)
    vocabulary = Vocabulary.load(run / "vocabulary.json", tokenizer)
    state[_EMBEDDING] = vocabulary.spread(state[_EMBEDDING])
    config = ModelConfig(
        recipe.ARCHITECTURE,
        recipe.PREPROCESSING,
        recipe.POSTPROCESSING,
        source="trained from nothing on drawn shapes by the sspsam authors (training/)",
        license="Apache-2.0",
    )
    return save_checkpoint(model, config, state, dtype)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--dtype", default="float16")
    arguments = parser.parse_args()
    print(export(arguments.run, arguments.model, arguments.dtype).fingerprint)


if __name__ == "__main__":
    main()
