"""Fixtures of the demo page: the bundled model, and a scene as an image file."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sspsam import SSPSAMPredictor
from sspsam.demo.answering import Answering
from sspsam.demo.limits import Limits
from sspsam.shapes import Scene, draw_scene
from tests.support.demo_server import demo_process


@pytest.fixture(scope="session")
def predictor() -> SSPSAMPredictor:
    return SSPSAMPredictor.from_pretrained("shapes", device="cpu")


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Current directory of the demo, and the place of its temporary files."""
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="session")
def address(demo_folder: Path) -> Iterator[str]:
    """The address of a demo that all slow tests share."""
    with demo_process(demo_folder, "--mcp") as (address, process):
        yield address
    assert process.returncode == 143, "SIGTERM, by which the process was ended, is a clean end"
    assert not [path.name for path in demo_folder.iterdir() if "gradio" in path.name or "sspsam" in path.name]


@pytest.fixture
def answering(predictor: SSPSAMPredictor) -> Answering:
    return Answering(predictor, Limits())


@pytest.fixture(scope="session")
def scene() -> Scene:
    """A scene with a red square and a heart, and without a purple star."""
    return draw_scene(179, size=(270, 360), shapes=7)


@pytest.fixture(scope="session")
def png(scene: Scene) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(scene.pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def other_png() -> bytes:
    """Another scene, of another size."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(draw_scene(246, size=(200, 320), shapes=7).pixels)).save(buffer, "PNG")
    return buffer.getvalue()
