"""The batch on a Ray cluster of this machine: the rows of the local one, also when a worker is killed in the middle."""

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from PIL import Image

import sspsam.batch.ray
from sspsam import EmbeddingCache, SSPSAMPredictor, errors
from sspsam.batch import run_batch
from sspsam.batch.ray import Cluster, run_batch_on_ray
from sspsam.shapes import draw_scene

ray = pytest.importorskip("ray", reason="pip install 'sspsam[ray]' to run the tests on a Ray cluster")

TEXTS = ["the red circle", "a dog"]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """A cluster with room for two workers, and for one with a GPU, whether there is one or not."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        num_cpus=2,
        num_gpus=1,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
    )
    yield
    ray.shutdown()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for seed in range(30):
        path = folder / str(seed % 3) / f"{seed}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_scene(seed, (60, 90)).pixels).save(path)
    (folder / "bad.jpg").write_text("no picture")
    return folder


@pytest.fixture
def whole(photos: Path, tiny_model: Path, tmp_path: Path) -> dict[str, bytes]:
    """What the local run writes, on one thread as an actor has it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        predictor = SSPSAMPredictor.from_pretrained(tiny_model, device="cpu")
        run_batch(photos, tmp_path / "whole", TEXTS, predictor=predictor)
    finally:
        torch.set_num_threads(threads)
    return tree(tmp_path / "whole")


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def is_at_work(process: psutil.Process) -> bool:
    """Whether a process is an actor of the pipeline; Ray writes what it does into its title."""
    try:
        title = " ".join(process.cmdline())
        return title.startswith("ray::") and "Map" in title
    except psutil.Error:
        return False


def test_it_writes_what_a_local_run_writes(photos, tiny_model, tmp_path, whole) -> None:
    cache = EmbeddingCache(tmp_path / "cache")
    for expected in (30, 0):
        summary = run_batch_on_ray(
            photos, tmp_path / "out", TEXTS, model=tiny_model, cluster=Cluster(actors=2), embedding_cache=cache
        )
        assert (summary.done, summary.failed) == (expected, 1)
        assert tree(tmp_path / "out") == whole
    assert len(list(cache.directory.glob("*/*"))) == 30


@pytest.mark.slow
def test_paths_are_those_of_the_driver(photos, tiny_model, tmp_path, whole, monkeypatch) -> None:
    (tmp_path / "model").symlink_to(tiny_model)
    monkeypatch.chdir(tmp_path)  # the workers are where the cluster was started
    run_batch_on_ray("photos", "out", TEXTS, model="model", cluster=Cluster(actors=2), embedding_cache="cache")
    assert tree(tmp_path / "out")["results.jsonl"].count(b"\n") == whole["results.jsonl"].count(b"\n") == 60
    assert {name for name in tree(tmp_path / "out") if name.endswith(".png")} <= whole.keys()
    assert tree(tmp_path / "out")["errors.jsonl"] == whole["errors.jsonl"]
    assert len(list((tmp_path / "cache").glob("*/*"))) == 30


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_and_doubles_nothing(photos, tiny_model, tmp_path, whole) -> None:
    killed: list[int] = []

    def kill_one() -> None:
        while not killed:
            time.sleep(0.01)
            workers = [p.pid for p in psutil.process_iter() if is_at_work(p)]
            if workers and any((tmp_path / "out").glob("*/*.png")):
                os.kill(workers[0], signal.SIGKILL)
                killed.append(workers[0])

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    run_batch_on_ray(photos, tmp_path / "out", TEXTS, model=tiny_model, cluster=Cluster(actors=2))
    killer.join(timeout=10)
    assert killed
    assert tree(tmp_path / "out") == whole


@pytest.mark.slow
def test_a_worker_that_cannot_write_stops_the_run_with_its_reason(photos, tiny_model, tmp_path, whole) -> None:
    out = tmp_path / "out"
    run_batch_on_ray(photos, out, TEXTS, model=tiny_model, cluster=Cluster(actors=2))
    for name in ("results.jsonl", "errors.jsonl"):
        (out / name).write_text("")
    (out / "1").rename(tmp_path / "elsewhere")
    (out / "1").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(errors.BatchError, match=r"StorageError.*leads out of"):
        run_batch_on_ray(photos, out, TEXTS, model=tiny_model, cluster=Cluster(actors=2))
    (out / "1").unlink()
    run_batch_on_ray(photos, out, TEXTS, model=tiny_model, cluster=Cluster(actors=1))
    assert tree(out) == whole


def test_a_worker_that_cannot_begin_says_why(photos, tiny_model, tmp_path) -> None:
    lacking = tmp_path / "model"
    shutil.copytree(tiny_model, lacking)

    def loses(*arguments: object) -> Iterator[None]:
        (lacking / "model.safetensors").unlink()  # between the driver, which has it open, and the workers
        return answered(*arguments)

    answered = sspsam.ray._answered
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sspsam.ray, "_answered", loses)
        with pytest.raises(errors.BatchError, match=r"a worker stopped: .*model.safetensors"):
            run_batch_on_ray(photos, tmp_path / "out", TEXTS, model=lacking, cluster=Cluster(actors=1))


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_gpus_that_are_not_there_are_missed_at_once(photos, tiny_model, tmp_path, monkeypatch) -> None:
    with pytest.raises(errors.BatchError, match=r"an actor is to have 2 GPUs.*more than 1"):
        run_batch_on_ray(photos, tmp_path / "out", TEXTS, model=tiny_model, cluster=Cluster(gpus=2))
    with pytest.raises(errors.BatchError, match=r"a worker stopped: DeviceError.*cuda"):  # promised, but not there
        run_batch_on_ray(photos, tmp_path / "out", TEXTS, model=tiny_model, cluster=Cluster(gpus=1))


def test_without_ray_the_error_names_the_extra(monkeypatch, photos, tiny_model, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(errors.MissingExtraError, match=r"sspsam\[ray\]"):
        run_batch_on_ray(photos, tmp_path / "out", TEXTS, model=tiny_model)
