"""The parts that learn, and those that do not."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sspsam.checkpoints.format import load_checkpoint
from sspsam.config import ModelConfig
from sspsam.errors import FinetuningError
from sspsam.finetuning.options import PARTS, FinetuneOptions
from sspsam.finetuning.trainable import TrainableModel, default_parts, shared_tokens
from sspsam.models import SSPSAM
from sspsam.text.encoder import tokenizer_for


def ids_of(config: ModelConfig, *texts: str) -> Tensor:
    return torch.from_numpy(np.stack([tokenizer_for(config)(text) for text in texts]))


@pytest.fixture
def sharing(tiny_model: Path) -> tuple[SSPSAM, ModelConfig]:
    """A model in which all tokens from 1000 on have one row."""
    model, config = load_checkpoint(tiny_model)
    table = model.clip.text.token_embedding.weight
    table.data = table.data.clone()
    table.data[1000:49000] = table.data[1000]
    return model, config


def test_tokens_that_share_their_row_are_found(sharing: tuple[SSPSAM, ModelConfig]) -> None:
    model, config = sharing
    ids = ids_of(config, "the brown crescent")
    expected = sorted({int(token) for token in ids.flatten() if 1000 <= token < 49000})
    assert shared_tokens(model.clip.text.token_embedding.weight, ids).tolist() == expected
    assert len(expected) >= 2


def test_tokens_learn_by_default_only_where_some_share_their_row(
    sharing: tuple[SSPSAM, ModelConfig], tiny_model: Path
) -> None:
    model, config = sharing
    ids = ids_of(config, "the brown crescent")
    assert default_parts(model, ids) == ("ssp", "decoder", "tokens")
    other, _ = load_checkpoint(tiny_model)
    assert default_parts(other, ids) == ("ssp", "decoder")
    with pytest.raises(FinetuningError, match="shares its row"):
        TrainableModel(other, ("tokens",), ids)


def test_the_rows_that_learn_begin_as_the_shared_row_and_answer_as_it(sharing: tuple[SSPSAM, ModelConfig]) -> None:
    model, config = sharing
    ids = ids_of(config, "the brown crescent", "a dog")
    expected = model.encode_text(ids)
    trainable = TrainableModel(model, ("tokens",), ids[:1])
    for tensor, other in zip(trainable.encode_text(ids), expected, strict=True):
        torch.testing.assert_close(tensor, other)


def test_only_the_rows_of_the_expressions_move_and_foreign_words_stay_bit_for_bit(
    sharing: tuple[SSPSAM, ModelConfig],
) -> None:
    model, config = sharing
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ids = ids_of(config, "the brown crescent")
    trainable = TrainableModel(model, ("tokens",), ids)
    assert trainable.tokens is not None
    optimizer = torch.optim.AdamW(trainable.groups(FinetuneOptions()), lr=1e-2)
    trainable.encode_text(ids).sentence.square().sum().backward()
    optimizer.step()
    trainable.write_token_rows()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"clip.text.token_embedding.weight"}
    table, old = model.clip.text.token_embedding.weight, before["clip.text.token_embedding.weight"]
    moved = (table != old).any(dim=1).nonzero().flatten().tolist()
    assert moved == trainable.tokens.ids.tolist()


def test_the_state_brings_back_everything_that_learns(sharing: tuple[SSPSAM, ModelConfig]) -> None:
    model, config = sharing
    trainable = TrainableModel(model, ("ssp", "decoder", "tokens"), ids_of(config, "the brown crescent"))
    state = trainable.state()
    for parameter in trainable.parameters():
        parameter.data += 1
    trainable.load_state(state)
    assert all(torch.equal(tensor, trainable.state()[name]) for name, tensor in state.items())
    assert not [name for name in state if "iou_prediction_head" in name or "mlps.1" in name]


PART_SETS = [parts for count in range(1, len(PARTS) + 1) for parts in combinations(PARTS, count)]


@pytest.mark.parametrize("parts", PART_SETS, ids=",".join)
@pytest.mark.parametrize("shares", [pytest.param(True, marks=pytest.mark.slow), False])
def test_whatever_learns_something_learns_while_the_decoder_is_frozen(
    parts: tuple[str, ...], shares: bool, sharing: tuple[SSPSAM, ModelConfig], tiny_model: Path
) -> None:
    if parts == ("tokens",) and not shares:
        return  # refused
    model, config = sharing if shares else load_checkpoint(tiny_model)
    trainable = TrainableModel(model, parts, ids_of(config, "the brown crescent"))
    trainable.set_decoder_frozen(True)
    assert any(parameter.requires_grad for parameter in trainable.parameters())
    alone = parts == ("decoder",) or (parts == ("decoder", "tokens") and not shares)
    decoder = trainable.by_part.get("decoder", {}).values()
    assert {parameter.requires_grad for parameter in decoder} == ({alone} if "decoder" in parts else set())


def test_a_frozen_decoder_has_no_gradient(tiny_model: Path) -> None:
    model, config = load_checkpoint(tiny_model)
    trainable = TrainableModel(model, ("ssp", "decoder"), ids_of(config, "a dog"))
    trainable.set_decoder_frozen(True)
    assert not any(parameter.requires_grad for parameter in trainable.by_part["decoder"].values())
    assert all(parameter.requires_grad for parameter in trainable.by_part["ssp"].values())
    trainable.set_decoder_frozen(False)
    assert all(parameter.requires_grad for parameter in trainable.by_part["decoder"].values())
