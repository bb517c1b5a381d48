"""Damaged and forged checkpoints in the library's own format: each is refused, and costs little."""

import hashlib
import json
import os
import random
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sspsam.checkpoints.format import load_checkpoint
from sspsam.config import ModelConfig
from sspsam.errors import CheckpointError, ConfigError, DigestMismatchError
from tests.support.damage import flipped, refusal

_LAYOUT_FILES = ("config.json", "model.safetensors")


@pytest.fixture
def copy(own_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(own_checkpoint, tmp_path / "copy"))


@pytest.mark.parametrize("name", _LAYOUT_FILES)
def test_a_converted_file_cut_anywhere_is_refused(name: str, copy: Path) -> None:
    data, chosen = (copy / name).read_bytes(), random.Random(name)
    ends = [0, 1, 7, 8, 9, len(data) - 2, *chosen.sample(range(len(data) - 2), 40)]
    for end in ends:
        (copy / name).write_bytes(data[:end])
        for verify in (None, False):  # the structure alone shows it, without the digest
            refusal(lambda verify=verify: load_checkpoint(copy, verify=verify))


def test_a_changed_byte_anywhere_in_the_header_of_the_weights_is_refused(copy: Path) -> None:
    path, chosen = copy / "model.safetensors", random.Random(3)
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    for position in [*range(8), *chosen.sample(range(8, end), 50)]:
        path.write_bytes(flipped(data, position, chosen))
        refusal(lambda: load_checkpoint(copy))


def test_a_changed_weight_is_caught_at_first_and_after_a_good_load(copy: Path) -> None:
    path, chosen = copy / "model.safetensors", random.Random(4)
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    for position in [start, len(data) - 1, *chosen.sample(range(start, len(data)), 8)]:
        path.write_bytes(data)
        load_checkpoint(copy)
        load_checkpoint(copy)
        path.write_bytes(flipped(data, position, chosen))
        refusal(lambda: load_checkpoint(copy), DigestMismatchError)
        refusal(lambda: load_checkpoint(copy), DigestMismatchError)  # the failure is not recorded as a success
        refusal(lambda: load_checkpoint(copy, verify=True), DigestMismatchError)


def test_a_changed_weight_is_caught_by_verify_even_where_the_file_s_dates_are_forged(copy: Path) -> None:
    path = copy / "model.safetensors"
    data, status = path.read_bytes(), path.stat()
    load_checkpoint(copy)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    refusal(lambda: load_checkpoint(copy, verify=True), DigestMismatchError)


def _edit_header(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])


