"""Checkpoints as training scripts save them: wrapped, compiled, with paths and arrays, or without CLIP."""

import argparse
import io
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.authors_checkpoint import authors_state, tiny_architecture, write_checkpoint
from sspsam.checkpoints.convert import convert_checkpoint
from sspsam.checkpoints.torchscript import read_torchscript_state
from sspsam.errors import CheckpointError, CheckpointNotFoundError, SSPSAMError, UnsafeCheckpointError
from tests.support.command import run_command

# before CLIP's surgery, as in a file of CLIP alone; a file without surgery means the authors' six blocks
_ARCHITECTURE = tiny_architecture(vocab_size=64, vision_layers=7, surgery_layers=6)
CANARY = "touch CANARY"


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return authors_state(_ARCHITECTURE, after_surgery=False)


@pytest.fixture(scope="module")
def expected(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("expected")
    return convert_checkpoint(write_checkpoint(folder / "a.pth", state), folder / "out").weights_sha256


@pytest.fixture(scope="module")
def without_clip(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    rest = {name: tensor for name, tensor in state.items() if not name.startswith("encoder.")}
    return write_checkpoint(tmp_path_factory.mktemp("rest") / "rest.pth", rest)


def clip_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    names = [name for name in state if name.startswith("encoder.") and not name.startswith("encoder.visual.attn.")]
    return {name.removeprefix("encoder."): state[name] for name in names}


class _Node(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def script_of(tensors: dict[str, Tensor], path: Path) -> Path:
    """Write a TorchScript archive whose module has these tensors, and the numbers of OpenAI's archives."""
    root = _Node()
    for name, tensor in tensors.items():
        *parts, leaf = name.split(".")
        node = root
        for part in parts:
            if part not in node._modules:
                node.add_module(part, _Node())
            node = node._modules[part]
        node.register_parameter(leaf, torch.nn.Parameter(tensor.clone(), requires_grad=False))
    for name in ("input_resolution", "context_length", "vocab_size"):
        root.register_buffer(name, torch.tensor(64))
    torch.jit.script(root).save(str(path))
    return path


@pytest.fixture(scope="module")
def script(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return script_of(clip_state(state), tmp_path_factory.mktemp("clip") / "CS-tiny.pt")


# what training scripts save


def test_paths_and_arrays_in_the_arguments_are_ignored(state: dict[str, Tensor], expected: str, tmp_path: Path) -> None:
    arguments = argparse.Namespace(
        output_dir=Path("/output/unc"),
        paths=[PurePosixPath("a"), PureWindowsPath("b")],
        mean=np.array([0.485, 0.456, 0.406]),
        empty=np.zeros(0),
        names=np.array(["a", "b"], dtype=object),
        table=np.arange(6, dtype=np.int64).reshape(2, 3, order="F"),
    )
    path = tmp_path / "a.pth"
    torch.save({"model": state, "args": arguments, "output_dir": Path("x"), "history": np.ones(3)}, path)
    assert convert_checkpoint(path, tmp_path / "out").weights_sha256 == expected
    # under the names of Python 3.13 and of NumPy 1
    names = {b"cpathlib\n": b"cpathlib._local\n", b"cnumpy._core.multiarray\n": b"cnumpy.core.multiarray\n"}
    for old, new in names.items():
        _change_pickle(path, tmp_path / "b.pth", lambda data, old=old, new=new: data.replace(old, new))
        assert convert_checkpoint(tmp_path / "b.pth", tmp_path / "out").weights_sha256 == expected


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "model_state_dict", None])
@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.", ""])
def test_wrappers_of_the_state_and_of_its_names_change_nothing(
    state: dict[str, Tensor], expected: str, tmp_path: Path, wrapper: str | None, prefix: str
) -> None:
    wrapped = {prefix + name: tensor for name, tensor in state.items()}
    path = tmp_path / "a.pth"
    torch.save({wrapper: wrapped, "epoch": 3} if wrapper else wrapped, path)
    assert convert_checkpoint(path, tmp_path / "out").weights_sha256 == expected


def test_a_part_of_the_model_that_was_compiled_alone_is_recognised(
    state: dict[str, Tensor], expected: str, tmp_path: Path
) -> None:
    wrapped = {name.replace("sam.image_encoder.", "sam.image_encoder._orig_mod."): t for name, t in state.items()}
    path = write_checkpoint(tmp_path / "a.pth", wrapped)
    assert convert_checkpoint(path, tmp_path / "out").weights_sha256 == expected


def test_two_names_that_differ_by_a_wrapper_alone_are_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "a.pth", state | {"_orig_mod.tf_scale": torch.ones(1)})
    with pytest.raises(CheckpointError, match="'tf_scale' twice"):
        convert_checkpoint(path, tmp_path / "out")


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict"])
def test_an_array_or_a_path_in_the_place_of_a_tensor_is_refused(
    state: dict[str, Tensor], tmp_path: Path, wrapper: str
) -> None:
    for value, name in ((np.ones(3), "_reconstruct"), (Path("x"), r"pathlib\S*\.PosixPath")):
        torch.save({wrapper: state | {"tf_scale": value}}, tmp_path / "a.pth")
        with pytest.raises(UnsafeCheckpointError, match=name):
            convert_checkpoint(tmp_path / "a.pth", tmp_path / "out")


class _Calls:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def test_an_array_of_hostile_objects_and_a_path_of_them_are_refused(
    state: dict[str, Tensor], tmp_path: Path, monkeypatch
) -> None:
    import os

    monkeypatch.chdir(tmp_path)
    evil = _Calls(os.system, CANARY)
    for value in (np.array([evil], dtype=object), _Calls(Path, evil), {"state_dict": evil}):
        torch.save({"model": state, "args": argparse.Namespace(x=value)}, tmp_path / "a.pth")
        with pytest.raises(UnsafeCheckpointError, match=r"posix\.system"):
            convert_checkpoint(tmp_path / "a.pth", tmp_path / "out")
    assert not (tmp_path / "CANARY").exists()


# CLIP from its own file


def test_clip_from_torchscript_gives_the_same_weights(
    without_clip: Path, script: Path, expected: str, tmp_path: Path
) -> None:
    config = convert_checkpoint(without_clip, tmp_path / "out", clip=script)
    assert config.weights_sha256 == expected
    assert config.source == "rest.pth, CLIP from CS-tiny.pt"
    done = run_command("convert", without_clip, tmp_path / "out2", "--clip", script)
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "out2" / "model.safetensors").read_bytes() == (tmp_path / "out/model.safetensors").read_bytes()


