"""A batch on a Ray cluster (extra `[ray]`): the job of `sspsam.batch`, with the same files and lines, on many machines.

A Ray Data pipeline of one predictor an actor: actors answer and write the files of pictures, into a folder that all
machines see; the driver alone writes `results.jsonl` and `errors.jsonl`, in the order of the manifest. A picture that
is answered twice, because a worker died, has the same bytes again and is recorded once.
"""

import json
import os
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from sspsam.batch.job import Answering, Batch, Source, Unit, outcomes_of
from sspsam.batch.options import BatchOptions, BatchSummary
from sspsam.batch.records import Line
from sspsam.batch.writing import PictureWriter, written
from sspsam.checkpoints.names import BUNDLED
from sspsam.devices import checked_dtype, default_dtype
from sspsam.errors import BatchError, MissingExtraError, SSPSAMError, warn
from sspsam.hub import REPOSITORY_VARIABLE
from sspsam.images.cache import EmbeddingCache
from sspsam.images.loading import pillow_pixel_limit
from sspsam.predictor import SSPSAMPredictor
from sspsam.utils.batching import raise_if_error, result_or_error

_UNITS: Final = 8  # units of work in a block, which is what is done again when a worker dies
_Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Cluster:
    """Where a batch runs.

    Args:
        address: of a Ray cluster, `"auto"` for the one of this machine; None: one that is started on this machine for
            the batch. A program that is connected already stays so.
        actors: predictors at work; None: as many as the cluster has room for.
        cpus: cores for each.
        gpus: of each; 0: it computes on the CPU. Less than 1 shares a GPU.
    """

    address: str | None = None
    actors: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0


def run_batch_on_ray(
    source: Source,
    output: str | os.PathLike[str],
    texts: str | Sequence[str] | None = None,
    *,
    model: str | os.PathLike[str],
    prompts: str | os.PathLike[str] | None = None,
    options: BatchOptions | None = None,
    cluster: Cluster | None = None,
    progress: bool = False,
    **loading: Any,
) -> BatchSummary:
    """`sspsam.batch.run_batch` on a Ray cluster; pictures, weights and `output` are where all its machines see them.

    Args:
        source, output, texts, prompts, options, progress: as in `run_batch`.
        model: as in `SSPSAMPredictor.from_pretrained`.
        cluster: where.
        loading: other arguments of `from_pretrained`, for every actor; `device` is chosen by `cluster`.

    Raises:
        MissingExtraError: Ray is not installed.
        BatchError: as `run_batch`; also when an actor has other weights than the driver.
        SSPSAMError: as `run_batch`.
    """
    ray, cluster, options = _ray(), cluster or Cluster(), options or BatchOptions()
    device = torch.device("cuda" if cluster.gpus else "cpu")
    dtype = checked_dtype(loading["dtype"]) if loading.get("dtype") else default_dtype(device)
    predictor = SSPSAMPredictor.from_pretrained(model, **{**loading, "device": "cpu"})
    answering = Answering.like(predictor, device, dtype)
    batch = Batch.of(source, output, texts, prompts, answering, options)
    batch.output = batch.output.absolute()  # a worker is in another directory
    load = {"name_or_path": _absolute(model), **loading, "device": device.type}
    load["repository"] = loading.get("repository") or os.environ.get(REPOSITORY_VARIABLE)
    if loading.get("cache_dir"):
        load["cache_dir"] = os.path.abspath(loading["cache_dir"])
    if cache := predictor.embedding_cache:
        load["embedding_cache"] = EmbeddingCache(
            cache.directory.absolute(), max_bytes=cache.max_bytes, dtype=cache.dtype
        )

    def answered(units: Sequence[Unit], write: PictureWriter) -> Iterator[list[Line]]:
        return _answered(ray, cluster, units, (load, answering.fingerprint, options, write))

    with _connected(ray, cluster.address):
        return batch.run(answered, progress)


