"""Settings of an interrupted training that the command which continues it must repeat."""

import pytest
import torch

from sspsam.errors import FinetuningError
from sspsam.finetuning.processes import Processes
from sspsam.finetuning.settings import Settings

CPU, GPU = torch.device("cpu"), torch.device("cuda")
DESCRIBED = {"processes": 1, "lines": "a digest"}


def test_the_default_precision_of_a_device_is_that_of_settings_that_name_none() -> None:
    assert Settings.of(DESCRIBED, torch.float32, CPU).digest == Settings(DESCRIBED).digest
    assert Settings.of(DESCRIBED, torch.float16, GPU).digest == Settings(DESCRIBED).digest
    assert Settings.of(DESCRIBED, torch.float32, GPU).digest != Settings(DESCRIBED).digest
    assert Settings.of(DESCRIBED, torch.bfloat16, CPU).digest != Settings(DESCRIBED).digest


def test_what_is_different_is_named() -> None:
    settings = Settings.of(DESCRIBED, torch.float32, CPU)
    two = Settings.of({**DESCRIBED, "processes": 2}, torch.float32, CPU)
    precise = Settings.of(DESCRIBED, torch.bfloat16, CPU)
    assert settings.difference(two.digest) == "another number of processes (2, not 1)"
    assert "(dtype) (bfloat16, not the default)" in settings.difference(precise.digest)
    assert "(the default, not bfloat16)" in precise.difference(settings.digest)
    assert settings.difference(Settings({**DESCRIBED, "lines": "others"}).digest) == "other lines or options"


def test_float16_on_a_cpu_is_refused() -> None:
    with pytest.raises(FinetuningError, match=r"fp16.* needs a GPU: use bf16"):
        Processes(CPU, "fp16")
