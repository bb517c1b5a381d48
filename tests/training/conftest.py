"""Fixtures that the tests of training share."""

from pathlib import Path

import pytest

from tests.support.training import SMOKE
from training import train
from training.vocabulary import Vocabulary, load_or_create_vocabulary


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of all stages of the smoke recipe; tests that change it copy it first."""
    folder = tmp_path_factory.mktemp("run")
    train.main(["--recipe", "smoke", "--output", str(folder), "--log-steps", "2"])
    return folder


@pytest.fixture(scope="session")
def vocabulary(run: Path) -> Vocabulary:
    return load_or_create_vocabulary(SMOKE, run)
