"""The `sspsam` command. Standard output carries data; messages go to standard error.

Exit status: 0 everything succeeded (no target is an answer), 1 something failed, 2 wrong usage, 130 interrupted.
"""

import click

from sspsam._version import __version__
from sspsam.cli.batch import batch
from sspsam.cli.calibrate import calibrate
from sspsam.cli.check import check
from sspsam.cli.demo import demo
from sspsam.cli.evaluate import evaluate
from sspsam.cli.finetune import finetune
from sspsam.cli.models import cache, convert, download, models, verify
from sspsam.cli.output import CommandGroup
from sspsam.cli.segment import segment
from sspsam.cli.serve import serve
from sspsam.cli.verbosity import verbosity_options


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sspsam")
def main() -> None:
    """Segment the region of an image that a text refers to, with SSP-SAM."""


for _command in (
    *(segment, batch, evaluate, calibrate, finetune, demo, serve),
    *(check, convert, models, download, verify, cache),
):
    _command.params += verbosity_options()
    main.add_command(_command)
