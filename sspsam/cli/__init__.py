"""The command line. Standard output carries data, standard error the rest.

Exit status: 0 all was done (no target is an answer), 1 something failed, 2 wrong usage.
"""

import click

from sspsam._version import __version__
from sspsam.cli.batch import batch
from sspsam.cli.models import cache, convert, download, models, verify
from sspsam.cli.segment import segment


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sspsam")
def main() -> None:
    """Point at things in a picture with words."""


for _command in (segment, batch, convert, models, download, verify, cache):
    main.add_command(_command)
