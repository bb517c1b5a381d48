"""Expressions -> CLIP's token ids, and token ids -> words."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from sspsam.errors import TextError, TextTypeError, warn
from sspsam.models.stock import SimpleTokenizer
from sspsam.utils.paths import kind_name

MAX_TEXT_CHARACTERS: Final = 20_000  # 75 tokens hold about 400
MAX_WORD_CHARACTERS: Final = 1_000  # the tokenizer's time grows with the square of a word's length
_MAX_CACHED_WORDS: Final = 100_000
_MAX_CACHED_WORD_LENGTH: Final = 64
_MAX_QUOTED_CHARACTERS: Final = 300
Value = TypeVar("Value")
# open_clip would read these strings as control tokens; in an expression they are ordinary words, so they are split
_CONTROL_TOKEN_SPLIT: Final = re.compile(r"(?<=<)(?=(?:start|end)_of_text>)", re.IGNORECASE)


class _BoundedWordCache(dict[str, Value]):
    """Something about words; open_clip's own cache has no bound.

    No entry is ever removed, so that threads never lose one between a check and a read.
    """

    def __setitem__(self, word: str, value: Value) -> None:
        if len(self) < _MAX_CACHED_WORDS and len(word) <= _MAX_CACHED_WORD_LENGTH:
            super().__setitem__(word, value)


class _CleanTextTokenizer(SimpleTokenizer):
    """open_clip's byte-pair encoding of text that is cleaned already, with a bounded cache.

    A second cleaning would unescape HTML twice and could create control tokens.
    """

    clean: Callable[[str], str]
    clean_fn: Callable[[str], str]
    cache: _BoundedWordCache[str]

    def __init__(self) -> None:
        super().__init__()
        self.clean, self.clean_fn = self.clean_fn, str
        self.cache = _BoundedWordCache(self.cache)


@dataclass(frozen=True)
class Word:
    """A word of a tokenised expression, and the text positions `start` to `stop` (exclusive) of its tokens."""

    text: str
    start: int
    stop: int


class Tokenizer:
    """CLIP's byte-pair encoding of one expression in the authors' template (`docs/method.md`, section 1).

    Args:
        context_length: L.
        template: holds `{}` once; the authors' template is `"{}."`.
    """

    def __init__(self, context_length: int, template: str) -> None:
        self.context_length = context_length
        self.template = template
        self._bpe = _CleanTextTokenizer()
        self._ids_of_words: _BoundedWordCache[list[int]] = _BoundedWordCache()
        self._template_ids = self._encode(self._sentence(""))

    def __call__(self, text: str) -> NDArray[np.int64]:
        """Return the token ids of one expression, (L,) int64; see `tokenize`."""
        return self.tokenize(text)[0]

    def tokenize(self, text: str) -> tuple[NDArray[np.int64], str | None]:
        """Return the token ids of one expression, and its words that are cut off.

        Args:
            text: expression; case and surrounding white space have no effect.

        Returns:
            (L,) int64, 0 = padding; and the words that have no place in it, None if there are none.

        Raises:
            TextError: only white space, longer than `MAX_TEXT_CHARACTERS`, or with a word longer than
                `MAX_WORD_CHARACTERS`.
            TextTypeError: not a string; also a `TypeError`.

        Warns:
            SSPSAMWarning: the expression has more than L tokens; the message quotes the words that are cut off.
        """
        row, cut_off = self.read(text)
        if cut_off is not None:
            warn(self.cut_off_message(text, cut_off))
        return row, cut_off

    def cut_off_message(self, text: str, cut_off: str) -> str:
        """Return a message about the words of an expression that are cut off."""
        return (
            f"the expression that begins {_shortened(text.strip()[:60])!r} is longer than {self.context_length} "
            f"tokens; these words are not read: {_shortened(cut_off)!r}"
        )

    def read(self, text: str) -> tuple[NDArray[np.int64], str | None]:
        """Return what `tokenize` returns, without a warning.

        Raises:
            TextError, TextTypeError: as `tokenize`.
        """
        if not isinstance(text, str):
            raise TextTypeError(f"an expression must be a string, not {kind_name(text)}")
        _check_length(text, self.context_length - 2)
        ids = self._encode(self._sentence(text.strip().lower()))
        if ids == self._template_ids:
            raise TextError(f"the expression {text!r} is empty; describe the target in words")
        room = self.context_length - 2
        cut_off = self._cut_off(ids[room:])
        row = np.zeros(self.context_length, dtype=np.int64)  # (L,)
        row[: min(len(ids), room) + 2] = [self._bpe.sot_token_id, *ids[:room], self._bpe.eot_token_id]
        return row, cut_off

    def words(self, token_ids: NDArray[np.int64]) -> list[Word]:
        """Return the words of (L,) token ids, without start and end markers; punctuation counts as words."""
        words: list[Word] = []
        start, end = 1, int(token_ids.argmax())  # the end marker has the largest id
        for position in range(start, end):
            if self._bpe.decoder[int(token_ids[position])].endswith("</w>"):
                words.append(self._word(token_ids, start, position + 1))
                start = position + 1
        if start < end:  # the last word was cut off in its middle
            words.append(self._word(token_ids, start, end))
        return words

    def _word(self, token_ids: NDArray[np.int64], start: int, stop: int) -> Word:
        return Word(self._bpe.decode(token_ids[start:stop].tolist()).strip(), start, stop)

    @property
    def vocab_size(self) -> int:
        """Number of different token ids."""
        return int(self._bpe.vocab_size)

    def _sentence(self, text: str) -> str:
        return self.template.replace("{}", text)

    def _encode(self, sentence: str) -> list[int]:
        pieces = _CONTROL_TOKEN_SPLIT.split(self._cleaned(sentence))
        words = (word for piece in pieces for word in self._bpe.pat.findall(piece))
        return [token for word in words for token in self._word_ids(word)]

    def _cleaned(self, sentence: str) -> str:
        """Repair the encoding, unescape HTML, and join the words with single spaces, in lower case."""
        if sentence.isascii() and sentence.isprintable() and "&" not in sentence:  # nothing to repair or to unescape
            return " ".join(sentence.split()).lower()
        return self._bpe.clean(sentence)

    def _word_ids(self, word: str) -> list[int]:
        """Return the token ids of a word, as open_clip's pattern divides a text into words."""
        ids = self._ids_of_words.get(word)
        if ids is None:
            ids = self._ids_of_words[word] = self._bpe.encode(word)
        return ids

    def _cut_off(self, dropped: list[int]) -> str | None:
        """Return the words of the token ids that do not fit; None if they belong to the template alone."""
        # the end of the template is not part of the user's expression; cutting it off loses nothing
        if dropped[-len(self._template_ids) :] == self._template_ids:
            dropped = dropped[: len(dropped) - len(self._template_ids)]
        return self._bpe.decode(dropped).strip() if dropped else None


def _check_length(text: str, most_tokens: int) -> None:
    if len(text) > MAX_TEXT_CHARACTERS:
        raise TextError(
            f"the expression has {len(text):,} characters (it begins {text[:40]!r}); at most "
            f"{MAX_TEXT_CHARACTERS:,} are allowed, and only {most_tokens} tokens are read"
        )
    longest = max(text.split(), key=len, default="")
    if len(longest) > MAX_WORD_CHARACTERS:
        raise TextError(
            f"the expression has a word of {len(longest):,} characters ({longest[:40]!r}...); at most "
            f"{MAX_WORD_CHARACTERS:,} are allowed"
        )


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_QUOTED_CHARACTERS else text[:_MAX_QUOTED_CHARACTERS] + " ..."
