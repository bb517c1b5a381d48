"""Models, expressions and images that the benchmarks share."""

from dataclasses import replace

import numpy as np
from PIL import Image
from torch import Tensor

from sspsam.checkpoints.authors_layout import our_name, unused
from sspsam.config import PUBLISHED, Architecture
from sspsam.shapes import draw_scene

WORDS = (
    *("red", "green", "large", "small", "left", "right", "top", "the"),
    *("of", "mug", "cat", "dog", "on", "near", "two"),
)


def architecture(size: str) -> Architecture:
    """Return a published architecture, `"336"` or `"224"`, or a small one for `"quick"`."""
    if size != "quick":
        return PUBLISHED[size]
    full = PUBLISHED["224"]
    sam = replace(full.sam, width=128, layers=2, heads=2, mlp_width=256, global_blocks=(1,))
    clip = replace(full.clip, vision_layers=7, vision_width=192, vision_heads=3, vision_mlp_width=768, text_layers=2)
    return replace(full, clip=clip, sam=sam)


def model_state(authors_state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the used tensors of an authors' checkpoint to the library's names."""
    names = {name: our_name(name) for name in set(authors_state) - set(unused(authors_state))}
    return {renamed: authors_state[name] for name, renamed in names.items() if renamed is not None}


def expressions(seed: int, count: int) -> list[str]:
    """Return random expressions; the seed and a number make each of them unique, so that none is cached."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, 6)) + f" {seed} {number}" for number in range(count)]


def drawn_image(seed: int) -> Image.Image:
    """Return a drawn image of 1080 x 720 pixels, the aspect ratio of a camera."""
    return Image.fromarray(draw_scene(seed, (720, 1080)).pixels)
