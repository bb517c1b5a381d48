"""A batch on a Ray cluster (extra `[ray]`): the same files and lines as `sspsam.batch.run_batch`, on many machines.

A Ray Data pipeline has one predictor in each actor. Actors compute answers and write the files of images into a folder
that all machines share. The driver alone writes `results.jsonl` and `errors.jsonl`, in the order of the manifest. If a
worker dies, its images are answered once more, with the same bytes, and recorded once.
"""

import json
import math
import numbers
import operator
import os
import pickle
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, TypedDict, Unpack

import numpy as np
import torch
from numpy.typing import NDArray

from sspsam.batch.identity import AnswerIdentity
from sspsam.batch.job import Batch, BatchExpressions, Chunk, Source, cache_folder, predict_chunks
from sspsam.batch.options import BatchOptions, BatchSummary
from sspsam.batch.records import Line
from sspsam.batch.writing import ImageWriter, write_in_threads
from sspsam.devices import checked_dtype, default_dtype
from sspsam.errors import BatchError, SSPSAMError, StorageError, warn
from sspsam.hub import BUNDLED, REPOSITORY_VARIABLE
from sspsam.images.cache import EmbeddingCache
from sspsam.images.loading import pillow_pixel_limit
from sspsam.predictor import SSPSAMPredictor
from sspsam.segmentation.calibration import CalibrationChoice
from sspsam.utils.arguments import whole_number
from sspsam.utils.batching import raise_if_error, result_or_error
from sspsam.utils.installing import missing_extra
from sspsam.utils.paths import first_line, shown, user_path

_HOST_AND_PORT: Final = re.compile(r"(ray://)?(?P<host>\[[^]]+\]|[^\[\]:/]+):(?P<port>\d{1,5})")
_CONNECTION_SECONDS: Final = 10
_CHUNKS_PER_BLOCK: Final = 8  # a block is what Ray computes again when a worker dies
_Columns = dict[str, NDArray[Any]]


class PretrainedOptions(TypedDict, total=False):
    """Keyword arguments of `SSPSAMPredictor.from_pretrained`, without `device`, which the cluster determines."""

    revision: str | None
    dtype: str | torch.dtype | None
    cache_dir: str | os.PathLike[str] | None
    local_files_only: bool
    token: str | bool | None
    verify: bool | None
    repository: str | None
    embedding_cache: EmbeddingCache | str | os.PathLike[str] | None
    compile: bool
    calibration: CalibrationChoice


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster and its use.

    Args:
        address: of a Ray cluster, `"auto"` for the cluster of this machine; None: start a cluster on this machine for
            the batch. If the program is connected to a cluster already, that cluster is used.
        actors: number of predictors; None: as many as the cluster has room for.
        cpus: cores for each predictor.
        gpus: GPUs for each predictor; 0: the predictors compute on the CPU. A fraction shares a GPU.

    Raises:
        ValueError: a number is out of range; the message names the argument.
    """

    address: str | None = None
    actors: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if self.actors is not None:
            whole_number("actors", self.actors, 1)
        for name, least in (("cpus", "above 0"), ("gpus", "0 or more")):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, {least}, not {value!r}")
            if value < 0 or (value == 0 and name == "cpus"):
                raise ValueError(f"{name} must be a finite number, {least}, not {value!r}")


def run_batch_on_ray(
    source: Source,
    output: str | os.PathLike[str],
    texts: str | Sequence[str] | None = None,
    *,
    model: str | os.PathLike[str],
    prompts: str | os.PathLike[str] | None = None,
    labels: Sequence[str] | None = None,
    options: BatchOptions | None = None,
    cluster: Cluster | None = None,
    progress: bool = False,
    **pretrained: Unpack[PretrainedOptions],
) -> BatchSummary:
    """`sspsam.batch.run_batch` on a Ray cluster. Images, weights and `output` must have the same paths on all machines.

    Args:
        source, output, texts, prompts, labels, options, progress: as in `run_batch`.
        model: `name_or_path` of `SSPSAMPredictor.from_pretrained`.
        cluster: where the predictors run.
        pretrained: other arguments of `from_pretrained`, for every predictor.

    Returns:
        Counts of images and expressions.

    Raises:
        TypeError: `from_pretrained` has no such argument, or the argument is `device`.
        MissingExtraError: Ray is not installed.
        BatchError: as `run_batch`; also if an actor finds other weights than the driver.
        SSPSAMError: as `run_batch`.
    """
    _check_names(pretrained)
    ray, cluster, options = _import_ray(), cluster or Cluster(), (options or BatchOptions()).plain()
    device = torch.device("cuda" if cluster.gpus else "cpu")
    dtype = pretrained.get("dtype")
    predictor = SSPSAMPredictor.from_pretrained(model, device="cpu", **pretrained)
    identity = AnswerIdentity.from_predictor(
        predictor, device, default_dtype(device) if dtype is None else checked_dtype(dtype)
    )
    # an actor has another working directory
    output = user_path(output, "the output folder", StorageError).absolute()
    expressions = BatchExpressions.of(texts, prompts, labels)
    batch = Batch.plan(source, output, expressions, identity, options, cache_folder(predictor))
    setup = ActorSetup(
        model=_absolute_model(model),
        device=device.type,
        pretrained=_for_actors(pretrained, predictor),
        fingerprint=identity.fingerprint,
        options=options,
    )

    def answer(chunks: Sequence[Chunk], write: ImageWriter) -> Iterator[list[Line]]:
        return _lines_from_cluster(ray, cluster, chunks, setup, write)

    with _connected(ray, cluster.address):
        return batch.run(answer, progress)


def _check_names(pretrained: PretrainedOptions) -> None:
    """Raise a `TypeError` for arguments that do not exist, before anything is loaded or started."""
    if "device" in pretrained:
        raise TypeError("run_batch_on_ray() has no argument 'device': Cluster(gpus=1) puts each predictor on a GPU")
    known = PretrainedOptions.__annotations__
    unknown = [name for name in pretrained if name not in known]
    if unknown:
        raise TypeError(
            f"run_batch_on_ray() has no argument {unknown[0]!r}; besides its own it takes {', '.join(known)}, as "
            "SSPSAMPredictor.from_pretrained does"
        )


def _absolute_model(model: str | os.PathLike[str]) -> str:
    """Return the absolute path of a local checkpoint; other names are returned unchanged, for `sspsam.hub`."""
    path = os.path.expanduser(model)
    is_path = model != BUNDLED and os.path.exists(path)
    return os.path.abspath(path) if is_path else os.fspath(model)


def _for_actors(pretrained: PretrainedOptions, predictor: SSPSAMPredictor) -> PretrainedOptions:
    """Replace everything that depends on the driver's working directory or environment variables."""
    resolved, cache = pretrained.copy(), predictor.embedding_cache
    resolved["calibration"] = predictor.calibration or False
    resolved["repository"] = pretrained.get("repository") or os.environ.get(REPOSITORY_VARIABLE)
    if cache_dir := pretrained.get("cache_dir"):
        resolved["cache_dir"] = os.path.abspath(os.path.expanduser(cache_dir))
    if cache is not None:
        resolved["embedding_cache"] = EmbeddingCache(
            cache.directory.absolute(), max_bytes=cache.max_bytes, dtype=cache.dtype
        )
    return resolved


