"""What is trained, on how much, and how fast it learns: every number of the recipe."""

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
        images: scenes it sees, each drawn for it alone.
        batch: scenes a step, over all processes.
        expressions: asked about each scene.
        learning_rate: at its highest; rises over the first `warmup` of the stage, then falls as a cosine to a fiftieth.
        weight_decay: of matrices.
        warmup: share of the stage.
        frozen: names of parameters begin so that do not learn any more.
        slower: names of parameters begin so that learn at `slowness` times the rate, for they have learnt before.
        slowness: see `slower`.
    """

    images: int
    batch: int
    expressions: int
    learning_rate: float
    weight_decay: float = 0.02
    warmup: float = 0.04
    frozen: tuple[str, ...] = ()
    slower: tuple[str, ...] = ()
    slowness: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """A model and how it is trained.

    Args:
        architecture: of the model.
        stages: in their order, by name.
        vocabulary_rows: of the token embedding while training.
        vocabulary_scenes: so many scenes are asked about to hear every word of the world.
    """

    architecture: Architecture
    stages: Mapping[str, Stage]
    vocabulary_rows: int = 512
    vocabulary_scenes: int = 2000

    @property
    def config(self) -> ModelConfig:
        """The configuration of the model that comes of it; preprocessing and postprocessing are the published ones."""
        return ModelConfig(
            self.architecture,
            source="trained from nothing on drawn shapes by the authors of sspsam (training/)",
            license="apache-2.0",
        )

    @property
    def in_training(self) -> Architecture:
        """The architecture with the small vocabulary."""
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
    batch=8,
    expressions=12,
    learning_rate=7e-4,
    frozen=("model.clip.visual.",),
    slower=("model.sam.",),
    slowness=0.3,
)
_SMOKE_JOINT: Final = dataclasses.replace(_JOINT, images=8, batch=2, expressions=4, learning_rate=1e-3)

RECIPES: Final[Mapping[str, Recipe]] = types.MappingProxyType(
    {
        # the bundled model
        "shapes": Recipe(
            _SHAPES,
            {
                # CLIP's text encoder and the linguistic attention learn how expressions are built
                "text": Stage(images=15_000, batch=8, expressions=16, learning_rate=1e-3),
                # CLIP's image encoder learns which patch shows what, where, and how large
                "clip": Stage(images=52_000, batch=8, expressions=0, learning_rate=8e-4),
                # SAM learns the masks of what boxes or a point show
                "sam": Stage(images=13_000, batch=8, expressions=0, learning_rate=8e-4),
                # everything learns the masks of expressions
                "joint": _JOINT,
                # and again from a high learning rate (warm restarts, Loshchilov and Hutter 2017)
                "refine": dataclasses.replace(_JOINT, images=36_000, slowness=0.5),
            },
        ),
        # a few steps of everything, to see that it runs
        "smoke": Recipe(
            _SMOKE,
            {
                "text": Stage(images=8, batch=2, expressions=4, learning_rate=1e-3),
                "clip": Stage(images=8, batch=2, expressions=0, learning_rate=1e-3),
                "sam": Stage(images=8, batch=2, expressions=0, learning_rate=1e-3),
                "joint": _SMOKE_JOINT,
                "refine": _SMOKE_JOINT,
            },
            vocabulary_scenes=40,
        ),
    }
)

# how often each kind of expression is asked: more often, the more steps it takes to answer
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

# punctuation becomes tokens of its own, together with the full stop of the template
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