def test_the_tensors_of_an_archive_are_those_of_pytorch_s_own_reader(state: dict[str, Tensor], tmp_path: Path) -> None:
    tensors = {name: tensor.half() for name, tensor in clip_state(state).items()}
    tensors |= {"visual.ln_pre.weight": tensors["visual.ln_pre.weight"].float(), "scalar": torch.tensor(4.6)}
    tensors |= {"turned": torch.arange(12.0).reshape(3, 4).t()}
    path = script_of(tensors, tmp_path / "clip.pt")
    read, reference = read_torchscript_state(path), torch.jit.load(path).state_dict()
    assert read.keys() == reference.keys()
    for name, tensor in reference.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor), name


def test_clip_in_half_precision_is_widened(state: dict[str, Tensor], without_clip: Path, tmp_path: Path) -> None:
    halves = {name: tensor.half() for name, tensor in clip_state(state).items()}
    wide = state | {f"encoder.{name}": tensor.float() for name, tensor in halves.items()}
    want = convert_checkpoint(write_checkpoint(tmp_path / "a.pth", wide), tmp_path / "a").weights_sha256
    got = convert_checkpoint(without_clip, tmp_path / "b", clip=script_of(halves, tmp_path / "clip.pt"))
    assert got.weights_sha256 == want


@pytest.mark.parametrize("prefix", ["", "encoder.", "module.", "_orig_mod.encoder.", "clip_model.", "model.clip."])
def test_clip_from_a_plain_state_gives_the_same_weights(
    state: dict[str, Tensor], without_clip: Path, expected: str, tmp_path: Path, prefix: str
) -> None:
    clip = {prefix + name: tensor for name, tensor in clip_state(state).items()}
    torch.save(clip, tmp_path / "clip.pt")
    assert convert_checkpoint(without_clip, tmp_path / "out", clip=tmp_path / "clip.pt").weights_sha256 == expected


def test_a_checkpoint_without_clip_names_the_option_and_one_with_clip_refuses_it(
    state: dict[str, Tensor], without_clip: Path, script: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"no tensor 'encoder.*--clip"):
        convert_checkpoint(without_clip, tmp_path / "out")
    whole = write_checkpoint(tmp_path / "a.pth", state)
    with pytest.raises(CheckpointError, match="holds CLIP itself; leave --clip"):
        convert_checkpoint(whole, tmp_path / "out", clip=script)
    with pytest.raises(CheckpointError, match="with --clip"):
        convert_checkpoint(script, tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"rest\.pth is not CLIP"):
        convert_checkpoint(without_clip, tmp_path / "out", clip=without_clip)
    for clip in ("", tmp_path / "none.pt", tmp_path):
        with pytest.raises(CheckpointNotFoundError):
            convert_checkpoint(without_clip, tmp_path / "out", clip=clip)
    assert not (tmp_path / "out").exists()


