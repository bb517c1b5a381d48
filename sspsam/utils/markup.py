"""Texts of the user inside YAML and Markdown."""

from sspsam.utils.paths import printable


def yaml_string(text: str) -> str:
    """Return a text as a double-quoted scalar of YAML."""
    characters = (f"\\{character}" if character in '"\\' else character for character in text)
    return '"' + "".join(c if c.isprintable() or len(c) > 1 else f"\\U{ord(c):08x}" for c in characters) + '"'


def table_cell(text: str) -> str:
    """Return a text for a cell of a Markdown table: one line, without the character that ends a cell."""
    return printable(" ".join(text.split())).replace("|", "\\|")
