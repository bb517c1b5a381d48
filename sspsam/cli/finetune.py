"""`sspsam finetune`: a checkpoint that learns the expressions of the user's own lines."""

import os
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from sspsam.cli.options import (
    DTYPES,
    Decorator,
    ModelOptions,
    dtype_option,
    model_options,
    option_group,
    required_model,
)
from sspsam.cli.output import complain, failing_cleanly, words_of
from sspsam.cli.paths import FiniteRange, UserPath, WholeRange
from sspsam.cli.verbosity import inform, shows_progress
from sspsam.errors import FinetuningError, LinesError
from sspsam.finetuning.options import MIXED_PRECISIONS, PARTS, FinetuneOptions

if TYPE_CHECKING:
    from sspsam.finetuning.job import FinetuneJob
    from sspsam.finetuning.lines import DataSource

_HELP: Final = {
    "epochs": "How often each line is seen.",
    "steps": "Number of steps, instead of --epochs.",
    "time": "Seconds for the training, which then decide about the number of steps.",
    "batch_size": "Lines and rehearsal of a step, over all processes.",
    "learning_rate": "Peak of ssp and text.",
    "decoder_rate": "Peak of the decoder.",
    "token_rate": "Peak of the tokens.",
    "weight_decay": "Of AdamW.",
    "warmup_rate": "Learning rate of the first step.",
    "warmup": "Share of the steps in which the rate rises.",
    "final_rate": "Learning rate of the last step.",
    "clip": "Largest norm of the gradient.",
    "decoder_frozen": "Share of the steps before the decoder learns, where something else does.",
    "dice": "Weight of the dice loss.",
    "focal": "Weight of the focal loss.",
    "l1": "Weight of the L1 loss of the box.",
    "giou": "Weight of the generalized IoU loss of the box.",
    "focal_alpha": "Weight of the foreground in the focal loss.",
    "focal_gamma": "Power of the error in the focal loss.",
    "held_out_share": "Share of the images that never train, without --held-out.",
    "eval_steps": "Steps between two evaluations (default: 10 evaluations).",
    "patience": "Stop after so many evaluations without a better one.",
    "rehearsal_share": "Share of a batch that repeats what the model knows.",
    "rehearsal_scenes": "Drawn scenes for rehearsal, for models of drawn shapes.",
    "negatives_share": "Share of the images that also get a foreign phrase without a target.",
    "flips": "Add mirrored images, for expressions that stay true; encodes each image twice.",
    "crops": "Add so many crops of each image, for expressions that stay true; encodes each crop.",
    "seed": "Of the split and of every draw.",
    "save_seconds": "Seconds between two saved states.",
}


