"""`sspsam batch`: folders and lists of pictures into a folder of masks."""

import sys
from pathlib import Path
from typing import Any

import click

from sspsam.cli.output import complain, failing_cleanly


class _ShardType(click.ParamType[Any]):
    """`I/N`."""

    name = "I/N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        number, _, count = str(value).partition("/")
        if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            self.fail(f"{value!r} is not like 2/8, the second of eight runs", param, ctx)
        return int(number), int(count)


@click.command()
@click.argument("source", metavar="INPUT", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path, file_okay=False))
@click.option("--model", help="A published name (sspsam models), a directory, or a Hub repository owner/name.")
@click.option("-t", "--text", "texts", multiple=True, help="What to look for in every picture; repeat for more.")
@click.option(
    "--prompts",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Expressions instead: .txt, one a line, for every picture; .csv or .jsonl of image and text, each its own.",
)
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(["mask", "overlay", "rle", "coco", "parquet"]),
    default=["mask"],
    show_default=True,
    help="What to write; repeat for more. results.jsonl holds every mask in any case.",
)
@click.option("--glob", help="Which files of a folder, such as '*.jpg' or '2024/*'.")
@click.option("--overwrite", is_flag=True, help="Remove what an earlier run in OUTPUT wrote, and begin anew.")
@click.option("--retry-errors", is_flag=True, help="Try again the pictures that failed in earlier runs.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first picture that fails.")
@click.option("--max-errors", type=click.IntRange(min=0), help="Stop when more pictures than this have failed.")
@click.option("--shard", type=_ShardType(), default="1/1", help="Do the I-th of N parts of the pictures.")
@click.option(
    "--ray",
    "address",
    is_flag=False,
    flag_value="",
    metavar="[ADDRESS]",
    help="Run on a Ray cluster: --ray=ADDRESS (auto: the one of this machine), or --ray for one that is started.",
)
@click.option("--ray-actors", type=click.IntRange(min=1), help="Predictors at work on the cluster.")
@click.option("--ray-cpus", type=click.FloatRange(min=0, min_open=True), help="Cores for each (default: 1).")
@click.option("--ray-gpus", type=click.FloatRange(min=0), help="GPUs for each (default: 0, on the CPU).")
@click.option("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
@click.option("--dtype", type=click.Choice(["float32", "float16", "bfloat16"]), help="Precision of the encoders.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Pictures encoded together.")
@click.option("--workers", type=click.IntRange(min=1), help="Threads that read pictures.")
@click.option("--mask-threshold", type=float, help="Probability from which a pixel is foreground.")
@click.option("--no-target-pixels", type=click.IntRange(min=0), help="Fewer foreground pixels mean no target.")
@click.option("--max-pixels", type=click.IntRange(min=1), help="Largest width times height of a picture.")
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep embeddings here: the second question about a picture costs no encoder pass.",
)
@click.option("--cache-limit", type=click.FloatRange(min=0, min_open=True), help="Largest size of --cache, in GB.")
@click.option(
    "--cache-dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    help="How embeddings are stored (default: float32).",
)
@click.option("--revision", help="Branch, tag or commit on the Hub.")
@click.option("--cache-dir", type=click.Path(path_type=Path, file_okay=False), help="Of the Hub, not the usual one.")
def batch(
    source: Path,
    output: Path,
    model: str | None,
    texts: tuple[str, ...],
    prompts: Path | None,
    formats: tuple[str, ...],
    glob: str | None,
    overwrite: bool,
    retry_errors: bool,
    fail_fast: bool,
    max_errors: int | None,
    shard: tuple[int, int],
    address: str | None,
    ray_actors: int | None,
    ray_cpus: float | None,
    ray_gpus: float | None,
    device: str | None,
    dtype: str | None,
    revision: str | None,
    cache_dir: Path | None,
    cache: Path | None,
    cache_limit: float | None,
    cache_dtype: str | None,
    **numbers: Any,
) -> None:
    """Segment all pictures of INPUT, a folder, list or table, into the folder OUTPUT.

    The same command goes on where it was stopped. Masks are named after their pictures and the number of the text;
    results.jsonl has a line for each, errors.jsonl one for each picture that failed. Exit status 1 if any did.
    """
    if model is None:
        from sspsam.checkpoints.names import missing_name_message

        raise click.UsageError(missing_name_message())
    if address is not None and device is not None:
        raise click.UsageError("--ray chooses the device: say --ray-gpus instead of --device")
    of_ray = {"--ray-actors": ray_actors, "--ray-cpus": ray_cpus, "--ray-gpus": ray_gpus}
    of_cache = {"--cache-limit": cache_limit, "--cache-dtype": cache_dtype}
    for what, whole, parts in (("--ray", address, of_ray), ("--cache", cache, of_cache)):
        if whole is None and (alone := [name for name, value in parts.items() if value is not None]):
            raise click.UsageError(f"{alone[0]} is for {what}, which is not there")
    if not texts and prompts is None and source.suffix.lower() not in (".csv", ".tsv", ".jsonl", ".ndjson"):
        raise click.UsageError("say what to look for: -t TEXT, or --prompts FILE")
    with failing_cleanly():
        from sspsam.batch import BatchOptions, Shard, run_batch
        from sspsam.images.cache import EmbeddingCache
        from sspsam.images.loading import pillow_pixel_limit
        from sspsam.predictor import SSPSAMPredictor

        chosen = {name: value for name, value in numbers.items() if value is not None}
        options = BatchOptions(
            formats=formats,  # type: ignore[arg-type]  # click has checked them
            glob=glob,
            overwrite=overwrite,
            retry_errors=retry_errors,
            max_errors=0 if fail_fast else max_errors,
            shard=Shard(*shard),
            **chosen,
        )
        limit = None if cache_limit is None else max(1, round(cache_limit * 1e9))
        loading: dict[str, Any] = {
            "revision": revision,
            "dtype": dtype,
            "cache_dir": cache_dir,
            "embedding_cache": None
            if cache is None
            else EmbeddingCache(cache, max_bytes=limit, dtype=cache_dtype or "float32"),
        }
        try:
            if address is None:
                predictor = SSPSAMPredictor.from_pretrained(model, device=device, **loading)
                with pillow_pixel_limit(options.max_pixels):
                    summary = run_batch(
                        source, output, texts, predictor=predictor, prompts=prompts, options=options, progress=True
                    )
            else:
                from sspsam.batch.ray import Cluster, run_batch_on_ray

                cluster = Cluster(address or None, ray_actors, ray_cpus or 1.0, ray_gpus or 0.0)
                summary = run_batch_on_ray(
                    *(source, output, texts),
                    model=model,
                    prompts=prompts,
                    options=options,
                    cluster=cluster,
                    progress=True,
                    **loading,
                )
        except KeyboardInterrupt:
            complain(f"interrupted; the same command{' without --overwrite' if overwrite else ''} goes on from here")
            sys.exit(130)
    complain(str(summary))
    if summary.failed:
        complain(f"the pictures that failed are in {output / options.shard.name('errors', '.jsonl')}")
        sys.exit(1)
