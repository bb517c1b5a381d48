"""Damaged files, and the message with which they are refused."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from sspsam.errors import SSPSAMError


def flipped(data: bytes, position: int, chosen: random.Random) -> bytes:
    return data[:position] + bytes([data[position] ^ chosen.randrange(1, 256)]) + data[position + 1 :]


def flip_a_byte(path: Path) -> None:
    """Change one bit near the end of a file; a link stays a link."""
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.resolve().write_bytes(data)


def refusal(load: Callable[[], object], kind: type[SSPSAMError] = SSPSAMError) -> str:
    with pytest.raises(kind) as caught:
        load()
    return str(caught.value)
