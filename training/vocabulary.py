"""The few hundred words of the shapes world out of CLIP's 49,408, and one row for all the others.

While a model is in training its token embedding has a row for each word of the world, and one that every other word
shares: what the words of the wide world mean is learnt from a handful and holds for all of them. `spread` then writes
the embedding out for CLIP's own tokeniser.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sspsam.shapes import ask, draw_scene
from sspsam.text.tokenizer import Tokenizer
from training.recipe import PHRASES, Recipe


class Vocabulary:
    """Token ids of the world, renumbered: 0 padding, 1 unknown, then the known, the end of text last.

    Args:
        known: CLIP's ids, ascending, start and end of text left out.
        size: rows of the embedding in training.
        tokenizer: CLIP's.
    """

    def __init__(self, known: Sequence[int], size: int, tokenizer: Tokenizer) -> None:
        start, end = tokenizer.vocab_size - 2, tokenizer.vocab_size - 1
        if len(known) + 4 > size:
            raise ValueError(f"{len(known)} words do not fit into {size} rows")
        self.known, self.size, self.tokenizer = list(known), size, tokenizer
        self._rows = torch.ones(tokenizer.vocab_size, dtype=torch.int64)
        self._rows[0] = 0  # padding; as a word, "!" is unknown and harmless: it never comes alone
        self._rows[torch.tensor(self.known)] = torch.arange(2, 2 + len(self.known))
        self._rows[start], self._rows[end] = size - 2, size - 1

    @classmethod
    def of(cls, texts: Iterable[str], size: int, tokenizer: Tokenizer) -> "Vocabulary":
        """All the words of some texts."""
        ids = {int(token) for text in texts for token in tokenizer(text)}
        return cls(sorted(ids - {0, tokenizer.vocab_size - 2, tokenizer.vocab_size - 1}), size, tokenizer)

    @classmethod
    def load(cls, path: Path, tokenizer: Tokenizer) -> "Vocabulary":
        """What `save` wrote."""
        content = json.loads(path.read_text())
        return cls(content["known"], content["size"], tokenizer)

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps({"size": self.size, "known": self.known}))

    def read(self, text: str) -> Tensor:
        """(L,) renumbered token ids of an expression."""
        return self._rows[torch.from_numpy(self.tokenizer(text))]

    def spread(self, embedding: Tensor) -> Tensor:
        """(size, width) rows of a trained embedding -> (49408, width) for CLIP's tokeniser."""
        return embedding[self._rows]

    def gather(self, embedding: Tensor) -> Tensor:
        """What `spread` was made of: (49408, width) -> (size, width); rows of no word are zero."""
        rows = torch.zeros(self.size, embedding.shape[1])
        rows[self._rows] = embedding
        return rows


def vocabulary_of(recipe: Recipe, run: Path) -> Vocabulary:
    """The vocabulary of a run, made at its first need and kept in its folder."""
    config = recipe.config
    tokenizer = Tokenizer(config.architecture.clip.context_length, config.preprocessing.text_template)
    file = run / "vocabulary.json"
    if file.exists():
        return Vocabulary.load(file, tokenizer)
    texts = (*PHRASES, *words_of_the_world(recipe.vocabulary_scenes))
    vocabulary = Vocabulary.of(texts, recipe.vocabulary_rows, tokenizer)
    vocabulary.save(file)
    return vocabulary


def words_of_the_world(scenes: int) -> Iterator[str]:
    """Expressions about some scenes, none about things of the wide world."""
    for seed in range(scenes):
        for question in ask(draw_scene(seed, (96, 96)), seed, 30):
            if "foreign" not in question.kind:
                yield question.text
