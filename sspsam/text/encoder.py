"""Reading expressions: what depends on the words alone, computed once and remembered for the latest ones."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sspsam.config import ModelConfig
from sspsam.errors import ConfigError, TextError
from sspsam.models import SSPSAM, ExpressionFeatures
from sspsam.text.tokenizer import Tokenizer, Word

_REMEMBERED: Final = 256  # about 160 kB each at the published widths
# encoded together: on a GPU as many as come; on a CPU, where that gains little, each alone, so that no answer depends,
# not even in its last bit, on which expressions were read in its company
_CHUNK: Final = {"cpu": 1}
_CHUNK_ELSEWHERE: Final = 64


class EncodedExpression(NamedTuple):
    """One expression, read."""

    text: str
    token_ids: NDArray[np.int64]  # (L,)
    features: ExpressionFeatures  # of one row


Tokenized = Sequence[tuple[str, NDArray[np.int64]]]
"""Texts and their (L,) token ids."""


class TextEncoder:
    """Turns texts into what the model makes of them; threads may share it.

    Args:
        model: encodes the token ids.
        config: what belongs to it.
    """

    def __init__(self, model: SSPSAM, config: ModelConfig) -> None:
        self._model = model
        self._tokenizer = Tokenizer(config.architecture.clip.context_length, config.preprocessing.text_template)
        has, needs = config.architecture.clip.vocab_size, self._tokenizer.vocab_size
        if has < needs:
            raise ConfigError(f"clip.vocab_size is {has}; CLIP's tokeniser has {needs} word pieces")
        self._latest: OrderedDict[bytes, ExpressionFeatures] = OrderedDict()
        self._lock = threading.Lock()

    def tokenize(self, texts: str | Sequence[str]) -> list[tuple[str, NDArray[np.int64]]]:
        """Check and tokenise all texts before anything is computed.

        Raises:
            TextError: an expression is empty or far too long; its place in the list is named.
            TypeError: not a string or a list of strings.
        """
        if isinstance(texts, str):
            return [(texts, self._tokenizer(texts))]
        if not isinstance(texts, Sequence | np.ndarray) or isinstance(texts, bytes | bytearray | memoryview):
            raise TypeError(f"expressions are a string or a list of strings, not {type(texts).__name__}")
        tokenized = []
        for index, text in enumerate(texts):
            try:
                tokenized.append((text, self._tokenizer(text)))
            except (TextError, TypeError) as error:
                raise type(error)(f"texts[{index}]: {error}") from None
        return tokenized

    def read(self, tokenized: Tokenized) -> list[EncodedExpression]:
        """Encode what is new, remember it, and return all in order."""
        with self._lock:
            known = {ids.tobytes(): self._latest.get(ids.tobytes()) for _, ids in tokenized}
        new = [key for key, features in known.items() if features is None]
        device = self._model.clip.text.positional_embedding.device
        chunk = _CHUNK.get(device.type, _CHUNK_ELSEWHERE)
        for start in range(0, len(new), chunk):
            keys = new[start : start + chunk]
            rows = np.stack([np.frombuffer(key, dtype=np.int64) for key in keys])
            encoded = self._model.encode_text(torch.from_numpy(rows).to(device)).split()
            # the rows of a chunk share its memory; one remembered row must not keep a whole chunk alive
            known.update(zip(keys, (ExpressionFeatures(*(t.clone() for t in row)) for row in encoded), strict=True))
        read = {key: features for key, features in known.items() if features is not None}
        self._remember(read)
        return [EncodedExpression(text, ids, read[ids.tobytes()]) for text, ids in tokenized]

    def forget(self) -> None:
        """Drop what is remembered, as when the model moves to another device."""
        with self._lock:
            self._latest.clear()

    def words(self, token_ids: NDArray[np.int64]) -> list[Word]:
        """The words of (L,) token ids; see `Tokenizer.words`."""
        return self._tokenizer.words(token_ids)

    def _remember(self, read: dict[bytes, ExpressionFeatures]) -> None:
        with self._lock:
            for key, features in read.items():
                self._latest[key] = features
                self._latest.move_to_end(key)
            while len(self._latest) > _REMEMBERED:
                self._latest.popitem(last=False)
