from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from sspsam import SSPSAMPredictor
from tests.support.serving import GatedPredictor, RunningServer, running


@pytest.fixture(scope="package")
def predictor(tiny_model: Path) -> SSPSAMPredictor:
    return SSPSAMPredictor.from_pretrained(tiny_model, device="cpu")


@pytest.fixture(scope="package")
def server(predictor: SSPSAMPredictor) -> Iterator[RunningServer]:
    """A server with the defaults and a tiny model."""
    with running(predictor) as started:
        yield started


@pytest.fixture(scope="package")
def client(server: RunningServer) -> Iterator[httpx.Client]:
    with server.client() as opened:
        yield opened


@pytest.fixture
def gated() -> Iterator[GatedPredictor]:
    """A predictor that answers after `gate.set()`."""
    predictor = GatedPredictor()
    yield predictor
    predictor.gate.set()
