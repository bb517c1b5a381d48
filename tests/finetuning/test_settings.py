"""Settings of an interrupted training that the command which continues it must repeat."""

from typing import Any

import pytest
import torch

from sspsam.errors import FinetuningError
from sspsam.finetuning.processes import Processes
from sspsam.finetuning.settings import difference, settings_text

SETTINGS = {"processes": 1, "lines": "a digest", "dtype": "float32", "options": {"clip": 0.1, "train": ("ssp",)}}


@pytest.mark.parametrize(
    ("earlier", "words"),
    [
        ({"processes": 2}, "another number of processes (2, not 1)"),
        ({"dtype": "bfloat16"}, "another precision of the image encoders (dtype) (bfloat16, not float32)"),
        ({"lines": "another digest"}, "other lines"),
        ({"options": {"clip": 1.0, "train": ("ssp",)}}, "another clip (1.0, not 0.1)"),
        ({"processes": 2, "lines": "another digest"}, "another number of processes (2, not 1), other lines"),
    ],
)
def test_what_is_different_is_named(earlier: dict[str, Any], words: str) -> None:
    assert difference(settings_text(SETTINGS), settings_text(SETTINGS | earlier)) == words


def test_the_order_of_settings_makes_no_difference() -> None:
    assert settings_text(dict(reversed(SETTINGS.items()))) == settings_text(SETTINGS)


def test_float16_on_a_cpu_is_refused() -> None:
    with pytest.raises(FinetuningError, match=r"fp16.* needs a GPU: use bf16"):
        Processes(torch.device("cpu"), "fp16")