def _of_hugging_face(clip: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "vision_model.embeddings.patch_embedding.weight": clip["visual.conv1.weight"],
        "text_model.embeddings.position_ids": torch.arange(77)[None],
        "text_model.embeddings.token_embedding.weight": clip["token_embedding.weight"],
    }


def _of_open_clip(clip: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name if name.startswith("visual.") else f"text.{name}": tensor for name, tensor in clip.items()}


def _with_resnet(clip: dict[str, Tensor]) -> dict[str, Tensor]:
    text = {name: tensor for name, tensor in clip.items() if not name.startswith("visual.")}
    vision = {"visual.conv1.weight": torch.ones(8, 3, 3, 3), "visual.layer1.0.conv1.weight": torch.ones(8, 8, 1, 1)}
    return {**text, **vision}


_OTHER_CLIPS: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "Hugging Face's names": (
        _of_hugging_face,
        r"no tensor 'visual\.conv1\.weight'; its names are .* Hugging Face",
    ),
    "open_clip's names": (_of_open_clip, r"no tensor 'transformer\.resblocks.*; its names are .* open_clip"),
    "a ResNet": (_with_resnet, r"no tensor 'visual\.class_embedding'; its vision model is a ResNet"),
    "images alone": (
        lambda clip: {name: tensor for name, tensor in clip.items() if name.startswith("visual.")},
        r"no tensor 'transformer\.resblocks\.0",
    ),
    "more than CLIP": (lambda clip: {**clip, "head.weight": torch.ones(3)}, r"unknown tensors head\.weight\."),
    "a whole checkpoint": (
        lambda clip: {**{f"encoder.{name}": tensor for name, tensor in clip.items()}, "sam.x": torch.ones(1)},
        r"unknown tensors sam\.x; it holds SAM",
    ),
}


@pytest.mark.parametrize("name", _OTHER_CLIPS)
def test_clip_by_other_names_than_openai_s_is_refused_and_described(
    state: dict[str, Tensor], without_clip: Path, tmp_path: Path, name: str
) -> None:
    change, message = _OTHER_CLIPS[name]
    torch.save(change(clip_state(state)), tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=rf"other\.pt is not CLIP .* by OpenAI's names: {message}") as caught:
        convert_checkpoint(without_clip, tmp_path / "out", clip=tmp_path / "other.pt")
    assert "Give the authors' CS-*.pt" in str(caught.value)


def test_clip_of_another_size_is_named(without_clip: Path, tmp_path: Path) -> None:
    other = authors_state(tiny_architecture(vocab_size=64, vision_layers=7, image_size=32), after_surgery=False)
    torch.save(clip_state(other), tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"with CLIP from .*other\.pt"):
        convert_checkpoint(without_clip, tmp_path / "out", clip=tmp_path / "other.pt")


# hostile archives


