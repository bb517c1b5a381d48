"""Options of `sspsam batch` in groups, and the checks that need no model and no PyTorch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from sspsam.cli.formats import BATCH_FORMATS, check_labels, format_option, label_option
from sspsam.cli.options import (
    DTYPES,
    ModelOptions,
    check_texts,
    dtype_option,
    max_pixels_option,
    option_group,
    presence_threshold_option,
)
from sspsam.cli.paths import FiniteRange, UserPath, WholeRange

if TYPE_CHECKING:
    from sspsam.batch.options import Format

# the table suffixes of `sspsam.batch`, whose import would load PyTorch; a test compares them
_TABLE_SUFFIXES: Final = (".csv", ".tsv", ".jsonl", ".ndjson")


def parsed_shard(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, int]:
    """Parse `I/N` of --shard. A callback, because `click.ParamType` takes a type argument in new versions only."""
    number, _, count = value.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise click.BadParameter(f"{value!r} is not of the form 2/8, the second of eight runs", context, parameter)
    return int(number), int(count)


@dataclass(frozen=True)
class TextOptions:
    """Values of -t, --label and --prompts."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    prompts: Path | None


text_options = option_group(
    "text_options",
    TextOptions,
    click.option("-t", "--text", "texts", multiple=True, help="Expression to segment in every image; repeatable."),
    label_option,
    click.option(
        "--prompts",
        type=UserPath(dir_okay=False),
        help="Expressions: .txt, one per line, for every image; .csv, .tsv or .jsonl with the columns image, text and, "
        "if there are labels, label.",
    ),
)


@dataclass(frozen=True)
class RunOptions:
    """Values of the options about files, resuming and failures."""

    formats: "tuple[Format, ...]"
    instances: bool
    min_area: int | None
    coco_polygons: bool
    glob: str | None
    overwrite: bool
    retry_errors: bool
    fail_fast: bool
    max_errors: int | None
    shard: tuple[int, int]


run_options = option_group(
    "run_options",
    RunOptions,
    format_option(
        BATCH_FORMATS,
        "Files to write; repeatable, or a list with commas. results.jsonl holds every mask in any case.",
    ),
    click.option(
        "--instances",
        is_flag=True,
        help="Each connected part of a mask is an annotation of its own in coco, as in yolo.",
    ),
    click.option(
        "--min-area",
        type=WholeRange(min=1),
        help="Smallest part of a mask in yolo, and in coco with --instances, in pixels (default: 1).",
    ),
    click.option("--coco-polygons", is_flag=True, help="Polygons in coco.json instead of run-length encodings."),
    click.option("--glob", help="Pattern for the files of a folder, such as '*.jpg' or '2024/*'."),
    click.option("--overwrite", is_flag=True, help="Remove the files of an earlier run in OUTPUT and start again."),
    click.option("--retry-errors", is_flag=True, help="Retry the images that failed in earlier runs."),
    click.option("--fail-fast", is_flag=True, help="Stop at the first image that fails."),
    click.option("--max-errors", type=WholeRange(min=0), help="Stop when more images than this have failed."),
    click.option(
        "--shard",
        metavar="I/N",
        default="1/1",
        callback=parsed_shard,
        help="Process the I-th of N parts of the images.",
    ),
)


@dataclass(frozen=True)
class PredictionOptions:
    """Values of the options about the model's computation and its thresholds."""

    dtype: str | None
    batch_size: int | None
    workers: int | None
    mask_threshold: float | None
    no_target_pixels: int | None
    presence_threshold: float | None
    max_pixels: int | None


prediction_options = option_group(
    "prediction_options",
    PredictionOptions,
    dtype_option,
    click.option("--batch-size", type=WholeRange(min=1), help="Images encoded together."),
    click.option("--workers", type=WholeRange(min=1), help="Threads that read images."),
    click.option(
        "--mask-threshold",
        type=FiniteRange(min=0, max=1, min_open=True, max_open=True),
        help="Probability from which a pixel is foreground.",
    ),
    click.option("--no-target-pixels", type=WholeRange(min=0), help="Fewer foreground pixels mean no target."),
    presence_threshold_option,
    max_pixels_option,
)


