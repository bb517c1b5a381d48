"""Architectures, stages and hyperparameters of the training."""

import dataclasses
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from sspsam.config import Architecture, CLIPConfig, ModelConfig, SAMConfig, SSPConfig

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
# the same for the last stage: more of the kinds that the model then answers worst
FINE_KIND_WEIGHTS: Final[Mapping[str, float]] = types.MappingProxyType(
    {
        "color and shape": 8,
        "shape": 5,
        "color": 4,
        "size": 8,
        "superlative": 16,
        "place": 11,
        "relation": 29,
        "number": 17,
        "exclusion": 12,
        "foreign": 3,
    }
)

# the same for the stage after it, by what the model then answers worst on both renderers
POLISH_KIND_WEIGHTS: Final[Mapping[str, float]] = types.MappingProxyType(
    {
        "color and shape": 8,
        "shape": 7,
        "color": 3,
        "size": 7,
        "superlative": 12,
        "place": 10,
        "relation": 30,
        "number": 24,
        "exclusion": 15,
        "foreign": 2,
    }
)


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
        sam_image_size: side of SAM's input, pixels; None: that of the finished model.
        sides: range of the longer side of a scene, pixels.
        kind_weights: relative frequency of each kind of expression.
        heads_alone: the part of the stage, at its beginning, in which only the auxiliary heads learn, as a fraction; a
            finished model has none, so a stage that starts from one starts with random heads.
        no_target_weight: weight of an expression without a target, relative to one with a target, in the loss of the
            highest mask logits.
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
    sam_image_size: int | None = None
    sides: tuple[int, int] = (224, 384)
    kind_weights: Mapping[str, float] = field(default_factory=lambda: KIND_WEIGHTS)
    heads_alone: float = 0.0
    no_target_weight: float = 1.0


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

    def stage_config(self, stage: Stage) -> ModelConfig:
        """Configuration of the model during a stage: the small vocabulary, and the stage's size of SAM's input."""
        architecture = self.architecture
        clip = dataclasses.replace(architecture.clip, vocab_size=self.vocabulary_rows)
        sam = dataclasses.replace(architecture.sam, image_size=stage.sam_image_size or architecture.sam.image_size)
        return dataclasses.replace(self.config, architecture=dataclasses.replace(architecture, clip=clip, sam=sam))


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
        image_size=512,
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
        image_size=256,
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
# the stages before "fine" give SAM half of its final input: a quarter of the patches, and of the time
_SMALL: Final = 256
_SMOKE_SMALL: Final = 128
_TEXT: Final = Stage(images=15_000, batch_size=8, expressions=16, learning_rate=1e-3, sam_image_size=_SMALL)
_JOINT: Final = Stage(
    images=21_000,
    batch_size=8,
    expressions=12,
    learning_rate=7e-4,
    frozen_prefixes=("model.clip.visual.",),
    slow_prefixes=("model.sam.",),
    slow_factor=0.3,
    sam_image_size=_SMALL,
)
_FINE: Final = Stage(
    images=32_000,
    batch_size=32,
    expressions=16,
    learning_rate=1e-3,
    slow_prefixes=("model.clip.visual.",),
    slow_factor=0.3,
    sides=(256, 704),
    kind_weights=FINE_KIND_WEIGHTS,
    heads_alone=0.05,
)


def _smoke(stage: Stage) -> Stage:
    """A few steps of a stage."""
    size = stage.sam_image_size and _SMOKE_SMALL
    return dataclasses.replace(
        stage, images=8, batch_size=2, expressions=min(4, stage.expressions), learning_rate=1e-3, sam_image_size=size
    )


_STAGES: Final[Mapping[str, Stage]] = types.MappingProxyType(
    {
        # CLIP's text encoder and the linguistic attention learn the structure of expressions
        "text": _TEXT,
        # CLIP's image encoder learns the attributes, the place and the size of the shape at each patch
        "clip": dataclasses.replace(_TEXT, images=52_000, expressions=0, learning_rate=8e-4),
        # SAM learns masks from prompts: boxes, or a point
        "sam": dataclasses.replace(_TEXT, images=13_000, expressions=0, learning_rate=8e-4),
        # all parts but CLIP's image encoder learn the masks of expressions
        "joint": _JOINT,
        # the same, restarting at a high learning rate (warm restarts, Loshchilov and Hutter 2017)
        "refine": dataclasses.replace(_JOINT, images=36_000, slow_factor=0.5),
        # all parts, with SAM's input at its full size: edges, and small shapes
        "fine": _FINE,
        # the same, restarting at a lower learning rate, with more weight on expressions without a target
        "polish": dataclasses.replace(
            _FINE,
            images=46_000,
            learning_rate=5e-4,
            kind_weights=POLISH_KIND_WEIGHTS,
            heads_alone=0.0,
            no_target_weight=2.0,
        ),
    }
)

RECIPES: Final[Mapping[str, Recipe]] = types.MappingProxyType(
    {
        # the bundled model
        "shapes": Recipe(_SHAPES, _STAGES),
        # a few steps of every stage, for tests
        "smoke": Recipe(_SMOKE, {name: _smoke(stage) for name, stage in _STAGES.items()}, vocabulary_scenes=40),
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
