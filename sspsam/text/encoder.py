"""Expressions -> text features, which depend on no image; the features of the latest expressions are cached."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sspsam.config import ModelConfig
from sspsam.errors import ConfigError, TextError, TextTypeError
from sspsam.identity import PredictorIdentity
from sspsam.models import SSPSAM, ExpressionFeatures
from sspsam.text.tokenizer import Tokenizer, Word

_CACHED_EXPRESSIONS: Final = 256  # about 160 kB each at the published widths
# expressions in one pass of the text encoder. On a CPU a larger batch gains little, and one at a time keeps the last
# bits of the features independent of the other expressions in the list
_BATCH_SIZE: Final = {"cpu": 1}
_GPU_BATCH_SIZE: Final = 64


class TokenizedExpression(NamedTuple):
    """An expression, its token ids, and its words that are cut off."""

    text: str
    token_ids: NDArray[np.int64]  # (L,)
    cut_off: str | None


class EncodedExpression(NamedTuple):
    """An expression, its token ids, its features, and its words that are cut off."""

    text: str
    token_ids: NDArray[np.int64]  # (L,)
    features: ExpressionFeatures  # with E = 1
    cut_off: str | None


def tokenizer_for(config: ModelConfig) -> Tokenizer:
    """Return the tokenizer of a model.

    Raises:
        ConfigError: the model's vocabulary is too small for CLIP's tokenizer.
    """
    tokenizer = Tokenizer(config.architecture.clip.context_length, config.preprocessing.text_template)
    vocab_size = config.architecture.clip.vocab_size
    if vocab_size < tokenizer.vocab_size:
        raise ConfigError(f"clip.vocab_size is {vocab_size}; CLIP's tokenizer needs {tokenizer.vocab_size}")
    return tokenizer


class TextEncoder:
    """Tokenise and encode expressions; threads may share an encoder.

    Args:
        model: on the identity's device.
        tokenizer: of the model.
        identity: of the predictor.
    """

    def __init__(self, model: SSPSAM, tokenizer: Tokenizer, identity: PredictorIdentity) -> None:
        self._model, self.tokenizer, self._device = model, tokenizer, identity.device
        self._cache: OrderedDict[bytes, ExpressionFeatures] = OrderedDict()  # token ids -> features, oldest first
        self._lock = threading.Lock()

    def tokenize(self, texts: str | Sequence[str]) -> list[TokenizedExpression]:
        """Check and tokenise all texts before anything is computed.

        Raises:
            TextError: an expression is empty or far too long; the message gives its index in the list.
            TextTypeError: not a string or a list of strings; also a `TypeError`.
        """
        if isinstance(texts, str):
            return [TokenizedExpression(texts, *self.tokenizer.tokenize(texts))]
        if not isinstance(texts, Sequence | np.ndarray) or isinstance(texts, bytes | bytearray | memoryview):
            raise TextTypeError(f"expressions must be a string or a list of strings, not {type(texts).__name__}")
        tokenized = []
        for index, text in enumerate(texts):
            try:
                tokenized.append(TokenizedExpression(text, *self.tokenizer.tokenize(text)))
            except TextError as error:
                raise type(error)(f"texts[{index}]: {error}") from None
        return tokenized

    def encode(self, expressions: Sequence[TokenizedExpression]) -> list[EncodedExpression]:
        """Encode the expressions that are not cached, and return all in order; call it inside `inference_context`."""
        keys = [expression.token_ids.tobytes() for expression in expressions]
        with self._lock:
            features = {key: self._cache[key] for key in keys if key in self._cache}
        new_keys = [key for key in dict.fromkeys(keys) if key not in features]
        batch_size = _BATCH_SIZE.get(self._device.type, _GPU_BATCH_SIZE)
        for start in range(0, len(new_keys), batch_size):
            batch = new_keys[start : start + batch_size]
            features.update(zip(batch, self._compute(batch), strict=True))
        self._store({key: features[key] for key in keys})
        return [
            EncodedExpression(expression.text, expression.token_ids, features[key], expression.cut_off)
            for expression, key in zip(expressions, keys, strict=True)
        ]

    def words(self, token_ids: NDArray[np.int64]) -> list[Word]:
        """Return the words of (L,) token ids; see `Tokenizer.words`."""
        return self.tokenizer.words(token_ids)

    def _compute(self, keys: Sequence[bytes]) -> list[ExpressionFeatures]:
        """Encode a batch of E expressions, given by the bytes of their token ids."""
        token_ids = np.stack([np.frombuffer(key, dtype=np.int64) for key in keys])  # (E, L)
        encoded = self._model.encode_text(torch.from_numpy(token_ids).to(self._device)).split()
        # cloned: rows of a batch share its memory, and one cached row must not keep the whole batch alive
        return [ExpressionFeatures(*(tensor.clone() for tensor in row)) for row in encoded]

    def _store(self, features: dict[bytes, ExpressionFeatures]) -> None:
        with self._lock:
            for key, value in features.items():
                self._cache[key] = value
                self._cache.move_to_end(key)
            while len(self._cache) > _CACHED_EXPRESSIONS:
                self._cache.popitem(last=False)