_HEADER_DAMAGE: dict[str, Callable[[dict[str, Any]], object]] = {
    "removed": lambda header: header.pop("clip.visual.proj"),
    "renamed": lambda header: header.update(other=header.pop("clip.visual.proj")),
    "reshaped": lambda header: header["clip.visual.proj"]["shape"].reverse(),
    "negative": lambda header: header["clip.visual.proj"].update(shape=[-1, -5120]),
    "huge": lambda header: header["clip.visual.proj"].update(shape=[1 << 62, 1 << 62]),
    "of another type": lambda header: header["clip.visual.proj"].update(dtype="I32"),
    "of no type": lambda header: header["clip.visual.proj"].update(dtype="X9"),
    "outside": lambda header: header["clip.visual.proj"].update(data_offsets=[1 << 50, (1 << 50) + 20480]),
    "overlapping": lambda header: header["clip.visual.proj"].update(
        data_offsets=header["clip.text.text_projection"]["data_offsets"]
    ),
    "added": lambda header: header.update(extra={"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}),
    "retyped": lambda header: header.update({"clip.visual.proj": 3}),
}


@pytest.mark.parametrize("damage", _HEADER_DAMAGE)
def test_a_rewritten_header_is_refused_without_the_digest(damage: str, copy: Path) -> None:
    _edit_header(copy / "model.safetensors", _HEADER_DAMAGE[damage])
    refusal(lambda: load_checkpoint(copy, verify=False), CheckpointError)


@pytest.mark.parametrize("length", [0, 1, (1 << 63) - 1, (1 << 64) - 1, 100_000_000, 200_000_000])
def test_an_absurd_length_of_the_header_is_refused(length: int, copy: Path) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
    refusal(lambda: load_checkpoint(copy, verify=False), CheckpointError)


def _signed(content: dict[str, Any]) -> str:
    """The JSON of a forged configuration, whose fingerprint fits again."""
    content.pop("fingerprint", None)
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    return json.dumps({**content, "fingerprint": hashlib.sha256(canonical).hexdigest()})


_HOSTILE_SIZES = [
    (("clip", "vision_layers"), 10**9),
    (("clip", "vision_width"), 10**9),
    (("clip", "context_length"), 10**6),
    (("clip", "patch_size"), 1 << 20),
    (("clip", "vocab_size"), 10**12),
    (("sam", "layers"), 10**9),
    (("sam", "image_size"), 1 << 40),
    (("sam", "mask_tokens"), 1 << 20),
    (("ssp", "prompts"), 10**9),
    (("ssp", "hidden_width"), 10**300),
    (("ssp", "generator_layers"), -1),
    (("ssp", "box_head_layers"), 0),
    # each legal alone
    (("clip", "text_layers"), 256),
    (("clip", "vocab_size"), 1 << 20),
    (("sam", "mask_tokens"), 64),
    (("sam", "window_size"), 1 << 16),
]


@pytest.mark.parametrize(("where", "size"), _HOSTILE_SIZES)
def test_a_hostile_size_is_refused_fast_and_without_memory(where: tuple[str, str], size: int, copy: Path) -> None:
    content = json.loads((copy / "config.json").read_text())
    content["architecture"][where[0]][where[1]] = size
    (copy / "config.json").write_text(_signed(content))
    before = resource.getrusage(resource.RUSAGE_SELF)
    refusal(lambda: load_checkpoint(copy))
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert (after.ru_maxrss - before.ru_maxrss) << 10 < 100 << 20
    assert after.ru_utime - before.ru_utime < 8


def test_the_largest_configuration_that_passes_costs_little_to_refuse(copy: Path) -> None:
    content = json.loads((copy / "config.json").read_text())
    parts = content["architecture"]
    parts["clip"] |= {"image_size": 1 << 14, "patch_size": 1 << 14, "vision_width": 1 << 16, "vision_layers": 64}
    parts["clip"] |= {"text_width": 1 << 16, "vocab_size": 1 << 20, "context_length": 4096}
    parts["sam"] |= {"image_size": 1 << 14, "patch_size": 1, "width": 3 << 14, "layers": 64, "window_size": 1 << 16}
    parts["ssp"] |= {"prompts": 1 << 16, "hidden_width": 1 << 16}
    (copy / "config.json").write_text(_signed(content))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "does not fit" in refusal(lambda: load_checkpoint(copy), CheckpointError)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < 200 << 20


def test_a_config_with_a_byte_changed_is_refused_or_the_same(copy: Path) -> None:
    path, chosen = copy / "config.json", random.Random(5)
    data = path.read_bytes()
    good = ModelConfig.from_json(data.decode())
    refusals = 0
    for position in chosen.sample(range(len(data)), 80):
        path.write_bytes(flipped(data, position, chosen))
        try:
            assert load_checkpoint(copy)[1] == good  # one kind of white space for another
        except ConfigError:
            refusals += 1
    assert refusals > 60


_CONFIG_BYTES = {
    "a BOM": lambda data: b"\xef\xbb\xbf" + data,
    "UTF-16": lambda data: data.decode().encode("utf-16"),
    "no UTF-8": lambda data: data.replace(b"good", b"\xff\xfe\xfa"),
    "NUL bytes": lambda data: bytes(len(data)),
    "too many bytes": lambda data: data + b" " * (1 << 20),
    "a list": lambda data: b"[" + data + b"]",
    "nothing": lambda data: b"null",
    "deep lists": lambda data: b"[" * 500_000,
    "a duplicate": lambda data: data.replace(b'"source"', b'"license": "x", "source"'),
    "NaN": lambda data: data.replace(b'"mask_threshold": 0.5', b'"mask_threshold": NaN'),
    "Infinity": lambda data: data.replace(b"123.675", b"Infinity"),
    "a huge number": lambda data: data.replace(b"123.675", b"1" * 400),
    "a huger number": lambda data: data.replace(b"123.675", b"1" * 5000),
    "an exponent": lambda data: data.replace(b"123.675", b"1e999"),
    "a newer format": lambda data: data.replace(b'"format_version": 1', b'"format_version": 2'),
    "an older format": lambda data: data.replace(b'"format_version": 1', b'"format_version": true'),
    "another model": lambda data: data.replace(b'"ssp-sam"', b'"sam"'),
    "another threshold": lambda data: data.replace(b'"mask_threshold": 0.5', b'"mask_threshold": 0.4'),
    "another fingerprint": lambda data: data.replace(b'"fingerprint": "', b'"fingerprint": "0'),
    "a fingerprint that is a list": lambda data: data.replace(b'"fingerprint": "', b'"fingerprint": [], "x": "'),
}


@pytest.mark.parametrize("damage", _CONFIG_BYTES)
def test_a_damaged_config_is_refused(damage: str, copy: Path) -> None:
    path = copy / "config.json"
    data = path.read_bytes()
    damaged = _CONFIG_BYTES[damage](data)
    assert damaged != data
    path.write_bytes(damaged)
    assert len(refusal(lambda: load_checkpoint(copy), ConfigError)) < 2000


def test_a_config_for_other_weights_is_refused(copy: Path) -> None:
    content = json.loads((copy / "config.json").read_text())
    for digest in ("", "0" * 64):
        (copy / "config.json").write_text(_signed(content | {"weights_sha256": digest}))
        refusal(lambda: load_checkpoint(copy), DigestMismatchError)


@pytest.mark.parametrize("name", _LAYOUT_FILES)
def test_a_missing_file_or_a_directory_in_its_place_is_refused(name: str, copy: Path) -> None:
    (copy / name).unlink()
    refusal(lambda: load_checkpoint(copy))
    (copy / name).mkdir()
    refusal(lambda: load_checkpoint(copy))
