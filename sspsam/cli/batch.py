"""`sspsam batch`: folders and lists of images to a folder of masks, on this machine or on a Ray cluster."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sspsam.cli.batch_options import (
    CacheOptions,
    PredictionOptions,
    RayOptions,
    RunOptions,
    TextOptions,
    cache_options,
    check_batch_usage,
    prediction_options,
    ray_options,
    run_options,
    text_options,
)
from sspsam.cli.image_messages import messages_with_names_of_images
from sspsam.cli.loading import load_predictor, pretrained_options
from sspsam.cli.options import CalibrationOptions, ModelOptions, calibration_options, model_options, required_model
from sspsam.cli.output import complain, failing_cleanly
from sspsam.cli.paths import UserPath
from sspsam.cli.verbosity import inform, shows_progress

if TYPE_CHECKING:
    from sspsam.batch import BatchOptions, BatchSummary
    from sspsam.batch.ray import PretrainedOptions
    from sspsam.images.cache import EmbeddingCache


@dataclass(frozen=True)
class _BatchJob:
    """Arguments that `run_batch` and `run_batch_on_ray` share.

    Args:
        source: folder, list or table of images.
        output: folder to write.
        text: expressions.
        model: name or path of the checkpoint.
        pretrained: further arguments of `SSPSAMPredictor.from_pretrained`.
        options: how the batch is run.
    """

    source: Path
    output: Path
    text: TextOptions
    model: str
    pretrained: "PretrainedOptions"
    options: "BatchOptions"


@click.command()
@click.argument("source", metavar="INPUT", type=UserPath())
@click.argument("output", type=UserPath(file_okay=False))
@text_options
@model_options
@calibration_options
@run_options
@prediction_options
@cache_options
@ray_options
def batch(
    source: Path,
    output: Path,
    text_options: TextOptions,
    model_options: ModelOptions,
    calibration_options: CalibrationOptions,
    run_options: RunOptions,
    prediction_options: PredictionOptions,
    cache_options: CacheOptions,
    ray_options: RayOptions,
) -> None:
    """Segment all images of INPUT, a folder, list or table, into the folder OUTPUT.

    After an interruption, the same command resumes the run. A mask is named after its image and the number of the
    text; results.jsonl has a line for each mask, errors.jsonl for each image that failed. Exit status 1 if any failed.
    """
    model = required_model(model_options)
    check_batch_usage(source, model_options, text_options, run_options, cache_options, ray_options)
    with failing_cleanly():
        from sspsam import hub

        hub.check_name(model)  # an unknown name is answered before PyTorch is imported
        options = _batch_options(run_options, prediction_options)
        pretrained = pretrained_options(
            model_options, dtype=prediction_options.dtype, calibration=calibration_options.choice
        )
        pretrained["embedding_cache"] = _embedding_cache(cache_options)
        job = _BatchJob(source, output, text_options, model, pretrained, options)
        try:
            if ray_options.address is None:
                summary = _run_locally(job, model_options.device)
            else:
                summary = _run_on_ray(job, ray_options)
        except KeyboardInterrupt:
            same_command = "the same command without --overwrite" if run_options.overwrite else "the same command"
            complain(f"interrupted; {same_command} resumes the run")
            sys.exit(130)
    inform(str(summary))
    if summary.failed:
        complain(f"the images that failed are listed in {output / options.shard.name('errors', '.jsonl')}")
        sys.exit(1)


def _batch_options(run: RunOptions, prediction: PredictionOptions) -> "BatchOptions":
    from sspsam.batch import BatchOptions, Shard
    from sspsam.images.loading import DEFAULT_MAX_PIXELS

    return BatchOptions(
        formats=run.formats,
        instances=run.instances,
        min_area=run.min_area or 1,
        coco_polygons=run.coco_polygons,
        glob=run.glob,
        overwrite=run.overwrite,
        retry_errors=run.retry_errors,
        max_errors=0 if run.fail_fast else run.max_errors,
        shard=Shard(*run.shard),
        batch_size=prediction.batch_size,
        workers=prediction.workers,
        mask_threshold=prediction.mask_threshold,
        no_target_pixels=prediction.no_target_pixels,
        presence_threshold=prediction.presence_threshold,
        max_pixels=DEFAULT_MAX_PIXELS if prediction.max_pixels is None else prediction.max_pixels,
    )


def _embedding_cache(options: CacheOptions) -> "EmbeddingCache | None":
    from sspsam.images.cache import EmbeddingCache

    if options.cache is None:
        return None
    max_bytes = None if options.cache_limit is None else max(1, round(options.cache_limit * 1e9))
    return EmbeddingCache(options.cache, max_bytes=max_bytes, dtype=options.cache_dtype or "float32")


def _run_locally(job: _BatchJob, device: str | None) -> "BatchSummary":
    from sspsam.batch import run_batch
    from sspsam.images.loading import pillow_pixel_limit

    predictor = load_predictor(job.model, device, job.pretrained)
    with messages_with_names_of_images(), pillow_pixel_limit(job.options.max_pixels):
        return run_batch(
            *(job.source, job.output, job.text.texts),
            predictor=predictor,
            prompts=job.text.prompts,
            labels=job.text.labels or None,
            options=job.options,
            progress=shows_progress(),
        )


def _run_on_ray(job: _BatchJob, ray: RayOptions) -> "BatchSummary":
    from sspsam.batch.ray import Cluster, run_batch_on_ray

    return run_batch_on_ray(
        *(job.source, job.output, job.text.texts),
        model=job.model,
        prompts=job.text.prompts,
        labels=job.text.labels or None,
        options=job.options,
        cluster=Cluster(ray.address or None, ray.ray_actors, ray.ray_cpus or 1.0, ray.ray_gpus or 0.0),
        progress=shows_progress(),
        **job.pretrained,
    )
