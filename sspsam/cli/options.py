"""Options and checks that several commands share. A group of options reaches its command as one frozen dataclass."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any, Final, Literal

import click

from sspsam.cli.paths import FiniteRange, UserPath, WholeRange

DTYPES: Final = ("float32", "float16", "bfloat16")

Command = Callable[..., None]
Decorator = Callable[[Command], Command]


def option_group(parameter: str, group: type[Any], *options: Decorator) -> Decorator:
    """Return a decorator that adds options to a command and passes their values as one dataclass.

    Args:
        parameter: name of the command's parameter that receives the dataclass.
        group: dataclass with one field for each option, named as click names the option's value.
        options: `click.option` decorators, in the order of the help page.
    """
    names = [field.name for field in fields(group)]

    def decorate(command: Command) -> Command:
        @wraps(command)
        def with_group(**values: Any) -> None:
            values[parameter] = group(**{name: values.pop(name) for name in names})
            command(**values)

        decorated: Command = with_group
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate


@dataclass(frozen=True)
class ModelOptions:
    """Values of --model, --revision, --cache-dir and --device."""

    model: str | None
    revision: str | None
    cache_dir: Path | None
    device: str | None


revision_option: Decorator = click.option("--revision", help="Branch, tag or commit on the Hub.")
cache_dir_option: Decorator = click.option(
    "--cache-dir",
    type=UserPath(file_okay=False),
    help="Cache of files from the Hub (default: the cache of huggingface_hub, see HF_HOME).",
)
model_options = option_group(
    "model_options",
    ModelOptions,
    click.option("--model", help="Published name (see sspsam models), directory, or Hub repository owner/name."),
    revision_option,
    cache_dir_option,
    click.option("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)."),
)


@dataclass(frozen=True)
class CalibrationOptions:
    """Values of --calibration and --no-calibration."""

    calibration: Path | None
    no_calibration: bool

    @property
    def choice(self) -> "Path | Literal[False] | None":
        """The argument `calibration` of `from_pretrained`.

        Raises:
            click.UsageError: both options are given.
        """
        if self.calibration is not None and self.no_calibration:
            raise click.UsageError("--calibration and --no-calibration exclude each other: leave out one of them")
        return False if self.no_calibration else self.calibration


calibration_options = option_group(
    "calibration_options",
    CalibrationOptions,
    click.option(
        "--calibration",
        type=UserPath(dir_okay=False),
        help="File of sspsam calibrate (default: calibration.json beside the weights, if there is one).",
    ),
    click.option("--no-calibration", is_flag=True, help="Load the model without a calibration."),
)
presence_threshold_option: Decorator = click.option(
    "--presence-threshold",
    type=FiniteRange(min=0, max=1),
    help="Probability of presence from which there is a target, instead of the rule about pixels.",
)
dtype_option: Decorator = click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    help="Precision of the image encoders (default: float32 on a CPU, float16 on a GPU).",
)

max_pixels_option: Decorator = click.option(
    "--max-pixels", type=WholeRange(min=1), help="Largest width times height of an image."
)


def required_model(options: ModelOptions) -> str:
    """Return the value of --model.

    Raises:
        click.UsageError: the option is missing, and the message lists the published names; or its value is empty.
    """
    if options.model is None:
        from sspsam.checkpoints.names import missing_name_message

        raise click.UsageError(f"missing option --model: {missing_name_message()}")
    if not options.model.strip():
        raise click.BadParameter("the name is empty", param_hint="--model")
    return os.path.expanduser(options.model)  # a shell does not expand --model='~/m'


def check_texts(texts: Sequence[str]) -> None:
    """Refuse an empty -t.

    Raises:
        click.BadParameter: a text is empty or white space.
    """
    if not all(text.strip() for text in texts):
        raise click.BadParameter("the text is empty; give an expression such as 'the mug'", param_hint="-t")
