"""Fixtures that many tests share: where the reference files are, and models of several sizes."""

import atexit
import os
import random
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import settings

from tests.support.hub import FakeHub

if TYPE_CHECKING:
    from sspsam import SSPSAMPredictor

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
MOST_WORKERS = 4  # each holds PyTorch and models: some 2 GB

# each worker of pytest-xdist takes its share of the cores; PyTorch and the subprocesses of tests read this once
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, CORES // WORKERS)))

# before huggingface_hub is imported by anything: it reads these once, and no test may reach another Hub
HUB = FakeHub()
_HF_HOME = tempfile.mkdtemp(prefix="sspsam-tests-hf-")
atexit.register(shutil.rmtree, _HF_HOME, ignore_errors=True)
os.environ |= {
    "HF_ENDPOINT": HUB.url,
    "HF_HOME": _HF_HOME,
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "NO_PROXY": "127.0.0.1,localhost",
}
for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "SSPSAM_REPOSITORY"):
    os.environ.pop(name, None)

# each run draws the same examples, so that a failure comes of the change under test; SSPSAM_TEST_RANDOM=1 draws others
settings.register_profile("repeatable", derandomize=True)
if os.environ.get("SSPSAM_TEST_RANDOM") != "1":
    settings.load_profile("repeatable")

DATA = Path(__file__).parent / "data"
REFERENCE = "SSPSAM_REFERENCE"


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Spread the tests over the cores unless the command line says otherwise (`-n 0`, `--pdb`, `-p no:xdist`)."""
    if not config.pluginmanager.hasplugin("xdist") or hasattr(config, "workerinput"):
        return
    options = config.option
    if options.numprocesses is None and not options.tx and not options.usepdb:
        options.numprocesses = min(CORES, MOST_WORKERS)
        if options.dist == "no":
            options.dist = "worksteal"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda") is None:
        return
    import torch

    if not torch.cuda.is_available():
        warnings.warn("there is no NVIDIA GPU: tests marked `cuda` are SKIPPED", stacklevel=1)
        pytest.skip("needs an NVIDIA GPU")


@pytest.fixture(autouse=True)
def _seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["SSPSAM_HOME"] = str(tmp_path_factory.mktemp("sspsam-home"))


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    """The Hub on loopback, empty and without faults."""
    HUB.reset()
    yield HUB
    HUB.reset()


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder with the golden files, layouts and photographs; a test that needs it skips where there is none."""
    folder = os.environ.get(REFERENCE)
    if not folder:
        warnings.warn(f"{REFERENCE} is not set: tests against the golden files are SKIPPED", stacklevel=1)
        pytest.skip(f"set {REFERENCE} to the folder with the golden files to run this test")
    path = Path(folder)
    assert (path / "SSP_SAM.md").is_file(), f"{REFERENCE}={folder} does not hold the golden files"
    return path


@pytest.fixture(scope="session")
def golden_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The authors' checkpoint behind the golden files of a variant, made once."""
    from benchmarks.authors_checkpoint import authors_state, small_architecture, write_checkpoint

    folder = tmp_path_factory.mktemp("golden")

    def make(variant: str) -> Path:
        path = folder / f"{variant}.pth"
        return path if path.exists() else write_checkpoint(path, authors_state(small_architecture(variant)))

    return make


@pytest.fixture(scope="session")
def golden_model(golden_checkpoint: Callable[[str], Path]) -> Callable[[str], Path]:
    """The same, converted."""
    from sspsam.checkpoints.convert import convert_checkpoint

    def make(variant: str) -> Path:
        source = golden_checkpoint(variant)
        directory = source.with_suffix("")
        if not directory.exists():
            convert_checkpoint(source, directory)
        return directory

    return make


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny authors' checkpoint; tests that change it copy it first."""
    from benchmarks.authors_checkpoint import authors_state, tiny_architecture, write_checkpoint

    return write_checkpoint(tmp_path_factory.mktemp("tiny") / "tiny.pth", authors_state(tiny_architecture()))


@pytest.fixture(scope="session")
def tiny_model(tiny_checkpoint: Path) -> Path:
    """The same, converted; tests that change it copy it first."""
    from sspsam.checkpoints.convert import convert_checkpoint

    directory = tiny_checkpoint.with_suffix("")
    convert_checkpoint(tiny_checkpoint, directory, source="pseudo-random weights of the tests")
    return directory


@pytest.fixture
def predictor(tiny_model: Path) -> "SSPSAMPredictor":
    """The tiny model on the CPU."""
    from sspsam import SSPSAMPredictor

    return SSPSAMPredictor.from_pretrained(tiny_model, device="cpu")


@pytest.fixture(scope="session")
def second_head(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with the image encoders of the tiny one, and another head."""
    from tests.support.sharing import changed_copy, other_head

    return changed_copy(tiny_model, tmp_path_factory.mktemp("second"), other_head)


@pytest.fixture(scope="session")
def other_encoders(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that differs from the tiny one in one bit of one weight of an image encoder."""
    from tests.support.sharing import changed_copy, one_bit

    return changed_copy(tiny_model, tmp_path_factory.mktemp("other"), one_bit)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Counts the images that go through the image encoders."""
    from tests.support.sharing import EncodedImages

    return EncodedImages(monkeypatch)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache and records of its own."""
    monkeypatch.setenv("SSPSAM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "home"


@pytest.fixture
def image() -> np.ndarray:
    """A (60, 90, 3) image in which every pixel differs."""
    rows, columns = np.mgrid[0:60, 0:90]
    return np.stack([rows * 4, columns * 2, (rows * 7 + columns * 3) % 256], axis=-1).astype(np.uint8)
