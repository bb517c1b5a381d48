"""Expressions -> text features, which depend on no image; the features of the latest expressions are cached."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sspsam.config import ModelConfig
from sspsam.devices import host_buffer, naming_out_of_memory
from sspsam.errors import ConfigError, TextError, TextTypeError
from sspsam.identity import PredictorIdentity
from sspsam.messages import message_of
from sspsam.models import DeviceModel, ExpressionFeatures
from sspsam.models.device_model import expressions_per_pass
from sspsam.models.streams import Finished
from sspsam.text.tokenizer import Tokenizer, Word
from sspsam.utils.paths import kind_name

_CACHED_EXPRESSIONS: Final = 256  # about 160 kB each at the published widths
# expressions in one pass of the text encoder. On a CPU a larger batch gains little, and one at a time keeps the last
# bits of the features independent of the other expressions in the list
_ON_CPU: Final = 1


class TokenizedExpression(NamedTuple):
    """An expression, its token ids, and its words that are cut off."""

    text: str
    token_ids: NDArray[np.int64]  # (L,)
    cut_off: str | None


class _CachedRow(NamedTuple):
    """The features of one expression, among those of the batch that it was encoded in."""

    batch: ExpressionFeatures
    row: int
    finished: Finished  # the computation of the batch

    def alone(self, device: torch.device) -> "_CachedRow":
        """Return the same features, with E = 1, for the current stream; they keep no other row of the batch."""
        self.finished.wait(self.batch)
        if len(self.batch.padding) == 1:
            return self
        features = ExpressionFeatures(*(tensor[self.row : self.row + 1].clone() for tensor in self.batch))
        return _CachedRow(features, 0, Finished(device))


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

    def __init__(self, model: DeviceModel, tokenizer: Tokenizer, identity: PredictorIdentity) -> None:
        self._model, self.tokenizer, self._device = model, tokenizer, identity.device
        # token ids -> features, oldest first. A batch stays in memory as a whole until its rows are used again or old.
        self._cache: OrderedDict[bytes, _CachedRow] = OrderedDict()
        self._lock = threading.Lock()

    @naming_out_of_memory("not enough memory to read the expressions")
    def tokenize(self, texts: str | Sequence[str]) -> list[TokenizedExpression]:
        """Check and tokenise all texts before anything is computed.

        Raises:
            TextError: an expression is empty or far too long; the message gives its index in the list.
            TextTypeError: not a string or a list of strings; also a `TypeError`.
        """
        if isinstance(texts, str):
            return [TokenizedExpression(texts, *self.tokenizer.tokenize(texts))]
        if not isinstance(texts, Sequence | np.ndarray) or isinstance(texts, bytes | bytearray | memoryview):
            raise TextTypeError(f"expressions must be a string or a list of strings, not {kind_name(texts)}")
        tokenized = []
        for index, text in enumerate(texts):
            try:
                tokenized.append(TokenizedExpression(text, *self.tokenizer.tokenize(text)))
            except TextError as error:
                raise error.with_message(f"texts[{index}]: ", message_of(error)) from None
        return tokenized

    def encode(self, expressions: Sequence[TokenizedExpression]) -> ExpressionFeatures:
        """Return the features of E expressions; call it inside `inference_context`.

        Only expressions that are not cached are encoded.
        """
        keys = [expression.token_ids.tobytes() for expression in expressions]
        with self._lock:
            rows = {key: self._cache[key].alone(self._device) for key in keys if key in self._cache}
        new_keys = [key for key in dict.fromkeys(keys) if key not in rows]
        batch_size = _ON_CPU if self._device.type == "cpu" else expressions_per_pass(self._device)
        batches = [new_keys[start : start + batch_size] for start in range(0, len(new_keys), batch_size)]
        for batch in batches:
            features = self._compute(batch)
            finished = Finished(self._device)
            rows.update((key, _CachedRow(features, row, finished)) for row, key in enumerate(batch))
        self._store({key: rows[key] for key in keys})
        if batches == [keys]:  # all are new: the batch need not be taken apart and joined again
            return rows[keys[0]].batch
        return ExpressionFeatures.join([rows[key].alone(self._device).batch for key in keys])

    def words(self, token_ids: NDArray[np.int64]) -> list[Word]:
        """Return the words of (L,) token ids; see `Tokenizer.words`."""
        return self.tokenizer.words(token_ids)

    def _compute(self, keys: Sequence[bytes]) -> ExpressionFeatures:
        """Encode a batch of E expressions, given by the bytes of their token ids."""
        rows = [np.frombuffer(key, dtype=np.int64) for key in keys]
        # a GPU may still encode the image, which the upload must not wait for
        token_ids = host_buffer((len(rows), len(rows[0])), torch.int64, self._device)  # (E, L)
        np.stack(rows, out=token_ids.numpy())
        return self._model.encode_text(token_ids.to(self._device, non_blocking=self._device.type == "cuda"))

    def _store(self, rows: dict[bytes, _CachedRow]) -> None:
        with self._lock:
            for key, row in rows.items():
                self._cache[key] = row
                self._cache.move_to_end(key)
            while len(self._cache) > _CACHED_EXPRESSIONS:
                self._cache.popitem(last=False)