def _records(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _change_pickle(source: Path, target: Path, change: Callable[[bytes], bytes]) -> None:
    records = _records(source)
    [name] = [name for name in records if name.endswith("/data.pkl")]
    with zipfile.ZipFile(target, "w") as archive:
        for record, data in records.items():
            archive.writestr(record, change(data) if record == name else data)


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def _long(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def _module(*attributes: bytes) -> bytes:
    """A pickle of a module with these attributes, each a name and a value."""
    return b"\x80\x02c__torch__\nM\n)\x81}(" + b"".join(attributes) + b"ub."


def _tensor(shape: bytes, strides: bytes, offset: bytes = b"K\x00", key: str = "0", numel: bytes = b"K\x04") -> bytes:
    storage = b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + _text(key) + _text("cpu") + numel + b"tQ"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + shape + strides
    return _text("visual") + b"c__torch__\nV\n)\x81}" + _text("w") + call + b"\x89ccollections\nOrderedDict\n)RtRsb"


_SYSTEM = b"cposix\nsystem\n" + _text(CANARY) + b"\x85R"
HOSTILE = {
    "a call": (_module(_text("x") + _SYSTEM), "posix.system"),
    "a class of the program": (b"\x80\x02c__main__\nM\n)\x81}b.", "__main__"),
    "a name that begins alike": (b"\x80\x02c__torch__x\nM\n)\x81}b.", "__torch__x"),
    "a name of PyTorch": (_module(_text("x") + b"ctorch.hub\nload\n" + _text("a/b") + b"\x85R"), "torch.hub.load"),
    "STACK_GLOBAL": (_module(_text("x") + b"\x8c\x05posix\x8c\x06system\x93"), "posix.system"),
    "an extension": (_module(_text("x") + b"\x82\xf0"), "extension"),
    "a huge shape": (_module(_tensor(_long(1 << 39) + b"\x85", b"K\x01\x85")), "more than the file holds"),
    "a huge shape with stride 0": (_module(_tensor(_long(1 << 39) + b"\x85", b"K\x00\x85")), "more than the file"),
    "a shape that overflows": (_module(_tensor(_long(1 << 62) * 2 + b"\x86", b"K\x01K\x01\x86")), "impossible shape"),
    "a negative offset": (_module(_tensor(b"K\x01\x85", b"K\x01\x85", _long(-1))), "impossible shape"),
    "an offset outside": (_module(_tensor(b"K\x01\x85", b"K\x01\x85", b"M\xff\xff")), "more than the file holds"),
    "a stride outside": (_module(_tensor(b"K\x02\x85", b"M\xff\xff\x85")), "more than the file holds"),
    "a record of no name": (_module(_tensor(b"K\x01\x85", b"K\x01\x85", key="../../etc/passwd")), "damaged"),
    "the code as a record": (_module(_tensor(b"K\x01\x85", b"K\x01\x85", key="../code/__torch__.py")), "damaged"),
    "a record that is too short": (
        _module(_tensor(b"K\x01\x85", b"K\x01\x85", numel=_long(1 << 60))), "its data.pkl claims sizes",
    ),
    "no tensors": (_module(_text("x") + b"K\x01"), "no module with tensors"),
    "no module": (b"\x80\x02]\x2e", "no module with tensors"),
    "a key that is a tuple": (_module(b")\x85K\x01"), "as a key"),
    "a module in itself": (b"\x80\x02c__torch__\nM\n)\x81q\x00}" + _text("x") + b"h\x00sb.", ""),
    "modules doubled": (
        b"\x80\x02c__torch__\nM\n)\x81}bq\x00"
        + b"".join(
            b"c__torch__\nM\n)\x81}(" + _text("a") + b"h" + bytes([n]) + _text("b") + b"h" + bytes([n]) + b"ub"
            + b"q" + bytes([n + 1])
            for n in range(60)
        ) + b".",
        "",
    ),
    "modules doubled a little": (
        b"\x80\x02c__torch__\nM\n)\x81}bq\x00"
        + b"".join(
            b"c__torch__\nM\n)\x81}(" + _text("a") + b"h" + bytes([n]) + _text("b") + b"h" + bytes([n]) + b"ub"
            + b"q" + bytes([n + 1])
            for n in range(18)
        ) + b".",
        "more parts than any CLIP",
    ),
    "a stack that runs empty": (b"\x80\x02RRR.", ""),
    "no end": (b"\x80\x02N", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_torchscript_archive_is_refused_and_runs_nothing(
    without_clip: Path, script: Path, tmp_path: Path, monkeypatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    index, message = HOSTILE[name]
    _change_pickle(script, tmp_path / "clip.pt", lambda _: index)
    with pytest.raises(CheckpointError, match=message or None) as caught:
        convert_checkpoint(without_clip, tmp_path / "out", clip=tmp_path / "clip.pt")
    assert len(str(caught.value)) < 1500
    assert isinstance(caught.value, UnsafeCheckpointError) == (name in list(HOSTILE)[:6])
    assert not (tmp_path / "CANARY").exists()
    assert not (tmp_path / "out").exists()


def test_an_archive_with_a_changed_byte_is_refused_or_read_exactly(script: Path, tmp_path: Path) -> None:
    data, path = script.read_bytes(), tmp_path / "clip.pt"
    good = read_torchscript_state(script)
    chosen = np.random.default_rng(1).integers(0, len(data), 60)
    for position in chosen:
        path.write_bytes(data[:position] + bytes([data[position] ^ 255]) + data[position + 1 :])
        try:
            read = read_torchscript_state(path)
        except SSPSAMError:
            continue
        assert all(torch.equal(read[name], tensor) for name, tensor in good.items())


def test_an_archive_cut_anywhere_or_with_a_bomb_in_its_code_is_refused_or_read_without_its_code(
    script: Path, tmp_path: Path
) -> None:
    data, path = script.read_bytes(), tmp_path / "clip.pt"
    for end in (0, 10, len(data) // 2, len(data) - 5):
        path.write_bytes(data[:end])
        with pytest.raises(CheckpointError):
            read_torchscript_state(path)
    shutil.copy(script, path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        folder = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{folder}/code/bomb.py", bytes(256 << 20))
        archive.writestr(f"{folder}/code/data.pkl.py", io.BytesIO(b"x").read())
    assert read_torchscript_state(path).keys() == read_torchscript_state(script).keys()
