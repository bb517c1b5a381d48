"""Scenes on disk as input of a batch, and its output as Python values."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sspsam.shapes import draw_scene

TEXT = "the red circle"
TEXTS = ["the red circle", "a dog"]
needs_links = pytest.mark.skipif(os.name == "nt", reason="links and pipes of Unix")


def draw(path: Path, seed: int, size: tuple[int, int] = (60, 90)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_scene(seed, size).pixels).save(path)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return every path below a folder with its content; None for a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}
