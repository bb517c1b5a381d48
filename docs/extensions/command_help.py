"""The directive `command-help`: what a command of `sspsam` prints for `--help`."""

from typing import ClassVar

import click
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from sspsam.cli import main


class CommandHelp(SphinxDirective):
    """A section for each command, with its help."""

    option_spec: ClassVar = {}

    def run(self) -> list[nodes.Node]:
        """Return the sections in the order of the commands."""
        return [self.section(name, command) for name, command in main.commands.items()]

    def section(self, name: str, command: click.Command) -> nodes.section:
        """Return the section of one command."""
        parent = click.Context(main, info_name="sspsam", terminal_width=90, **main.context_settings)
        context = click.Context(command, info_name=name, parent=parent)
        section = nodes.section(ids=[f"sspsam-{name}"], names=[f"sspsam {name}"])
        section += nodes.title("", "", nodes.literal("", f"sspsam {name}"))
        with context:
            section += nodes.literal_block("", command.get_help(context), language="text")
        return section


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
