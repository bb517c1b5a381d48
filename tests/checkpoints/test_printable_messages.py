"""Names out of files in messages: cut, and without characters that steer a terminal."""

import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from benchmarks.authors_checkpoint import authors_state, tiny_architecture
from sspsam import SSPSAMPredictor
from sspsam.checkpoints.convert import convert_checkpoint
from tests.support.damage import refusal

pytestmark = pytest.mark.usefixtures("in_this_process")

EVIL = "\x1b[2K\rclip_proj.weight\n\x1b]0;done\x07" + "x" * 5000


def test_names_of_tensors_and_globals_are_cut_and_printable_in_every_message(tmp_path, tiny_model, caplog) -> None:
    state = authors_state(tiny_architecture(vocab_size=64))

    contents: list[Any] = [
        {"model": state | {EVIL: torch.ones(1)}},
        {"model": state | {EVIL: torch.ones(1, dtype=torch.int64)}},
        {"model": state | {EVIL: torch.ones(1, 1).expand(1 << 16, 40)}},
        {"model": state | {EVIL: "text"}},
        {"model": state | {"sam." + EVIL: torch.ones(1)}},
        {"model": state | {EVIL: torch.ones(1), "module." + EVIL: torch.ones(1)}},
        {"model": state | {EVIL: np.ones(1)}},
        {"model": {EVIL: torch.ones(1)}},
    ]
    messages = []
    for number, content in enumerate(contents):
        path = tmp_path / f"{number}\x1b[31m\n.pth"
        torch.save(content, path)
        messages.append(refusal(lambda path=path: convert_checkpoint(path, tmp_path / "out")))
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    [index] = [name for name in records if name.endswith("/data.pkl")]
    for pickled in (
        b"\x80\x02cposix\nsys\x1b[2Ktem\rx" + b"x" * 5000 + b"\n.",
        b"\x80\x02X\xff\xff\xff\x7f" + b"\x1b[2K",
    ):
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in records.items():
                archive.writestr(name, pickled if name == index else data)
        messages.append(refusal(lambda: convert_checkpoint(path, tmp_path / "out")))
    folder = Path(shutil.copytree(tiny_model, tmp_path / "m\x1b[31m"))
    safetensors.numpy.save_file({EVIL: np.ones(1, np.float32)}, folder / "model.safetensors")
    messages.append(refusal(lambda: SSPSAMPredictor.from_pretrained(folder, device="cpu")))
    text = (tiny_model / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"architecture"', '"\x7f\x9b31m": 1, "architecture"'))
    messages.append(refusal(lambda: SSPSAMPredictor.from_pretrained(folder, device="cpu")))
    for message in messages:
        assert message.isprintable(), message
        assert len(message) < 2500
    with caplog.at_level("INFO", logger="sspsam"):
        torch.save({"model": state | {"img2img_attn.\x1b[2K\r" + "x" * 5000: torch.ones(1)}}, path)
        convert_checkpoint(path, tmp_path / "out")
    assert all(record.getMessage().isprintable() and len(record.getMessage()) < 6000 for record in caplog.records)
