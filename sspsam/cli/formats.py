"""`--format` and `--label`: options that take several values."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from sspsam.segmentation.exports.answer_files import AnswerFormat

# the formats of `sspsam.segmentation.exports.answer_files`, whose import would load NumPy; a test compares them
ANSWER_FORMATS: "Final[tuple[AnswerFormat, ...]]" = ("mask", "overlay", "cutout", "json", "polygons")


class FormatOption(click.Option):
    """An option that may be repeated and whose values may be lists with commas, such as `--format mask,overlay`.

    The command receives a tuple of different values in the order of the command line.
    """

    def __init__(self, *args: Any, choices: Sequence[str], **attributes: Any) -> None:
        self.choices = click.Choice(choices)
        super().__init__(*args, multiple=True, metavar="|".join(choices), callback=self._parse, **attributes)

    def _parse(self, context: click.Context, parameter: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
        names = [name.strip() for value in values for name in value.split(",")]
        return tuple(dict.fromkeys(self.choices.convert(name, parameter, context) for name in names))


label_option = click.option(
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