def _parts(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    parts = tuple(part for value in values for part in value.replace(",", " ").split())
    if values and not parts:
        raise click.BadParameter(f"give one or more of {', '.join(PARTS)}, or leave it out", context, parameter)
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise click.BadParameter(f"there is no part {unknown[0]!r}; there are {', '.join(PARTS)}", context, parameter)
    return tuple(dict.fromkeys(parts))


def _number_option(name: str, default: Any, kind: Any) -> Decorator:
    flag, text = f"--{name.replace('_', '-')}", _HELP[name]
    if isinstance(default, bool):
        return click.option(flag, is_flag=True, default=default, help=text)
    is_whole = kind in (int, int | None)
    number: Any = WholeRange(min=0) if is_whole else FiniteRange(min=0)
    return click.option(flag, type=number, default=default, show_default=default is not None, help=text)


@dataclass(frozen=True)
class _TypedOptions(FinetuneOptions):
    """Numbers as typed; one that is out of range is wrong usage."""

    def __post_init__(self) -> None:
        try:
            super().__post_init__()
        except FinetuningError as error:
            raise click.UsageError(words_of(error)) from None


training_options = option_group(
    "training_options",
    _TypedOptions,
    click.option(
        "--train",
        multiple=True,
        callback=_parts,
        metavar="PARTS",
        help="Parts that learn, of ssp, decoder, text, tokens (default: ssp,decoder, and tokens where the model cannot "
        "tell words of the lines from others).",
    ),
    click.option(
        "--mixed-precision", type=click.Choice(MIXED_PRECISIONS), default="no", show_default=True, help="Of the steps."
    ),
    *(
        _number_option(field.name, field.default, field.type)
        for field in fields(FinetuneOptions)
        if field.name in _HELP
    ),
)


@dataclass(frozen=True)
class LineOptions:
    """Values of the options about lines."""

    dataset: str
    split: str
    split_by: str | None
    image_root: Path | None
    held_out: tuple[Path, ...]
    rehearsal: tuple[Path, ...]
    negatives: Path | None
    skip_problems: bool


line_options = option_group(
    "line_options",
    LineOptions,
    click.option(
        "--dataset", default="jsonl", show_default=True, help="Another data set of sspsam eval; DATA is its root."
    ),
    click.option("--split", default="train", show_default=True, help="Of the data set."),
    click.option("--split-by", help="Division of the data set into splits."),
    click.option(
        "--image-root",
        type=UserPath(file_okay=False),
        help="Folder of the images (default, and for images that it lacks: beside the lines).",
    ),
    click.option(
        "--held-out", type=UserPath(), multiple=True, help="Lines that never train (default: a part of DATA)."
    ),
    click.option("--rehearsal", type=UserPath(), multiple=True, help="Lines about what the model knows already."),
    click.option(
        "--negatives", type=UserPath(dir_okay=False), help="Phrases that refer to nothing in any image, one a line."
    ),
    click.option("--skip-problems", is_flag=True, help="Leave out lines with problems instead of refusing them."),
)


@click.command()
@click.argument("data", type=UserPath(), nargs=-1, required=True)
@click.option("-o", "--output", type=UserPath(file_okay=False), required=True, help="Folder of the new checkpoint.")
@line_options
@model_options
@dtype_option
@training_options
@click.option("--cache", type=UserPath(file_okay=False), help="Folder of the embeddings (default: sspsam's own cache).")
@click.option(
    "--cache-dtype", type=click.Choice(DTYPES), default="float32", show_default=True, help="Of the embeddings."
)
@click.option("--worst", type=WholeRange(min=0), default=0, help="Write so many of the worst lines to worst/.")
@click.option("--overwrite", is_flag=True, help="Replace the checkpoint, or the unfinished training, in the folder.")
def finetune(
    data: tuple[Path, ...],
    output: Path,
    line_options: LineOptions,
    model_options: ModelOptions,
    dtype: str | None,
    training_options: FinetuneOptions,
    cache: Path | None,
    cache_dtype: str,
    worst: int,
    overwrite: bool,
) -> None:
    """Teach a checkpoint the expressions in DATA, and write a new checkpoint.

    DATA are JSON lines with image, text and one of mask, rle and polygons (null: no target), or files corrected in
    LabelMe or Label Studio. All lines are checked first. A part of the images never trains: it decides which weights
    are kept. After an interruption, the same command continues. See docs/finetuning.md.
    """
    model = required_model(model_options)
    with failing_cleanly():
        from sspsam import hub

        hub.check_name(model)  # an unknown name is answered before PyTorch is imported
        from sspsam.finetuning.run import finetune as run_finetuning
        from sspsam.finetuning.start import StartOptions

        start = StartOptions(
            model=model,
            revision=model_options.revision,
            cache_dir=model_options.cache_dir,
            device=model_options.device,
            dtype=dtype,
            embeddings=cache,
            embedding_dtype=cache_dtype,
        )
        job = _job(data, line_options, start, output, overwrite, worst)
        try:
            result = run_finetuning(job, training_options, message=inform, progress=shows_progress())
        except KeyboardInterrupt:
            complain("interrupted; the same command without --overwrite continues the training")
            sys.exit(130)
        except LinesError as error:
            if os.environ.get("RANK", "0") == "0":  # of several processes, which all find the same problems
                for problem in error.problems:
                    complain(problem)
                complain(error.message.for_command)
            sys.exit(1)
        if result is not None:
            click.echo(str(result.directory))


def _job(
    data: tuple[Path, ...], lines: LineOptions, start: Any, output: Path, overwrite: bool, worst: int
) -> "FinetuneJob":
    from sspsam.finetuning.job import FinetuneJob

    if _has_file(data) and lines.dataset != "jsonl":
        raise click.UsageError(f"--dataset {lines.dataset} needs the root folder of the data set as DATA, not a file")
    return FinetuneJob(
        data=_source(data, lines),
        start=start,
        output=output,
        held_out=_source(lines.held_out, lines) if lines.held_out else None,
        rehearsal=_source(lines.rehearsal, lines) if lines.rehearsal else None,
        negatives=None if lines.negatives is None else _phrases(lines.negatives),
        skip_problems=lines.skip_problems,
        overwrite=overwrite,
        worst=worst,
    )


def _source(paths: tuple[Path, ...], lines: LineOptions) -> "DataSource":
    from sspsam.finetuning.lines import DataSource

    dataset = "jsonl" if _has_file(paths) else lines.dataset
    return DataSource(paths, dataset, lines.split, lines.split_by, lines.image_root)


def _has_file(paths: tuple[Path, ...]) -> bool:
    """Return True if a path is of lines, not of a folder."""
    return any(path.suffix in (".json", ".jsonl") for path in paths)


def _phrases(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise FinetuningError(f"--negatives {path} cannot be read as UTF-8 text: {error}") from error
