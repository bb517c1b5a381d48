"""Triton's interpreter: kernels for a GPU run on the CPU, step by step."""

import importlib.util
import os
import subprocess
import sys

import pytest

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


def interpreted(program: str) -> str:
    """Return the output of a Python program for which Triton interprets kernels.

    It runs in a process of its own: Triton decides when it is imported.
    """
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    process = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    return process.stdout
