"""The parts of a network that learn, and their groups of parameters.

Tokens that share their row of the token embedding with other tokens cannot be told apart: a model that never saw a word
has no reason to give it a row of its own. If such a row learned, every foreign word would come to mean the new thing.
Each such token of the expressions therefore gets a row of its own, a copy of the shared one, and only these rows learn.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sspsam.errors import FinetuningError
from sspsam.finetuning.options import FinetuneOptions
from sspsam.models import SSPSAM, ExpressionFeatures, TextFeatures

_TABLE: Final = "clip.text.token_embedding.weight"
_ROWS: Final = "token_rows"
# parts of each name of `PARTS`, and those in them that have no gradient: they belong to the predicted IoU and to masks
# that are not computed
_PREFIXES: Final[Mapping[str, tuple[str, ...]]] = {
    "ssp": ("ssp.",),
    "decoder": ("sam.mask_decoder.",),
    "text": ("clip.text.",),
}
_UNUSED: Final = (
    "sam.mask_decoder.iou_prediction_head.",
    *(f"sam.mask_decoder.output_hypernetworks_mlps.{index}." for index in range(1, 64)),
    _TABLE,  # of which only rows learn
)


@dataclass(frozen=True)
class TokenRows:
    """Rows of the token embedding that learn.

    Args:
        ids: (K,) token ids.
        rows: (K, text width), the parameter.
    """

    ids: Tensor
    rows: nn.Parameter


class TrainableModel:
    """A network with the parts that learn; its own weights change in place, except the token rows.

    Args:
        model: the network in float32, frozen; the parts that learn are copied, so that no file changes.
        parts: of `PARTS`.
        token_ids: of all expressions, for the part `tokens`.

    Raises:
        FinetuningError: only `tokens` learn, and no token shares its row with others.
    """

    def __init__(self, model: SSPSAM, parts: Iterable[str], token_ids: Tensor) -> None:
        self.model, self.parts = model, tuple(parts)
        self.by_part = {part: _parameters(model, part) for part in self.parts if part != "tokens"}
        for parameter in self._model_parameters():
            parameter.data = parameter.data.clone()  # its memory may be a mapped file
            parameter.requires_grad_(True)
        self.tokens = _token_rows(model, token_ids) if "tokens" in self.parts else None
        if self.parts == ("tokens",) and self.tokens is None:
            raise FinetuningError(
                "no token of the expressions shares its row of the token embedding with others, so tokens alone have "
                "nothing to learn: train ssp and decoder, or text"
            )

    def groups(self, options: FinetuneOptions) -> list[dict[str, Any]]:
        """Return the parameter groups of the optimizer, each with its peak rate as `peak`."""
        rates = {"ssp": options.learning_rate, "decoder": options.decoder_rate, "text": options.learning_rate}
        groups = [
            {
                "params": list(parameters.values()),
                "name": part,
                "peak": rates[part],
                "weight_decay": options.weight_decay,
            }
            for part, parameters in self.by_part.items()
        ]
        if self.tokens is not None:
            rows = {"params": [self.tokens.rows], "name": "tokens", "peak": options.token_rate, "weight_decay": 0.0}
            groups.append(rows)
        return groups

    def set_decoder_frozen(self, frozen: bool) -> None:
        """Leave the decoder out of the gradients, or take it in; it is never left out where nothing else learns."""
        learning = [part for part, parameters in self.by_part.items() if parameters and part != "decoder"]
        frozen = frozen and (bool(learning) or self.tokens is not None)
        for parameter in self.by_part.get("decoder", {}).values():
            parameter.requires_grad_(not frozen)
            if frozen:
                parameter.grad = None

    def encode_text(self, token_ids: Tensor) -> ExpressionFeatures:
        """Encode E expressions as `SSPSAM.encode_text` does, with the token rows that learn; (E, L) integers."""
        if self.tokens is None:
            return self.model.encode_text(token_ids)
        table = self.model.clip.text.token_embedding.weight.index_copy(0, self.tokens.ids, self.tokens.rows)
        text: TextFeatures = functional_call(self.model.clip.text, {"token_embedding.weight": table}, (token_ids,))
        padding = token_ids == 0  # (E, L)
        language = self.model.ssp.linguistic_attention_adapter(text.words, padding)
        return ExpressionFeatures(padding, text.sentence, *language)

    def parameters(self) -> list[nn.Parameter]:
        """Return everything that learns, in a fixed order."""
        return [*self._model_parameters(), *([] if self.tokens is None else [self.tokens.rows])]

    def state(self) -> dict[str, Tensor]:
        """Return everything that learns, by name."""
        named = {name: parameter for parameters in self.by_part.values() for name, parameter in parameters.items()}
        rows = {} if self.tokens is None else {_ROWS: self.tokens.rows}
        return {name: tensor.detach().cpu().clone() for name, tensor in (named | rows).items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Load the result of `state`."""
        named = {name: parameter for parameters in self.by_part.values() for name, parameter in parameters.items()}
        rows = {} if self.tokens is None else {_ROWS: self.tokens.rows}
        with torch.no_grad():
            for name, parameter in (named | rows).items():
                parameter.copy_(state[name])
        self.write_token_rows()

    def write_token_rows(self) -> None:
        """Write the token rows into the token embedding, which the network itself reads."""
        if self.tokens is not None:
            with torch.no_grad():
                self.model.clip.text.token_embedding.weight[self.tokens.ids] = self.tokens.rows.detach()

    def to(self, device: torch.device) -> None:
        """Move all but the image encoders, which do not run, to a device."""
        model = self.model
        for module in (model.ssp, model.clip.text, model.sam.prompt_encoder, model.sam.mask_decoder):
            module.to(device)  # in place: the parameters keep their identity
        if self.tokens is not None:
            rows = self.tokens.rows
            rows.data = rows.data.to(device)
            self.tokens = TokenRows(self.tokens.ids.to(device), rows)

    def _model_parameters(self) -> list[nn.Parameter]:
        return [parameter for parameters in self.by_part.values() for parameter in parameters.values()]


def default_parts(model: SSPSAM, token_ids: Tensor) -> tuple[str, ...]:
    """Return `ssp` and `decoder`, and `tokens` where a token of the expressions shares its row."""
    shares = len(shared_tokens(model.clip.text.token_embedding.weight, token_ids)) > 0
    return ("ssp", "decoder", "tokens") if shares else ("ssp", "decoder")


def shared_tokens(table: Tensor, token_ids: Tensor) -> Tensor:
    """Return the ids among `token_ids`, ascending, whose row of a (vocabulary, width) table other tokens have too."""
    rows = [row.tobytes() for row in table.detach().cpu().numpy()]
    counts = Counter(rows)
    used: list[int] = sorted(set(token_ids.flatten().tolist()))
    ids = [token for token in used if token != 0 and counts[rows[token]] > 1]  # 0 is padding
    return torch.tensor(ids, dtype=torch.int64)


def _token_rows(model: SSPSAM, token_ids: Tensor) -> TokenRows | None:
    table = model.clip.text.token_embedding.weight
    ids = shared_tokens(table, token_ids)
    if not len(ids):
        return None
    # the table is written when the rows are; its memory may be a mapped file
    table.data = table.data.clone()
    return TokenRows(ids, nn.Parameter(table.detach()[ids].clone()))


def _parameters(model: SSPSAM, part: str) -> dict[str, nn.Parameter]:
    """Return the parameters of a part that can have a gradient, by name."""
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if name.startswith(_PREFIXES[part]) and not name.startswith(_UNUSED)
    }
