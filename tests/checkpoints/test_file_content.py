"""Files of other kinds in the place of a checkpoint's files: the error says what they are and what to do."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from sspsam import SSPSAMPredictor, errors
from sspsam.checkpoints.convert import convert_checkpoint
from tests.support.command import run_command


def _copy(model: Path, folder: Path) -> Path:
    return Path(shutil.copytree(model, folder / "copy"))


def test_the_answer_of_a_server_in_the_place_of_weights_is_quoted(tiny_model: Path, tmp_path: Path) -> None:
    path, copy = tmp_path / "c.pth", _copy(tiny_model, tmp_path)
    quoted = r'is a JSON document.*\{"error": "Repository not found"\}'
    for file in (path, copy / "model.safetensors"):
        file.write_bytes(b'{"error": "Repository not found"}')
    with pytest.raises(errors.CheckpointError, match=quoted):
        convert_checkpoint(path, tmp_path / "out")
    with pytest.raises(errors.CheckpointError, match=quoted):
        SSPSAMPredictor.from_pretrained(copy, device="cpu")


def test_a_safetensors_file_given_to_convert_says_what_to_do(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.CheckpointError, match=r"is a safetensors file\. It is converted already"):
        convert_checkpoint(tiny_model / "model.safetensors", tmp_path / "out")
    other = tmp_path / "other.bin"  # recognised by its content
    safetensors.numpy.save_file({"clip_proj.weight": np.ones(3, np.float32)}, other)
    done = run_command("convert", other, tmp_path / "out")
    assert done.exit_code == 1
    assert "other.bin is a safetensors file. The authors' .pth files can be converted." in done.stderr
    assert "torch.save(safetensors.torch.load_file" in done.stderr


def test_a_checkpoint_in_the_place_of_safetensors_is_called_so(
    tiny_model: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    copy = _copy(tiny_model, tmp_path)
    shutil.copy(tiny_checkpoint, copy / "model.safetensors")
    with pytest.raises(errors.CheckpointError, match=r"model\.safetensors is a zip archive, such as .* a \.pth"):
        SSPSAMPredictor.from_pretrained(copy, device="cpu")


def test_a_link_of_git_annex_without_its_content_names_the_command(tiny_model: Path, tmp_path: Path) -> None:
    copy = _copy(tiny_model, tmp_path)
    (copy / "model.safetensors").unlink()
    for link in (tmp_path / "c.pth", copy / "model.safetensors"):
        link.symlink_to(".git/annex/objects/2k/Xv/SHA256E-s1--a.pth/SHA256E-s1--a.pth")
    with pytest.raises(errors.CheckpointNotFoundError, match="git annex get"):
        convert_checkpoint(tmp_path / "c.pth", tmp_path / "out")
    with pytest.raises(errors.CheckpointNotFoundError, match="git annex get"):
        SSPSAMPredictor.from_pretrained(copy, device="cpu")
