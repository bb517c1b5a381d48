"""A batch on a Ray cluster of this machine writes what a local run writes, also when a worker is killed."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from PIL import Image

import sspsam.batch.ray
from sspsam import EmbeddingCache, SSPSAMPredictor, errors
from sspsam.batch import run_batch
from sspsam.batch.ray import Cluster, run_batch_on_ray
from sspsam.batch.records import Line
from sspsam.shapes import draw_scene

ray = pytest.importorskip("ray", reason="pip install '.[ray]' to run the tests on a Ray cluster")

TEXTS = ["the red circle", "a dog"]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """A cluster with room for two actors, and for one with a GPU, which does not have to exist."""
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
    (folder / "bad.jpg").write_text("no image")
    return folder


@pytest.fixture
def local_run(photos: Path, tiny_model: Path, tmp_path: Path) -> dict[str, bytes]:
    """Files of a local run on one thread, as in an actor."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        predictor = SSPSAMPredictor.from_pretrained(tiny_model, device="cpu")
        run_batch(photos, tmp_path / "local", TEXTS, predictor=predictor)
    finally:
        torch.set_num_threads(threads)
    return tree(tmp_path / "local")


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def is_actor(process: psutil.Process) -> bool:
    """Return whether a process is an actor of the pipeline; Ray writes the task of a process into its title."""
    try:
        title = " ".join(process.cmdline())
        return title.startswith("ray::") and "Map" in title
    except psutil.Error:
        return False


@pytest.mark.slow
def test_files_equal_those_of_a_local_run(photos, tiny_model, tmp_path, local_run) -> None:
    cache = EmbeddingCache(tmp_path / "cache")
    for expected in (30, 0):
        summary = run_batch_on_ray(
            photos, tmp_path / "out", TEXTS, model=tiny_model, cluster=Cluster(actors=2), embedding_cache=cache
        )
        assert (summary.done, summary.failed) == (expected, 1)
        assert tree(tmp_path / "out") == local_run
    assert len(list(cache.directory.glob("*/*"))) == 30


@pytest.mark.slow
def test_relative_paths_are_relative_to_the_driver(photos, tiny_model, tmp_path, local_run, monkeypatch) -> None:
    (tmp_path / "model").symlink_to(tiny_model)
    monkeypatch.chdir(tmp_path)  # the actors have the working directory of the cluster
    run_batch_on_ray("photos", "out", TEXTS, model="model", cluster=Cluster(actors=2), embedding_cache="cache")
    assert tree(tmp_path / "out")["results.jsonl"].count(b"\n") == local_run["results.jsonl"].count(b"\n") == 60
    assert {name for name in tree(tmp_path / "out") if name.endswith(".png")} <= local_run.keys()
    assert tree(tmp_path / "out")["errors.jsonl"] == local_run["errors.jsonl"]
    assert len(list((tmp_path / "cache").glob("*/*"))) == 30


@pytest.mark.slow
def test_killed_worker_loses_and_doubles_nothing(photos, tiny_model, tmp_path, local_run) -> None:
    killed: list[int] = []

    def kill_an_actor() -> None:
        while not killed:
            time.sleep(0.01)
            workers = [p.pid for p in psutil.process_iter() if is_actor(p)]
            if workers and any((tmp_path / "out").glob("*/*.png")):
                os.kill(workers[0], signal.SIGKILL)
                killed.append(workers[0])

    killer = threading.Thread(target=kill_an_actor, daemon=True)
    killer.start()
    run_batch_on_ray(photos, tmp_path / "out", TEXTS, model=tiny_model, cluster=Cluster(actors=2))
    killer.join(timeout=10)
    assert killed
    assert tree(tmp_path / "out") == local_run


@pytest.mark.slow
def test_worker_that_cannot_write_stops_the_run_with_the_reason(photos, tiny_model, tmp_path, local_run) -> None:
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
    assert tree(out) == local_run


@pytest.mark.slow
def test_worker_that_cannot_load_the_model_stops_the_run_with_the_reason(photos, tiny_model, tmp_path) -> None:
    incomplete = tmp_path / "model"
    shutil.copytree(tiny_model, incomplete)

    pipeline = sspsam.batch.ray._lines_from_cluster

    def pipeline_without_weights(*arguments: Any) -> Iterator[list[Line]]:
        (incomplete / "model.safetensors").unlink()  # after the driver has mapped the file, before the actors open it
        return pipeline(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sspsam.batch.ray, "_lines_from_cluster", pipeline_without_weights)
        with pytest.raises(errors.BatchError, match=r"a worker stopped: .*model.safetensors"):
            run_batch_on_ray(photos, tmp_path / "out", TEXTS, model=incomplete, cluster=Cluster(actors=1))


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_missing_gpus_are_reported_at_once(photos, tiny_model, tmp_path, monkeypatch) -> None:
    with pytest.raises(errors.BatchError, match=r"each predictor needs 2 GPUs.*more than 1"):
        run_batch_on_ray(photos, tmp_path / "out", TEXTS, model=tiny_model, cluster=Cluster(gpus=2))
    with pytest.raises(errors.BatchError, match=r"a worker stopped: DeviceError.*cuda"):
        run_batch_on_ray(photos, tmp_path / "out", TEXTS, model=tiny_model, cluster=Cluster(gpus=1))
