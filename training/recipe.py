"""Architectures, stages and hyperparameters of the training."""

import dataclasses
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sspsam.config import Architecture, CLIPConfig, ModelConfig, SAMConfig, SSPConfig


@dataclass(frozen=True)
class Stage:
    """One stage of the training.

    Args:
        images: number of scenes; each is used once.
        batch_size: scenes per step, summed over all processes.
        expressions: largest number of expressions per scene.
        learning_rate: peak; the rate rises over the first part of the stage, then falls as a cosine to a fiftieth.
        weight_decay: of the matrices inside the networks.
        warmup: the part of the stage over which the rate rises, as a fraction.
        frozen_prefixes: parameters whose names begin so are not trained.
        slow_prefixes: parameters whose names begin so, trained in earlier stages, learn at `slow_factor` times the
            learning rate.
        slow_factor: see `slow_prefixes`.
    """

    images: int
    batch_size: int
    expressions: int
    learning_rate: float
    weight_decay: float = 0.02
    warmup: float = 0.04
    frozen_prefixes: tuple[str, ...] = ()
    slow_prefixes: tuple[str, ...] = ()
    slow_factor: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """An architecture and the stages of its training.

    Args:
        architecture: of the finished model.
        stages: in order, by name.
        vocabulary_rows: rows of the token embedding during training.
        vocabulary_scenes: number of scenes whose expressions are searched for tokens; enough to contain every one.
    """

    architecture: Architecture
    stages: Mapping[str, Stage]
    vocabulary_rows: int = 512
    vocabulary_scenes: int = 2000

    @property
    def config(self) -> ModelConfig:
        """Configuration of the finished model; preprocessing and postprocessing are those of the published models."""
        return ModelConfig(
            self.architecture,
            source="trained from nothing on drawn shapes by the authors of sspsam (training/)",
            license="apache-2.0",
        )

    @property
    def training_architecture(self) -> Architecture:
        """Architecture during training, with the small vocabulary."""
        clip = dataclasses.replace(self.architecture.clip, vocab_size=self.vocabulary_rows)
        return dataclasses.replace(self.architecture, clip=clip)


_SHAPES: Final = Architecture(
    CLIPConfig(
        image_size=224,
        patch_size=16,
        vision_width=192,
        vision_layers=5,
        vision_heads=6,
        vision_mlp_width=768,
        surgery_layers=1,
        embed_dim=128,
        text_width=128,
        text_layers=3,
        text_heads=4,
        text_mlp_width=512,
        context_length=40,
    ),
    SAMConfig(
        image_size=256,
        patch_size=16,
        width=160,
        layers=5,
        heads=5,
        mlp_width=640,
        window_size=8,
        global_blocks=(1, 3),
        prompt_width=128,
        decoder_mlp_width=512,
        iou_head_width=128,
    ),
    SSPConfig(
        hidden_width=128,
        prompts=16,
        attention_heads=4,
        generator_layers=4,
        generator_heads=4,
        generator_mlp_width=256,
    ),
)
_SMOKE: Final = Architecture(
    CLIPConfig(
        image_size=64,
        patch_size=16,
        vision_width=32,
        vision_layers=2,
        vision_heads=2,
        vision_mlp_width=32,
        surgery_layers=1,
        embed_dim=24,
        text_width=16,
        text_layers=1,
        text_heads=2,
        text_mlp_width=16,
        context_length=40,
    ),
    SAMConfig(
        image_size=128,
        patch_size=32,
        width=32,
        layers=2,
        heads=2,
        mlp_width=32,
        window_size=2,
        global_blocks=(1,),
        prompt_width=32,
        decoder_mlp_width=32,
        iou_head_width=16,
    ),
    SSPConfig(
        hidden_width=32,
        prompts=4,
        attention_heads=2,
        generator_layers=2,
        generator_heads=2,
        generator_mlp_width=32,
    ),
)
_JOINT: Final = Stage(
    images=21_000,
    batch_size=8,
    expressions=12,
    learning_rate=7e-4,
    frozen_prefixes=("model.clip.visual.",),
    slow_prefixes=("model.sam.",),
    slow_factor=0.3,
)
_SMOKE_JOINT: Final = dataclasses.replace(_JOINT, images=8, batch_size=2, expressions=4, learning_rate=1e-3)

RECIPES: Final[Mapping[str, Recipe]] = types.MappingProxyType(
    {
        # the bundled model
        "shapes": Recipe(
            _SHAPES,
            {
                # CLIP's text encoder and the linguistic attention learn the structure of expressions
                "text": Stage(images=15_000, batch_size=8, expressions=16, learning_rate=1e-3),
                # CLIP's image encoder learns the attributes, the place and the size of the shape at each patch
                "clip": Stage(images=52_000, batch_size=8, expressions=0, learning_rate=8e-4),
                # SAM learns masks from prompts: boxes, or a point
                "sam": Stage(images=13_000, batch_size=8, expressions=0, learning_rate=8e-4),
                # all parts but CLIP's image encoder learn the masks of expressions
                "joint": _JOINT,
                # the same, restarting at a high learning rate (warm restarts, Loshchilov and Hutter 2017)
                "refine": dataclasses.replace(_JOINT, images=36_000, slow_factor=0.5),
            },
        ),
        # a few steps of every stage, for tests
        "smoke": Recipe(
            _SMOKE,
            {
                "text": Stage(images=8, batch_size=2, expressions=4, learning_rate=1e-3),
                "clip": Stage(images=8, batch_size=2, expressions=0, learning_rate=1e-3),
                "sam": Stage(images=8, batch_size=2, expressions=0, learning_rate=1e-3),
                "joint": _SMOKE_JOINT,
                "refine": _SMOKE_JOINT,
            },
            vocabulary_scenes=40,
        ),
    }
)

# relative frequency of each kind of expression: kinds that need more reasoning steps occur more often
KIND_WEIGHTS: Final[Mapping[str, float]] = types.MappingProxyType(
    {
        "color and shape": 10,
        "shape": 7,
        "color": 6,
        "size": 9,
        "superlative": 9,
        "place": 12,
        "relation": 27,
        "number": 14,
        "exclusion": 18,
        "foreign": 4,
    }
)

# punctuation is merged with the full stop of the text template into tokens of its own
PHRASES: Final = (
    *(
        "red",
        "red.",
        "red!",
        "red?",
        "red,",
        "red;",
        "red:",
        "red..",
        "red...",
        "red!!",
        "red??",
        "red?!",
        "red!?",
        "(red)",
    ),
    *("'red'", '"red"', "red's", "red, red", "red; red", "red: red", "red - red", "red. red", "red! red", "red? red"),
    *("(red) red", '"red" red', "red-red"),
)
