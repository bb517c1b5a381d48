"""Expressions as CLIP's token ids, and token ids as words again."""

import re
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sspsam.errors import TextError, warn
from sspsam.models.stock import SimpleTokenizer

MAX_TEXT_CHARACTERS: Final = 20_000  # 75 tokens hold about 400
MAX_WORD_CHARACTERS: Final = 1_000  # the tokeniser's time grows with the square of a word's length
_MAX_CACHED_WORDS: Final = 100_000
_MAX_CACHED_LENGTH: Final = 64
# open_clip would turn these into control tokens in the middle of a sentence; in a user's words they are just words
_CONTROL: Final = re.compile(r"(?<=<)(?=(?:start|end)_of_text>)", re.IGNORECASE)


class _WordCache(dict[str, str]):
    """The pieces of words seen; open_clip would remember every word for ever, and threads must not see one vanish."""

    def __setitem__(self, word: str, pieces: str) -> None:
        if len(self) < _MAX_CACHED_WORDS and len(word) <= _MAX_CACHED_LENGTH:
            super().__setitem__(word, pieces)


@dataclass(frozen=True)
class Word:
    """A word of a tokenised expression and the text positions it takes."""

    text: str
    start: int
    stop: int


class Tokenizer:
    """CLIP's byte-pair encoding of one expression after the authors' template (section 1).

    Args:
        context_length: L.
        template: holds `{}` once; the authors' is `"{}."`.
    """

    def __init__(self, context_length: int, template: str) -> None:
        self.context_length = context_length
        self.template = template
        self._bpe = SimpleTokenizer()
        self._bpe.cache = _WordCache(self._bpe.cache)
        # cleaned once, here: cleaning twice would unescape twice, and so make new control tokens
        self._clean, self._bpe.clean_fn = self._bpe.clean_fn, str
        self._nothing = self._encode(self._sentence(""))

    def __call__(self, text: str) -> NDArray[np.int64]:
        """Token ids of one expression.

        Args:
            text: what to look for; case and surrounding white space do not matter.

        Returns:
            (L,) int64, 0 = padding.

        Raises:
            TextError: nothing but white space, longer than `MAX_TEXT_CHARACTERS`, or with a word longer than
                `MAX_WORD_CHARACTERS`.
            TypeError: not a string.

        Warns:
            SSPSAMWarning: the expression has more tokens than L; the message quotes what was cut off.
        """
        if not isinstance(text, str):
            raise TypeError(f"an expression is a string, not {type(text).__name__}")
        if len(text) > MAX_TEXT_CHARACTERS:
            raise TextError(
                f"the expression has {len(text):,} characters (it begins {text[:40]!r}); at most "
                f"{MAX_TEXT_CHARACTERS:,} can be, and only about {self.context_length} word pieces are read"
            )
        longest = max(text.split(), key=len, default="")
        if len(longest) > MAX_WORD_CHARACTERS:
            raise TextError(
                f"the expression has a word of {len(longest):,} characters ({longest[:40]!r}...); at most "
                f"{MAX_WORD_CHARACTERS:,} can be"
            )
        ids = self._encode(self._sentence(text.strip().lower()))
        if ids == self._nothing:
            raise TextError(f"the expression {text!r} is empty; say what to look for")
        room = self.context_length - 2
        if len(ids) > room:
            self._warn(text, ids[room:])
        row = np.zeros(self.context_length, dtype=np.int64)
        row[: min(len(ids), room) + 2] = [self._bpe.sot_token_id, *ids[:room], self._bpe.eot_token_id]
        return row

    def words(self, token_ids: NDArray[np.int64]) -> list[Word]:
        """The words of (L,) token ids, start and end markers left out, punctuation as words of its own."""
        words: list[Word] = []
        start = 1
        for position in range(1, int(token_ids.argmax())):
            if self._bpe.decoder[int(token_ids[position])].endswith("</w>"):
                text = self._bpe.decode(token_ids[start : position + 1].tolist()).strip()
                words.append(Word(text, start, position + 1))
                start = position + 1
        end = int(token_ids.argmax())
        if start < end:  # a word that was cut off in its middle
            words.append(Word(self._bpe.decode(token_ids[start:end].tolist()).strip(), start, end))
        return words

    @property
    def vocab_size(self) -> int:
        """How many different ids there can be."""
        return int(self._bpe.vocab_size)

    def _sentence(self, text: str) -> str:
        return self.template.replace("{}", text)

    def _encode(self, sentence: str) -> list[int]:
        return [token for piece in _CONTROL.split(self._clean(sentence)) for token in self._bpe.encode(piece)]

    def _warn(self, text: str, dropped: list[int]) -> None:
        # the full stop of the template is not the user's, so cutting it alone loses nothing
        if dropped[-len(self._nothing) :] == self._nothing:
            dropped = dropped[: len(dropped) - len(self._nothing)]
        if dropped:
            lost = self._bpe.decode(dropped).strip()
            begins, lost = (each if len(each) <= 300 else each[:300] + " ..." for each in (text.strip()[:60], lost))
            warn(
                f"the expression that begins {begins!r} is longer than {self.context_length} tokens; not read: {lost!r}"
            )
