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
# every word of the world, polite ones too; what is not here is a word of the wide world
_WORDS = """
    red green blue yellow purple orange white black pink cyan
    circle circles disc discs disk disks square squares box boxes triangle triangles star stars cross crosses
    plus sign plus signs plus pluses ring rings diamond diamonds heart hearts
    shape shapes object objects thing things one ones item items figure figures
    small little tiny large big huge largest biggest smallest larger smaller bigger
    a an the all every each any some of them both everything nothing anything is are it that which there this
    these those
    zero two three four five six seven eight nine ten no none single only just exactly 1 2 3 4 5 6 7 8
    left right very central top bottom middle center centre corner corners upper lower leftmost rightmost topmost
    bottommost highest
    lowest uppermost furthest farthest closest nearest far most side edge half on at in to by from near with
    above below over under underneath beneath beside next left-most right-most top-most bottom-most
    except but without other than besides not apart excluding save for
    please show me can could would you find i mean want need like see look point segment select mark highlight
    pick
    give us we my where what out get locate identify outline cut and or as well thanks thank kindly let 's
    picture image scene drawing canvas here colored coloured color colour shaped sized hello hi hey ok
"""
WORDS: Final = tuple(_WORDS.split())
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
    *("left-most red", "plus-sign red", "let's red", "i'd red", "(red) red", '"red" red', "red-red"),
)
