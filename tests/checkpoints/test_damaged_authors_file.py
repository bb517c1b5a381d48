"""Authors' checkpoints that are cut, have a changed byte or lack a tensor: each is refused, or read exactly."""

import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.authors_checkpoint import authors_state, tiny_architecture, write_checkpoint
from sspsam import errors
from sspsam.checkpoints.convert import convert_checkpoint
from sspsam.config import ModelConfig
from sspsam.errors import CheckpointError
from tests.support.damage import flipped, refusal
from tests.support.pickles import archive_records, pickle_name, write_archive


def test_a_pth_cut_anywhere_is_refused(authors_file: Path, tmp_path: Path) -> None:
    data = authors_file.read_bytes()
    path = tmp_path / "cut.pth"
    chosen = random.Random(1)
    ends = [0, 1, 2, 4, 30, 64, *range(len(data) - 24, len(data), 3), *chosen.sample(range(len(data)), 50)]
    for end in ends:
        path.write_bytes(data[:end])
        refusal(lambda: convert_checkpoint(path, tmp_path / "out"), CheckpointError)
    assert not (tmp_path / "out").exists()


def _spans(path: Path) -> dict[str, tuple[int, int]]:
    """Positions of an archive's index, first records' headers, weights and directory."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        size = path.stat().st_size
        index = next(entry for entry in entries if entry.filename.endswith("data.pkl"))
        start = index.header_offset + 64
        largest = max(entries, key=lambda entry: entry.file_size)
        end = next((entry.header_offset for entry in entries if entry.header_offset > largest.header_offset), size)
        return {
            "header": (0, 64),
            "index": (start, start + index.file_size),
            "weights": (end - largest.file_size, end),
            "directory": (archive.start_dir, size),
        }


@pytest.mark.parametrize("place", ["header", "index", "weights", "directory"])
def test_a_pth_with_a_changed_byte_is_refused_or_read_exactly(
    place: str, authors_file: Path, own_checkpoint: Path, tmp_path: Path
) -> None:
    good = ModelConfig.from_json((own_checkpoint / "config.json").read_text())
    data, path, chosen = authors_file.read_bytes(), tmp_path / "flipped.pth", random.Random(place)
    refusals, tries = 0, 40
    for position in chosen.sample(range(*_spans(authors_file)[place]), tries):
        path.write_bytes(flipped(data, position, chosen))
        try:
            config = convert_checkpoint(path, tmp_path / "out")
        except CheckpointError:
            refusals += 1
        else:  # dates, padding and attributes of an archive play no part
            assert (config.weights_sha256, config.architecture) == (good.weights_sha256, good.architecture)
    assert refusals >= {"header": 0, "index": tries - 2, "weights": tries - 4, "directory": tries // 4}[place]


def test_an_index_with_a_changed_byte_and_a_right_checksum_converts_or_is_refused(
    authors_file: Path, tmp_path: Path
) -> None:
    records, path, chosen = archive_records(authors_file), tmp_path / "flipped.pth", random.Random(7)
    name = pickle_name(records)
    refusals = 0
    for position in chosen.sample(range(len(records[name])), 80):
        write_archive(path, records | {name: flipped(records[name], position, chosen)})
        try:
            convert_checkpoint(path, tmp_path / "out")
        except CheckpointError:
            refusals += 1
    assert refusals > 30  # others hit the optimizer, a memo number, or swap tensors of one shape: a forger's right


_STATE_DAMAGE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "clip_proj.weight": lambda state: state.pop("clip_proj.weight"),
    "ssp.box_head.layers.1.bias": lambda state: state.pop("bbox_embed.layers.1.bias"),
    "surprise": lambda state: state.update(surprise=torch.ones(1)),
    "sam.surprise": lambda state: state.update({"sam.surprise": torch.ones(1)}),
    "norm_imgs.weight": lambda state: state.update({"norm_imgs.weight": state.pop("norm_img.weight")}),
    "ssp.fusion.layers.0.weight": lambda state: state.update({"mlp.layers.0.weight": torch.ones(3, 3)}),
    "tf_s": lambda state: state.update(tf_scale=5.0, tf_sigma="x"),
    "prompt_token.weight": lambda state: state.update({"prompt_token.weight": torch.ones(2)}),
    "encoder.visual.conv1.weight": lambda state: state.update({"encoder.visual.conv1.weight": torch.ones(0, 3, 0, 0)}),
    "token_embedding": lambda state: state.update({"encoder.token_embedding.weight": torch.ones(64, 65)}),
    "not finite": lambda state: state["clip_proj.weight"].fill_(float("nan")),
    "twice": lambda state: state.update(
        {"encoder.visual.transformer.resblocks.2.attn.in_proj_weight": torch.ones(384, 128)}
    ),
}


@pytest.mark.parametrize("name", _STATE_DAMAGE)
def test_a_wrong_tensor_is_refused_and_named(name: str, authors_file: Path, tmp_path: Path) -> None:
    state = torch.load(authors_file, weights_only=False)["model"]
    _STATE_DAMAGE[name](state)
    path = write_checkpoint(tmp_path / "wrong.pth", state)
    message = refusal(lambda: convert_checkpoint(path, tmp_path / "out"), CheckpointError)
    assert name in message
    assert not list((tmp_path / "out").glob("*"))
    assert not list((tmp_path / "out").glob(".*"))


def test_an_empty_state_does_not_hide_the_one_behind_it(tmp_path) -> None:
    state = authors_state(tiny_architecture())
    torch.save({"model": {}, "state_dict": state}, tmp_path / "a.pth")
    assert convert_checkpoint(tmp_path / "a.pth", tmp_path / "a").architecture
    torch.save({"model": {}}, tmp_path / "b.pth")
    with pytest.raises(errors.CheckpointError, match="holds no 'model' state"):
        convert_checkpoint(tmp_path / "b.pth", tmp_path / "b")
