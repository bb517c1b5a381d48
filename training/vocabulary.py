"""The few hundred tokens of the shapes world out of CLIP's 49,408, and one embedding row for all other tokens.

During training the token embedding has one row for each known token, and one that all unknown tokens share: the model
learns it from about a hundred foreign nouns, and it then applies to every other word. `expand_embedding` writes the
trained embedding out for CLIP's tokenizer.
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
    """A renumbering of CLIP's token ids.

    0 is padding, 1 an unknown token, then come the known tokens, and the last two are start and end of text.

    Args:
        known: known ids of CLIP, ascending, without start and end of text.
        size: number of rows of the embedding in training.
        tokenizer: CLIP's tokenizer.

    Raises:
        ValueError: the known tokens do not fit into `size` rows.
    """

    def __init__(self, known: Sequence[int], size: int, tokenizer: Tokenizer) -> None:
        start, end = tokenizer.vocab_size - 2, tokenizer.vocab_size - 1
        if len(known) + 4 > size:
            raise ValueError(f"{len(known)} known tokens and 4 special ones do not fit into {size} embedding rows")
        self.known, self.size, self.tokenizer = list(known), size, tokenizer
        self._rows = torch.ones(tokenizer.vocab_size, dtype=torch.int64)
        self._rows[0] = 0  # padding; also the token "!", which never occurs alone and may therefore share its row
        self._rows[torch.tensor(self.known)] = torch.arange(2, 2 + len(self.known))
        self._rows[start], self._rows[end] = size - 2, size - 1

    @classmethod
    def from_texts(cls, texts: Iterable[str], size: int, tokenizer: Tokenizer) -> "Vocabulary":
        """Collect all tokens of some texts."""
        ids = {int(token) for text in texts for token in tokenizer(text)}
        return cls(sorted(ids - {0, tokenizer.vocab_size - 2, tokenizer.vocab_size - 1}), size, tokenizer)

    @classmethod
    def load(cls, path: Path, tokenizer: Tokenizer) -> "Vocabulary":
        """Load a file that `save` wrote."""
        content = json.loads(path.read_text())
        return cls(content["known"], content["size"], tokenizer)

    def save(self, path: Path) -> None:
        """Write the vocabulary as JSON."""
        path.write_text(json.dumps({"size": self.size, "known": self.known}))

    def encode(self, text: str) -> Tensor:
        """Return the (L,) renumbered token ids of an expression."""
        return self._rows[torch.from_numpy(self.tokenizer(text))]

    def expand_embedding(self, embedding: Tensor) -> Tensor:
        """(size, width) rows of a trained embedding -> (49408, width) for CLIP's tokenizer."""
        return embedding[self._rows]

    def reduce_embedding(self, embedding: Tensor) -> Tensor:
        """Invert `expand_embedding`: (49408, width) -> (size, width); rows without a token are zero."""
        rows = torch.zeros(self.size, embedding.shape[1])
        rows[self._rows] = embedding
        return rows


def load_or_create_vocabulary(recipe: Recipe, run: Path) -> Vocabulary:
    """Load the vocabulary of a run from its folder, or create it there."""
    config = recipe.config
    tokenizer = Tokenizer(config.architecture.clip.context_length, config.preprocessing.text_template)
    file = run / "vocabulary.json"
    if file.exists():
        return Vocabulary.load(file, tokenizer)
    texts = (*PHRASES, *_texts_of_the_world(recipe.vocabulary_scenes))
    vocabulary = Vocabulary.from_texts(texts, recipe.vocabulary_rows, tokenizer)
    vocabulary.save(file)
    return vocabulary


def _texts_of_the_world(scenes: int) -> Iterator[str]:
    """Yield expressions about some scenes, without those that name foreign objects."""
    for seed in range(scenes):
        for question in ask(draw_scene(seed, (96, 96)), seed, 30):
            if "foreign" not in question.kind:
                yield question.text
