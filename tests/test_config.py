"""`ModelConfig`: round trips through JSON, validation of every entry, and the fingerprint."""

import dataclasses
import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.authors_checkpoint import small_architecture, tiny_architecture
from sspsam.config import PUBLISHED, Architecture, ModelConfig, Postprocessing, Preprocessing
from sspsam.errors import ConfigError

_CONFIG = ModelConfig(tiny_architecture(), weights_sha256="a" * 64, source="a test", license="MIT")
Path = tuple[str, ...]


def _leaves(content: dict[str, Any], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value


def _changed(path: Path, value: Any) -> str:
    content = json.loads(_CONFIG.to_json())
    parent = content
    for name in path[:-1]:
        parent = parent[name]
    parent[path[-1]] = value
    return json.dumps(content)


_LEAVES = dict(_leaves(json.loads(_CONFIG.to_json())))
_FIELDS = [path for path in _LEAVES if path[0] not in ("fingerprint", "model_type", "format_version")]


@pytest.mark.parametrize("architecture", [tiny_architecture(), small_architecture("224"), *PUBLISHED.values()])
def test_a_configuration_survives_json(architecture: Architecture) -> None:
    config = ModelConfig(
        architecture,
        Preprocessing(text_template="a photo of {}", clip_mean=(0.1, 1e-9, 3)),
        Postprocessing(mask_threshold=0.35, no_target_pixels=0, no_target_frame=640),
        "0123456789abcdef" * 4,
        "größe 山",
        "CC0-1.0",
    )
    copy = ModelConfig.from_json(config.to_json())
    assert copy == config
    assert copy.fingerprint == config.fingerprint
    assert copy.to_json() == config.to_json()


def test_a_source_that_utf8_cannot_encode_survives_json() -> None:
    config = dataclasses.replace(_CONFIG, source="file\udcff.pth")
    assert ModelConfig.from_json(config.to_json().encode().decode()) == config


@pytest.mark.parametrize("path", _FIELDS, ids=".".join)
def test_a_change_of_any_entry_is_found_by_the_fingerprint(path: Path) -> None:
    old = _LEAVES[path]
    for new in _other_values(path, old):
        content = json.loads(_changed(path, new))
        content.pop("fingerprint")
        with pytest.raises(ConfigError, match="was edited after it was saved: its fingerprint does not fit"):
            ModelConfig.from_json(json.dumps({**content, "fingerprint": _CONFIG.fingerprint}))
        break
    else:
        pytest.fail("no other value of this entry is valid")


def _other_values(path: Path, old: Any) -> Iterator[Any]:
    """Yield valid values other than the old one."""
    candidates: list[Any]
    if path[-1] == "weights_sha256":
        candidates = ["b" * 64]
    elif path[-1] == "text_template":
        candidates = ["a {}"]
    elif path[-1] == "global_blocks":
        candidates = [[2]]
    elif isinstance(old, str):
        candidates = [old + "x"]
    elif isinstance(old, list):
        candidates = [[*old[:-1], old[-1] + 0.5]]
    elif isinstance(old, float):
        candidates = [old / 2]
    else:
        candidates = [old * 2, old - 1, old * 3, old + 1, old // 2]
    for value in candidates:
        content = json.loads(_changed(path, value))
        content["fingerprint"] = ""
        try:
            ModelConfig.from_json(json.dumps(content))
        except ConfigError as error:
            if "fingerprint" in str(error):
                yield value


_BAD: dict[type, list[Any]] = {
    int: [0.0, 1.0, 10**9, -1, "8", None, True, [8], {}, 10**400],
    float: ["0.5", None, True, [0.5], {}, float("nan"), float("inf"), -1.0, 0, 1, 10**400],
    str: [3, None, ["x"], {}, "x" * 3000],
    list: [None, 3, "abc", {}, ["a"], [None], [[1]], [1, 2, 3, 4], [float("nan")] * 3, [-5], [True], [10**400] * 3],
}


@pytest.mark.parametrize("path", _FIELDS, ids=".".join)
def test_an_error_for_an_invalid_entry_names_the_file_and_the_entry(path: Path) -> None:
    for value in _BAD[type(_LEAVES[path])]:
        with pytest.raises(ConfigError) as caught:
            ModelConfig.from_json(_changed(path, value), "folder/config.json")
        message = str(caught.value)
        assert path[-1] in message, message
        assert "fingerprint" not in message, f"{value} was accepted"
        assert message.startswith("folder/config.json")
        assert len(message) < 500


@pytest.mark.parametrize("path", _LEAVES, ids=".".join)
def test_every_entry_is_required(path: Path) -> None:
    content = json.loads(_CONFIG.to_json())
    parent = content
    for name in path[:-1]:
        parent = parent[name]
    del parent[path[-1]]
    with pytest.raises(ConfigError):
        ModelConfig.from_json(json.dumps(content))


@pytest.mark.parametrize("path", [(), ("architecture",), ("architecture", "clip"), ("preprocessing",)])
def test_an_error_for_an_unknown_entry_names_it(path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown entries: surprise"):
        ModelConfig.from_json(_changed((*path, "surprise"), 1))


_INCONSISTENT = {
    ("architecture", "clip", "patch_size"): 7,
    ("architecture", "clip", "vision_heads"): 3,
    ("architecture", "clip", "text_heads"): 3,
    ("architecture", "clip", "surgery_layers"): 4,
    ("architecture", "clip", "context_length"): 2,
    ("architecture", "sam", "patch_size"): 17,
    ("architecture", "sam", "heads"): 5,
    ("architecture", "sam", "decoder_attention_downsample"): 3,
    ("architecture", "sam", "decoder_heads"): 3,
    ("architecture", "sam", "prompt_width"): 4,
    ("architecture", "sam", "mask_channels"): 6,
    ("architecture", "sam", "global_blocks"): [1, 1],
    ("architecture", "ssp", "attention_heads"): 5,
    ("architecture", "ssp", "generator_heads"): 5,
    ("preprocessing", "clip_std"): [1, 0, 1],
    ("preprocessing", "text_template"): "no placeholder",
    ("postprocessing", "no_target_pixels"): -1,
    ("postprocessing", "mask_threshold"): 1.0,
    ("weights_sha256",): "A" * 64,
}


@pytest.mark.parametrize("path", _INCONSISTENT, ids=".".join)
def test_entries_that_contradict_each_other_are_refused(path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_json(_changed(path, _INCONSISTENT[path]))
    assert "fingerprint" not in str(caught.value)


def test_lists_nested_to_any_depth_are_a_config_error() -> None:
    limit = sys.getrecursionlimit()
    for name in ("source", "format_version", "architecture", "model_type"):
        for depth in [10, *range(limit - 120, limit + 20), 100_000]:
            nested = "[" * depth + "]" * depth
            text = _changed((name,), "HERE").replace('"HERE"', nested)
            with pytest.raises(ConfigError):
                ModelConfig.from_json(text)


def test_the_message_for_a_very_long_name_is_short() -> None:
    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_json(_changed(("x" * 500_000,), 1))
    assert len(str(caught.value)) < 1000


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        _CONFIG.source = "other"  # type: ignore[misc]


def test_an_entry_that_occurs_twice_is_named() -> None:
    with pytest.raises(ConfigError, match=r"config\.json has a duplicate entry, 'version'"):
        ModelConfig.from_json('{"version": 1, "source": null, "version": 2}')
