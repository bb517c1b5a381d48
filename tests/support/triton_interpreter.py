"""Triton's interpreter: kernels for a GPU run on the CPU, step by step."""

import importlib.util
import os
import subprocess
import sys

import pytest

from tests.support.pages import ROOT

# the beginning of programs that compare float16 results of kernels with float32 values, and collect the differences
COMPARE = """
import json, sys, torch
from torch import nn

torch.manual_seed(0)
dtype, differences = torch.float16, {}

def compare(name, result, expected, wide=False):
    assert result.shape == expected.shape, name
    assert result.dtype == (torch.float32 if wide else dtype), name
    # relative to float16, whose numbers from 1 to 2 are 2**-10 apart
    difference = (result.float() - expected.float()).abs() / expected.float().abs().clamp(min=1)
    differences[name] = float(difference.max()) * (100 if wide else 1)
"""
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


def interpreted(program: str) -> str:
    """Return the output of a Python program for which Triton interprets kernels, and checks their use of memory.

    It runs in a process of its own: Triton decides when it is imported.
    """
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    checked = f"from tests.support.triton_memory import check_memory\ncheck_memory()\n{program}"
    process = subprocess.run(
        [sys.executable, "-c", checked], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    return process.stdout
