"""What is trained, on how much, and how fast it learns: every number of the recipe."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sspsam.config import Architecture, CLIPConfig, Postprocessing, Preprocessing, SAMConfig, SSPConfig

ARCHITECTURE: Final = Architecture(
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
        generator_layers=4,
        generator_mlp_width=256,
    ),
)
PREPROCESSING: Final = Preprocessing()
POSTPROCESSING: Final = Postprocessing()


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
    """

    images: int
    batch: int
    expressions: int
    learning_rate: float
    weight_decay: float = 0.02
    warmup: float = 0.04


STAGES: Final[Mapping[str, Stage]] = {
    # CLIP's image encoder learns which patch shows what, where, and how large
    "clip": Stage(images=26_000, batch=8, expressions=0, learning_rate=8e-4),
    # SAM learns the mask of what a box or a point shows
    "sam": Stage(images=14_000, batch=8, expressions=0, learning_rate=8e-4),
    # everything learns the masks of expressions
    "joint": Stage(images=26_000, batch=8, expressions=10, learning_rate=8e-4),
}


def smaller(stage: Stage, images: int) -> Stage:
    """The same stage on fewer scenes."""
    return dataclasses.replace(stage, images=images)


VOCABULARY_ROWS: Final = 512
VOCABULARY_SCENES: Final = 2000  # enough to hear every word of the world
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
