"""`--format` and `--label`: options that take several values."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import click

from sspsam.cli.options import Decorator

if TYPE_CHECKING:
    from sspsam.batch.options import Format
    from sspsam.segmentation.exports.answer_files import AnswerFormat

# the formats of `sspsam.segmentation.exports` and of `sspsam.batch`, whose import would load NumPy and PyTorch; a test
# compares them
ANSWER_FORMATS: "Final[tuple[AnswerFormat, ...]]" = ("mask", "overlay", "cutout", "json", "polygons")
BATCH_FORMATS: "Final[tuple[Format, ...]]" = (*ANSWER_FORMATS, "rle", "coco", "yolo", "parquet")


def format_option(choices: Sequence[str], help_text: str) -> Decorator:
    """Return the option --format, which may be repeated and takes lists with commas, such as `mask,overlay`.

    The command receives `formats`, a tuple of different values in the order of the command line.

    Args:
        choices: valid values; the first is the default.
        help_text: for the help page.
    """
    return click.option(
        "--format",
        "formats",
        multiple=True,
        metavar="|".join(choices),
        callback=partial(_parsed, click.Choice(choices)),
        default=choices[:1],
        show_default=True,
        help=help_text,
    )


def _parsed(
    choice: "click.Choice[str]", context: click.Context, parameter: click.Parameter, values: Sequence[str]
) -> tuple[str, ...]:
    names = [name.strip() for value in values for name in value.split(",")]
    return tuple(dict.fromkeys(choice.convert(name, parameter, context) for name in names))


label_option: Decorator = click.option(
    "--label",
    "labels",
    multiple=True,
    help="Category of the text in JSON, polygons and data sets; once for each -t, in their order.",
)


def check_labels(labels: Sequence[str], texts: Sequence[str]) -> None:
    """Refuse labels that do not belong to texts one by one.

    Raises:
        click.UsageError: the message names the flags and their numbers.
    """
    if labels and len(labels) != len(texts):
        raise click.UsageError(
            f"--label was given {len(labels)} times and -t {len(texts)} times: give one --label for each -t, in the "
            "order of the texts"
        )
    if not all(label.strip() for label in labels):
        raise click.BadParameter("the label is empty; give a name such as 'mug'", param_hint="--label")