class Actor:  # what it raised, Ray would try again, and then show where it was raised rather than what it says
    """Answers blocks of a dataset in one process of the cluster.

    Args:
        load: arguments of `from_pretrained`.
        fingerprint: that the model must have.
        options: of the batch.
        write: writes the files.
    """

    def __init__(self, load: dict[str, Any], fingerprint: str, options: BatchOptions, write: PictureWriter) -> None:
        self._options, self._write = options, write
        self._predictor: SSPSAMPredictor | SSPSAMError = result_or_error(SSPSAMPredictor.from_pretrained, **load)
        if isinstance(self._predictor, SSPSAMPredictor) and self._predictor.fingerprint != fingerprint:
            self._predictor = BatchError(f"it found other weights under {load['name_or_path']} than the driver")

    def __call__(self, block: _Columns) -> _Columns:
        """Columns `first`, the number of a unit's first picture, and `unit` -> `number` of a picture, its `lines`."""
        units: list[Unit] = [pickle.loads(unit) for unit in block["unit"]]
        numbers = [
            int(first) + index
            for first, unit in zip(block["first"], units, strict=True)
            for index in range(sum(not each.done for each in unit))
        ]
        lines = result_or_error(self._lines, units)
        if isinstance(lines, SSPSAMError):
            return {"number": np.array([-1]), "lines": np.array([json.dumps([type(lines).__name__, str(lines)])])}
        return {"number": np.array(numbers), "lines": np.array(lines, dtype=object)}

    def _lines(self, units: list[Unit]) -> list[str]:
        predictor = raise_if_error(self._predictor)
        with pillow_pixel_limit(self._options.max_pixels):
            return [json.dumps(each) for each in written(outcomes_of(units, predictor, self._options), self._write)]


def _answered(
    ray: ModuleType, cluster: Cluster, units: Sequence[Unit], arguments: tuple[Any, ...]
) -> Iterator[list[Line]]:
    """The lines of each picture, in order, each once."""
    if not units:
        return
    items, pictures = [], 0
    for unit in units:
        items.append({"first": pictures, "unit": pickle.dumps(unit)})
        pictures += sum(not each.done for each in unit)
    answers = ray.data.from_items(items, override_num_blocks=-(-len(items) // _UNITS)).map_batches(
        Actor,
        fn_constructor_args=arguments,
        batch_size=_UNITS,
        compute=ray.data.ActorPoolStrategy(size=_actors(ray, cluster, len(items))),
        num_cpus=None if cluster.gpus else cluster.cpus,
        num_gpus=cluster.gpus or None,
    )
    early: dict[int, list[Line]] = {}
    following = 0
    for row in _rows(ray, answers):
        found = json.loads(row["lines"])
        if row["number"] < 0:
            raise BatchError(f"a worker stopped: {found[0]}: {found[1]}")
        early[row["number"]] = found
        while following in early:
            yield early.pop(following)
            following += 1


def _rows(ray: ModuleType, answers: Any) -> Iterator[dict[str, Any]]:
    try:
        yield from answers.iter_rows()
    except ray.exceptions.RayError as error:
        said = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise BatchError(f"the cluster failed: {said[-1].strip()}") from error


def _actors(ray: ModuleType, cluster: Cluster, units: int) -> int:
    """How many actors to start.

    Raises:
        BatchError: a cluster of this machine has no room for one; Ray would wait for it for ever.
    """
    name, each = ("GPU", cluster.gpus) if cluster.gpus else ("CPU", cluster.cpus)
    largest = max((node["Resources"].get(name, 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
    if largest < each:
        lack = f"an actor is to have {each:g} {name}s, and no machine of the cluster has more than {largest:g}"
        if cluster.address is None:
            raise BatchError(lack)
        warn(f"{lack}: waiting for one that has")  # clusters grow when they are asked
    if cluster.actors is not None:
        return cluster.actors
    room = ray.cluster_resources().get(name, 0.0) / each
    return max(1, min(int(room), -(-units // _UNITS)))


@contextmanager
def _connected(ray: ModuleType, address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start one, for as long as it is needed."""
    ours = not ray.is_initialized()
    if ours:
        ray.init(address=address, log_to_driver=False)
    context = ray.data.DataContext.get_current()
    before = context.enable_progress_bars, context.execution_options.preserve_order
    context.enable_progress_bars = False  # the batch has a bar of its own
    context.execution_options.preserve_order = True  # lines are written in order: none should wait for long
    try:
        yield
    finally:
        context.enable_progress_bars, context.execution_options.preserve_order = before
        if ours:
            ray.shutdown()


def _absolute(model: str | os.PathLike[str]) -> str:
    """The path of a checkpoint that is here; a name stays a name, as `sspsam.hub` reads it."""
    is_path = model != BUNDLED and os.path.exists(model)
    return os.path.abspath(model) if is_path else os.fspath(model)


def _ray() -> ModuleType:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError(
            f"a batch on a cluster needs Ray, which is not installed ({error}): pip install 'sspsam[ray]'"
        ) from error
    module: ModuleType = ray
    return module