@dataclass(frozen=True)
class ActorSetup:
    """Everything that an actor needs to load its predictor.

    Args:
        model: `name_or_path` of `SSPSAMPredictor.from_pretrained`.
        device: kind of the actor's device.
        pretrained: other arguments of `from_pretrained`.
        fingerprint: expected fingerprint of the model.
        options: of the batch.
    """

    model: str
    device: str
    pretrained: PretrainedOptions
    fingerprint: str
    options: BatchOptions

    def load_predictor(self) -> SSPSAMPredictor:
        """Load the predictor.

        Raises:
            BatchError: the weights are not those of the driver.
            SSPSAMError: as `from_pretrained`.
        """
        predictor = SSPSAMPredictor.from_pretrained(self.model, device=self.device, **self.pretrained)
        if predictor.fingerprint != self.fingerprint:
            raise BatchError(
                f"the weights of {self.model} on this machine are not those that the driver loaded: copy the same "
                "checkpoint to all machines"
            )
        return predictor


class Actor:
    """Answers blocks of a dataset in one process of the cluster.

    Errors are returned as values: Ray would retry a block that raises, and report a traceback instead of the message.

    Args:
        setup: of the predictor.
        write: writes the files of an image.
    """

    def __init__(self, setup: ActorSetup, write: ImageWriter) -> None:
        self._options, self._write = setup.options, write
        self._predictor: SSPSAMPredictor | SSPSAMError = result_or_error(setup.load_predictor)

    def __call__(self, block: _Columns) -> _Columns:
        """Answer the images of a block.

        Args:
            block: columns `first`, the number of the first image of each chunk, and `chunk`, the pickled chunk.

        Returns:
            Columns `number` and `lines` with one row for each image: its number, and its lines as JSON. After an
            error, one row with number -1 and, as JSON, the name and message of the error.
        """
        chunks: list[Chunk] = [pickle.loads(chunk) for chunk in block["chunk"]]
        lines = result_or_error(self._json_lines, chunks)
        if isinstance(lines, SSPSAMError):
            return {"number": np.array([-1]), "lines": np.array([json.dumps([type(lines).__name__, str(lines)])])}
        numbers = [
            int(first) + index
            for first, chunk in zip(block["first"], chunks, strict=True)
            for index in range(_unrecorded(chunk))
        ]
        return {"number": np.array(numbers), "lines": np.array(lines, dtype=object)}

    def _json_lines(self, chunks: list[Chunk]) -> list[str]:
        predictor = raise_if_error(self._predictor)
        with pillow_pixel_limit(self._options.max_pixels):
            outcomes = predict_chunks(chunks, predictor, self._options)
            return [json.dumps(lines) for lines in write_in_threads(outcomes, self._write)]


