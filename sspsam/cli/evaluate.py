"""`sspsam eval`: a model, or the predictions of any program, on a split of a data set."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from sspsam.cli.batch_options import parsed_shard
from sspsam.cli.loading import load_predictor, pretrained_options
from sspsam.cli.options import (
    CalibrationOptions,
    ModelOptions,
    calibration_options,
    dtype_option,
    model_options,
    option_group,
    required_model,
)
from sspsam.cli.output import complain, failing_cleanly
from sspsam.cli.paths import UserPath, WholeRange
from sspsam.cli.verbosity import inform, shows_progress

if TYPE_CHECKING:
    from sspsam.evaluation.run import Evaluation

# those of `sspsam.evaluation.protocols`, whose import would load NumPy; a test compares them
PROTOCOLS: Final = ("standard", "official", "rela", "phrasecut")


@dataclass(frozen=True)
class DataOptions:
    """Values of the options about the data set and the protocol; the fields of `EvaluationJob`."""

    dataset: str
    split: str
    data_root: Path
    split_by: str | None
    image_root: Path | None
    protocol: str
    torchvision_017: bool
    phrasecut_words: Path | None
    limit: int | None
    shard: tuple[int, int]


data_options = option_group(
    "data_options",
    DataOptions,
    click.option(
        "--dataset",
        required=True,
        help="refcoco, refcoco+, refcocog, refclef, grefcoco, phrasecut, refcoco-m, pbench, authors or jsonl.",
    ),
    click.option("--split", required=True, help="Name of the split, by the rules of the owners of the data set."),
    click.option("--data-root", type=UserPath(), required=True, help="Folder with a folder for each data set."),
    click.option("--split-by", help="Division into splits (default: unc; umd for refcocog)."),
    click.option(
        "--image-root", type=UserPath(file_okay=False), help="Folder of the images (default: below --data-root)."
    ),
    click.option(
        "--protocol",
        type=click.Choice(PROTOCOLS),
        default=PROTOCOLS[0],
        show_default=True,
        help="How masks are counted; see docs/evaluation.md.",
    ),
    click.option("--torchvision-017", is_flag=True, help="With --protocol official: resize as torchvision >= 0.17."),
    click.option(
        "--phrasecut-words",
        type=UserPath(dir_okay=False),
        help="utils/subset.py of the PhraseCutDataset repository, for the subsets that need its lists of words.",
    ),
    click.option("--limit", type=WholeRange(min=1), help="Only the first expressions of the split."),
    click.option(
        "--shard", default="1/1", metavar="I/N", callback=parsed_shard, help="Only the I-th of N parts of the images."
    ),
)


@click.command("eval")
@data_options
@model_options
@calibration_options
@dtype_option
@click.option(
    "--from-predictions",
    "predictions",
    type=UserPath(),
    help="Score masks that any program wrote as JSON lines, instead of a model; .npz with --protocol official.",
)
@click.option(
    "-o",
    "--output",
    type=UserPath(file_okay=False),
    help="Folder for records.jsonl, metrics.json and metrics.md; resumable.",
)
@click.option(
    "--worst",
    type=WholeRange(min=0),
    default=10,
    show_default=True,
    metavar="N",
    help="With -o: draw the N worst answers of each kind into the folder worst.",
)
@click.option("--overwrite", is_flag=True, help="Start again instead of resuming the run in the folder.")
def evaluate(
    data_options: DataOptions,
    model_options: ModelOptions,
    calibration_options: CalibrationOptions,
    dtype: str | None,
    predictions: Path | None,
    output: Path | None,
    worst: int,
    overwrite: bool,
) -> None:
    """Evaluate a model on a split of a data set, and print the metrics as a Markdown table.

    With -o, records.jsonl gets a line for each expression, and metrics.json the numbers; after an interruption the same
    command resumes the run. Shards with the same -o are merged when the last of them is complete.
    """
    model = None
    if predictions is None:
        model = required_model(model_options)
    elif model_options.model is not None:
        raise click.UsageError("--model and --from-predictions exclude each other: leave out one of them")
    if output is None and data_options.shard[1] > 1:
        raise click.UsageError("--shard needs a folder, from which the shards are merged: add -o DIR")
    if data_options.torchvision_017 and data_options.protocol != "official":
        raise click.UsageError("--torchvision-017 changes nothing without --protocol official: leave it out")
    with failing_cleanly():
        try:
            from sspsam import hub

            if model is not None:
                hub.check_name(model)  # an unknown name is answered before PyTorch is imported
            from sspsam.evaluation.job import EvaluationJob
            from sspsam.evaluation.run import run_evaluation

            pretrained = pretrained_options(model_options, dtype=dtype, calibration=calibration_options.choice)
            evaluation = run_evaluation(
                EvaluationJob(**vars(data_options)),
                predictor=None if model is None else load_predictor(model, model_options.device, pretrained),
                predictions=predictions,
                output=output,
                overwrite=overwrite,
                worst=worst,
                progress=shows_progress(),
            )
            _print(evaluation, data_options)
        except KeyboardInterrupt:
            hint = "" if output is None else "; the same command without --overwrite resumes the run"
            complain(f"interrupted{hint}")
            sys.exit(130)


def _print(evaluation: "Evaluation", data: DataOptions) -> None:
    """Print the metrics, or the reason why there are none yet."""
    from sspsam.evaluation.protocols import PHRASECUT
    from sspsam.evaluation.report import markdown_table

    if evaluation.metrics is None:
        inform(
            f"the shard is complete; metrics need all shards, and there is no {', no '.join(evaluation.missing_shards)}"
        )
        return
    if data.protocol == PHRASECUT and data.phrasecut_words is None:
        inform(
            "subsets of COCO's categories, of stuff and of kinds of attributes are left out: they need "
            "--phrasecut-words FILE, utils/subset.py of https://github.com/ChenyunWu/PhraseCutDataset"
        )
    click.echo(markdown_table(evaluation.metrics))