@dataclass(frozen=True)
class CacheOptions:
    """Values of --cache, --cache-limit (GB) and --cache-dtype."""

    cache: Path | None
    cache_limit: float | None
    cache_dtype: str | None


cache_options = option_group(
    "cache_options",
    CacheOptions,
    click.option(
        "--cache",
        type=UserPath(file_okay=False),
        help="Keep image embeddings in this folder, so that later runs over the same images skip the encoders.",
    ),
    click.option("--cache-limit", type=FiniteRange(min=0, min_open=True), help="Largest size of --cache, in GB."),
    click.option(
        "--cache-dtype",
        type=click.Choice(DTYPES),
        help="Precision of the stored embeddings (default: float32).",
    ),
)


@dataclass(frozen=True)
class RayOptions:
    """Values of --ray, --ray-actors, --ray-cpus and --ray-gpus.

    `address` is None without --ray, and empty if --ray has no value.
    """

    address: str | None
    ray_actors: int | None
    ray_cpus: float | None
    ray_gpus: float | None


ray_options = option_group(
    "ray_options",
    RayOptions,
    click.option(
        "--ray",
        "address",
        is_flag=False,
        flag_value="",
        metavar="[ADDRESS]",
        help="Run on the Ray cluster --ray=ADDRESS (auto: the one of this machine); --ray alone starts a local one.",
    ),
    click.option("--ray-actors", type=WholeRange(min=1), help="Predictors on the cluster (default: all that fit)."),
    click.option("--ray-cpus", type=FiniteRange(min=0, min_open=True), help="Cores per predictor (default: 1)."),
    click.option("--ray-gpus", type=FiniteRange(min=0), help="GPUs per predictor (default: 0, on the CPU)."),
)


def check_batch_usage(
    source: Path, model: ModelOptions, text: TextOptions, run: RunOptions, cache: CacheOptions, ray: RayOptions
) -> None:
    """Refuse combinations of options with which nothing can be done.

    Raises:
        click.UsageError: the message names the flags.
    """
    check_texts(text.texts)
    if text.texts and text.prompts is not None:
        raise click.UsageError("-t and --prompts exclude each other: give the expressions in one of the two ways")
    check_labels(text.labels, text.texts)
    if run.glob == "":
        raise click.UsageError("--glob is empty: give a pattern such as '*.jpg', or leave it out")
    if run.instances and not {"coco", "yolo"} & set(run.formats):
        raise click.UsageError("--instances has no effect without --format coco: add it")
    if run.min_area is not None and not run.instances and "yolo" not in run.formats:
        raise click.UsageError("--min-area has no effect without --instances or --format yolo: add one of them")
    if run.coco_polygons and "coco" not in run.formats:
        raise click.UsageError("--coco-polygons has no effect without --format coco: add it")
    if not text.texts and text.prompts is None and source.suffix.lower() not in _TABLE_SUFFIXES:
        raise click.UsageError("no expression to segment: give -t TEXT or --prompts FILE")
    if ray.address is not None and model.device is not None:
        raise click.UsageError("--ray and --device exclude each other: give --ray-gpus for predictors on GPUs")
    ray_flags = {"--ray-actors": ray.ray_actors, "--ray-cpus": ray.ray_cpus, "--ray-gpus": ray.ray_gpus}
    cache_flags = {"--cache-limit": cache.cache_limit, "--cache-dtype": cache.cache_dtype}
    if ray.address is None:
        _refuse_flags(ray_flags, "--ray or --ray=ADDRESS")
    if cache.cache is None:
        _refuse_flags(cache_flags, "--cache DIRECTORY")


def _refuse_flags(values: Mapping[str, object], required: str) -> None:
    given = [flag for flag, value in values.items() if value is not None]
    if given:
        raise click.UsageError(f"{given[0]} has no effect without {required}: add it, or leave out {given[0]}")
