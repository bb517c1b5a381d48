"""Conversion of the authors' checkpoints to the library's own format."""

import argparse
import collections
import json
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.authors_checkpoint import authors_state, tiny_architecture, write_checkpoint
from sspsam.checkpoints import convert
from sspsam.checkpoints.convert import convert_checkpoint
from sspsam.checkpoints.format import load_checkpoint
from sspsam.errors import CheckpointError, CheckpointNotFoundError, StorageError, UnsafeCheckpointError

_ARCHITECTURE = tiny_architecture(vocab_size=64)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return authors_state(_ARCHITECTURE)


@pytest.fixture(scope="module")
def expected(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("expected")
    return convert_checkpoint(write_checkpoint(folder / "a.pth", state), folder / "out").weights_sha256


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*"))  # glob("*") of pathlib finds dotted names too


def test_weights_are_converted_exactly_under_the_new_names(state: dict[str, Tensor], tmp_path: Path) -> None:
    convert_checkpoint(write_checkpoint(tmp_path / "a.pth", state), tmp_path / "out")
    model, config = load_checkpoint(tmp_path / "out")
    converted = model.state_dict()
    pairs = {
        "encoder.visual.transformer.resblocks.2.attn.qkv.weight": (
            "clip.visual.transformer.resblocks.2.attn.in_proj_weight"
        ),
        "text_proj.weight_hh_l0_reverse": "ssp.linguistic_attention_adapter.gru.weight_hh_l0_reverse",
        "phrase_attn.fc.weight": "ssp.linguistic_attention_adapter.score.weight",
        "imgtext_proj.layers.0.weight": "ssp.visual_attention_adapter.verify_words.weight",
        "tf_sigma": "ssp.visual_attention_adapter.sigma",
        "vl_transformer.encoder.layers.1.linear2.weight": "ssp.prompt_generator.layers.1.mlp.layers.1.weight",
        "bbox_embed.layers.0.bias": "ssp.box_head.layers.0.bias",
        "sam.mask_decoder.iou_token.weight": "sam.mask_decoder.iou_token.weight",
    }
    for authors_name, name in pairs.items():
        assert torch.equal(state[authors_name], converted[name]), name
    assert config.architecture == _ARCHITECTURE
    assert _files(tmp_path / "out") == ["config.json", "model.safetensors"]


def test_other_entries_of_a_training_run_change_nothing(
    state: dict[str, Tensor], expected: str, tmp_path: Path
) -> None:
    metadata = collections.OrderedDict(state)
    metadata._metadata = collections.OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    rich: dict[str, Any] = {
        "numbers": [np.int64(3), np.float32(2), np.bool_(True), np.float64(np.nan)],
        "milestones": collections.Counter([40, 60]),
        "args": argparse.Namespace(nested=argparse.Namespace(lr=np.float64(1)), sizes={1, 2}, device=torch.device(0)),
        "dtype": torch.float32,
        "shape": torch.Size([1]),
        "moments": {0: {"exp_avg": torch.ones(5), "step": torch.tensor(3.0)}},
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    contents = [
        {"model": state, **rich},
        {"model": metadata},
        state,
        {f"module.{name}": tensor for name, tensor in state.items()},
        {"model": {f"module.{name}": tensor for name, tensor in state.items()}},
    ]
    for number, content in enumerate(contents):
        path = tmp_path / f"{number}.pth"
        torch.save(content, path)
        assert convert_checkpoint(path, tmp_path / "out").weights_sha256 == expected, number


def test_names_of_before_and_after_surgery_give_the_same_weights(tmp_path: Path) -> None:
    # before surgery a file does not tell how many blocks it rewrites: it is the authors' six
    architecture = tiny_architecture(vocab_size=64, vision_layers=7, surgery_layers=6)
    digests = set()
    for after in (True, False):
        path = write_checkpoint(tmp_path / f"{after}.pth", authors_state(architecture, after_surgery=after))
        config = convert_checkpoint(path, tmp_path / f"out-{after}")
        assert config.architecture == architecture
        digests.add(config.weights_sha256)
    assert len(digests) == 1


def test_unused_tensors_may_be_missing_and_unknown_ones_are_refused(
    state: dict[str, Tensor], expected: str, tmp_path: Path
) -> None:
    lean = {name: tensor for name, tensor in state.items() if not name.startswith(("img2img_attn.", "norm_text_cond"))}
    lean.pop("encoder.logit_scale")
    assert len(lean) < len(state)
    assert convert_checkpoint(write_checkpoint(tmp_path / "a.pth", lean), tmp_path / "o").weights_sha256 == expected
    strange = {f"img3img_attn.{number}": torch.ones(1) for number in range(25)}
    path = write_checkpoint(tmp_path / "b.pth", state | strange)
    with pytest.raises(CheckpointError, match=r"25 unrecognised tensors: img3img_attn\.0, .*img3img_attn\.9$"):
        convert_checkpoint(path, tmp_path / "o")


def test_missing_unexpected_and_misshapen_tensors_are_named_ten_and_then_counted(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    removed = [name for name in state if name.startswith("sam.mask_decoder.") and name.endswith(".bias")]
    wrong = {name: tensor for name, tensor in state.items() if name not in removed}
    wrong |= {"norm.weight": torch.ones(3), "sam.prompt_encoder.other": torch.ones(1)}
    with pytest.raises(CheckpointError) as caught:
        convert_checkpoint(write_checkpoint(tmp_path / "a.pth", wrong), tmp_path / "out")
    message = str(caught.value)
    assert f"{len(removed)} missing (" in message
    assert f" and {len(removed) - 10} more" in message
    assert sum(name in message for name in removed) >= 10
    assert "1 unexpected (sam.prompt_encoder.other)" in message
    assert "ssp.prompt_generator.norm.weight is [3], not [64]" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["missing", "not finite", "too large for half precision", "unsafe"])
def test_a_failure_leaves_an_older_checkpoint_and_its_directory_as_they_were(
    damage: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    convert_checkpoint(write_checkpoint(tmp_path / "good.pth", state), out)
    (out / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    wrong, extra = dict(state), {}
    if damage == "missing":
        del wrong["sam.mask_decoder.iou_token.weight"]
    elif damage == "unsafe":
        extra = {"evil": print}
    else:
        # the last tensor to be written, so that most of the file has been
        value = float("inf") if damage == "not finite" else 1e30
        wrong["tf_sigma"] = torch.full((1,), value)
    path = write_checkpoint(tmp_path / "bad.pth", wrong, **extra)
    with pytest.raises(UnsafeCheckpointError if damage == "unsafe" else CheckpointError):
        convert_checkpoint(path, out, dtype="float16" if "half" in damage else "float32")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    load_checkpoint(out)


@pytest.mark.parametrize(("dtype", "bits"), [("float16", 11), ("bfloat16", 8)])
def test_half_precision_halves_the_file_and_rounds_once(
    dtype: str, bits: int, state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = write_checkpoint(tmp_path / "a.pth", state)
    convert_checkpoint(path, tmp_path / "full")
    convert_checkpoint(path, tmp_path / "half", dtype=dtype)
    full, half = load_checkpoint(tmp_path / "full")[0].state_dict(), load_checkpoint(tmp_path / "half")[0].state_dict()
    for name, tensor in full.items():
        assert half[name].dtype == torch.float32
        assert torch.allclose(half[name], tensor, rtol=2.0**-bits, atol=1e-7), name
    sizes = [(tmp_path / kind / "model.safetensors").stat().st_size for kind in ("full", "half")]
    assert 0.5 < sizes[1] / sizes[0] < 0.55


def test_a_checkpoint_in_half_or_double_precision_is_accepted(state: dict[str, Tensor], tmp_path: Path) -> None:
    for dtype in (torch.float64, torch.float16):
        path = write_checkpoint(tmp_path / "a.pth", {name: tensor.to(dtype) for name, tensor in state.items()})
        convert_checkpoint(path, tmp_path / "out")
        model, _ = load_checkpoint(tmp_path / "out")
        got = model.state_dict()["ssp.visual_attention_adapter.norm.weight"]
        assert torch.equal(got, state["norm_img.weight"].to(dtype).float())


def test_a_transposed_view_is_stored_by_its_values(state: dict[str, Tensor], expected: str, tmp_path: Path) -> None:
    views = {name: t.t().contiguous().t() if t.dim() == 2 else t for name, t in state.items()}
    assert not views["clip_proj.weight"].is_contiguous()
    path = write_checkpoint(tmp_path / "a.pth", views)
    assert convert_checkpoint(path, tmp_path / "out").weights_sha256 == expected


def test_a_tensor_that_repeats_few_numbers_to_fill_a_large_shape_is_refused(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    wrong = state | {"clip_proj.weight": torch.ones(1, 1).expand(1 << 16, 40)}
    path = write_checkpoint(tmp_path / "a.pth", wrong)
    with pytest.raises(CheckpointError, match=r"'clip_proj.weight' claims shape \[65536, 40\]"):
        convert_checkpoint(path, tmp_path / "out")


def test_source_and_licence_are_kept_and_the_source_defaults_to_the_file_s_name(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = write_checkpoint(tmp_path / "größe.pth", state)
    assert convert_checkpoint(path, tmp_path / "a").source == "größe.pth"
    config = convert_checkpoint(path, tmp_path / "b", source="the authors", license="CC-BY-4.0")
    read = json.loads((tmp_path / "b" / "config.json").read_text())
    assert (read["source"], read["license"]) == (config.source, config.license) == ("the authors", "CC-BY-4.0")


def test_converting_twice_gives_the_same_bytes(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "a.pth", state)
    for name in ("one", "two"):
        convert_checkpoint(path, tmp_path / name)
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_wrong_dtype_a_missing_file_and_a_file_in_the_way_are_told_apart(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = write_checkpoint(tmp_path / "a.pth", state)
    with pytest.raises(ValueError, match="float32, float16, bfloat16"):
        convert_checkpoint(path, tmp_path / "out", dtype="int8")
    for missing in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(CheckpointNotFoundError, match="no such checkpoint file"):
            convert_checkpoint(missing, tmp_path / "out")
    with pytest.raises(StorageError, match="is a file"):
        convert_checkpoint(path, path)


def test_converting_leaves_the_safe_globals_of_the_process_unchanged(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.serialization.add_safe_globals([argparse.Namespace])  # what a program may have done for itself
    try:
        before = set(torch.serialization.get_safe_globals())
        convert_checkpoint(write_checkpoint(tmp_path / "a.pth", state), tmp_path / "out")
        assert set(torch.serialization.get_safe_globals()) == before
    finally:
        torch.serialization.clear_safe_globals()


def test_the_safe_globals_of_the_process_are_not_allowed_in_a_checkpoint(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = write_checkpoint(tmp_path / "a.pth", state, title=Template("$name"))
    with (
        torch.serialization.safe_globals([Template]),
        pytest.raises(UnsafeCheckpointError, match=r"string\.Template"),
    ):
        convert_checkpoint(path, tmp_path / "out")


def test_the_index_of_a_whole_training_state_is_far_below_the_limits(tmp_path: Path) -> None:
    # 1600 tensors with two moments each, as Adam keeps, is what the published sizes come to
    names = [f"encoder.visual.transformer.resblocks.{number}.attn.in_proj_weight" for number in range(1600)]
    moments = {
        n: {"step": torch.tensor(1.0), "exp_avg": torch.ones(1), "exp_avg_sq": torch.ones(1)} for n in range(1600)
    }
    path = tmp_path / "a.pth"
    torch.save({"model": {name: torch.ones(1) for name in names}, "optimizer": {"state": moments}}, path)
    assert len(convert.read_authors_state(path)) == 1600


def test_tensors_that_are_left_out_are_logged_by_name(
    tiny_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="sspsam"):
        convert_checkpoint(tiny_checkpoint, tmp_path / "own")
    for name in (
        "img2img_attn.pos_x",
        "norm_text_cond_img.weight",
        "encoder.logit_scale",
        "encoder.visual.attn.qkv.bias",
    ):
        assert name in caplog.text


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "clip.pth", {"visual.conv1.weight": torch.zeros(8, 3, 4, 4)})
    with pytest.raises(CheckpointError, match=r"clip\.pth.*no tensor 'encoder"):
        convert_checkpoint(path, tmp_path / "own")