def _unrecorded(chunk: Chunk) -> int:
    return sum(not image.is_recorded for image in chunk)


def _lines_from_cluster(
    ray: ModuleType, cluster: Cluster, chunks: Sequence[Chunk], setup: ActorSetup, write: ImageWriter
) -> Iterator[list[Line]]:
    """Yield the lines of each image, in order and once."""
    if not chunks:
        return
    rows = _run_pipeline(ray, cluster, _pipeline_items(chunks), setup, write)
    early: dict[int, list[Line]] = {}  # lines of images whose predecessors are not finished
    next_number = 0
    for row in rows:
        lines = json.loads(row["lines"])
        if row["number"] < 0:
            name, message = lines
            raise BatchError(f"a worker stopped: {name}: {message}")
        early[row["number"]] = lines
        while next_number in early:
            yield early.pop(next_number)
            next_number += 1


def _pipeline_items(chunks: Sequence[Chunk]) -> list[dict[str, Any]]:
    """Pickle chunks, and number the images in them that are not recorded."""
    items: list[dict[str, Any]] = []
    first = 0
    for chunk in chunks:
        items.append({"first": first, "chunk": pickle.dumps(chunk)})
        first += _unrecorded(chunk)
    return items


def _run_pipeline(
    ray: ModuleType, cluster: Cluster, items: list[dict[str, Any]], setup: ActorSetup, write: ImageWriter
) -> Iterator[dict[str, Any]]:
    dataset = ray.data.from_items(items, override_num_blocks=-(-len(items) // _CHUNKS_PER_BLOCK)).map_batches(
        Actor,
        fn_constructor_args=(setup, write),
        batch_size=_CHUNKS_PER_BLOCK,
        compute=ray.data.ActorPoolStrategy(size=_actor_count(ray, cluster, len(items))),
        num_cpus=None if cluster.gpus else cluster.cpus,
        num_gpus=cluster.gpus or None,
    )
    try:
        yield from dataset.iter_rows()
    except ray.exceptions.RayError as error:
        messages = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise BatchError(f"the Ray cluster failed: {messages[-1].strip()}") from error


def _actor_count(ray: ModuleType, cluster: Cluster, chunks: int) -> int:
    """Return the number of actors to start.

    Raises:
        BatchError: a cluster of this machine has no room for one actor; Ray would wait for ever.
    """
    resource, needed = ("GPU", cluster.gpus) if cluster.gpus else ("CPU", cluster.cpus)
    largest = max((node["Resources"].get(resource, 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
    if largest < needed:
        shortage = (
            f"each predictor needs {needed:g} {resource}s, and no machine of the cluster has more than {largest:g}"
        )
        if cluster.address is None:
            raise BatchError(f"{shortage}: ask for fewer {resource}s for each predictor")
        warn(f"{shortage}: waiting for a machine that has them")  # some clusters add machines on demand
    if cluster.actors is not None:
        return operator.index(cluster.actors)  # of an integer of NumPy too
    room = int(ray.cluster_resources().get(resource, 0.0) / needed)
    return max(1, min(room, -(-chunks // _CHUNKS_PER_BLOCK)))


@contextmanager
def _connected(ray: ModuleType, address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start one, and disconnect at the end; an existing connection is used and kept."""
    connects = not ray.is_initialized()
    if connects:
        try:
            _require_listener(address)
            ray.init(address=address, log_to_driver=False)
        except (ValueError, OSError, RuntimeError, OverflowError) as error:
            place = "a cluster on this machine" if address is None else f"the cluster {shown(address)}"
            raise BatchError(f"cannot connect to {place}: {shown(first_line(error))}") from error
    context = ray.data.DataContext.get_current()
    before = context.enable_progress_bars, context.execution_options.preserve_order
    context.enable_progress_bars = False  # the batch has a progress bar of its own
    context.execution_options.preserve_order = True  # so that few lines have to wait for their predecessors
    try:
        yield
    finally:
        context.enable_progress_bars, context.execution_options.preserve_order = before
        if connects:
            ray.shutdown()


def _require_listener(address: str | None) -> None:
    """Connect once to an address of the form `host:port`: where nothing listens, Ray would try for many minutes.

    Raises:
        OSError: nothing listens there.
    """
    match = _HOST_AND_PORT.fullmatch(address or "")
    if match is not None:
        socket.create_connection((match["host"].strip("[]"), int(match["port"])), _CONNECTION_SECONDS).close()


def _import_ray() -> ModuleType:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise missing_extra("a batch on a cluster", "Ray", "ray", error) from error
    module: ModuleType = ray
    return module
