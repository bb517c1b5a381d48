"""Negative expressions with an empty mask, which keep unknown words from matching the new class."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from sspsam.finetuning.examples import Example
from sspsam.shapes.words import FOREIGN
from sspsam.text.tokenizer import Tokenizer

_TEMPLATES: Final = ("the {}", "a {}", "{}", "the {} on the left", "all the {}")


@dataclass(frozen=True)
class Negatives:
    """Phrases that refer to nothing in any of the images.

    Args:
        texts: of the phrases.
        token_ids: (L,) of each.
        share: of the images that get a phrase.
    """

    texts: Sequence[str]
    token_ids: Sequence[NDArray[np.int64]]
    share: float

    @classmethod
    def of(cls, phrases: Iterable[str], tokenizer: Tokenizer, share: float) -> Self | None:
        """Tokenise phrases; None without a phrase or with a share of 0."""
        texts = list(dict.fromkeys(phrases))
        if not texts or share == 0:
            return None
        return cls(texts, [tokenizer(text) for text in texts], share)

    def examples(self, images: Sequence[str], rng: np.random.Generator) -> list[Example]:
        """Return an example with an empty mask for a random part of the images, given by their keys."""
        chosen = [image for image in images if rng.random() < self.share]
        numbers = rng.integers(len(self.texts), size=len(chosen))
        return [
            Example(image, self.texts[n], self.token_ids[n], None, None)
            for image, n in zip(chosen, numbers, strict=True)
        ]


def foreign_phrases(known_texts: Iterable[str], tokenizer: Tokenizer) -> list[str]:
    """Return phrases about things that drawn scenes lack, without those that share a word with the user's expressions.

    Args:
        known_texts: expressions whose things the images may show.
        tokenizer: of the model.
    """
    frame = {int(token) for template in _TEMPLATES for token in tokenizer(template.format("x"))}
    used = {int(token) for text in known_texts for token in tokenizer.read(text)[0]} - frame
    things = [thing for thing in FOREIGN if not used & {int(token) for token in tokenizer(thing)}]
    return [template.format(thing) for thing in things for template in _TEMPLATES]
