"""Fixtures of all tests of batches."""

from pathlib import Path

import pytest

from sspsam import SSPSAMPredictor
from tests.support.batches import draw


@pytest.fixture(scope="module")
def predictor(tiny_model: Path) -> SSPSAMPredictor:
    return SSPSAMPredictor.from_pretrained(tiny_model, device="cpu")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four images in nested folders, a file that only has the name of an image, and a file of another kind."""
    folder = tmp_path / "photos"
    for seed, name in enumerate(["b.png", "a.jpg", "sub/a.jpg", "sub/deeper/c.png"]):
        draw(folder / name, seed)
    (folder / "bad.jpg").write_text("no image")
    (folder / "notes.md").write_text("no image by its name")
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two images, one of them in a nested folder."""
    for seed, name in enumerate(("a.png", "sub/b.png")):
        draw(tmp_path / "images" / name, seed)
    return tmp_path / "images"
