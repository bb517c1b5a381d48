"""Texts of the user inside YAML and Markdown."""

import re
from typing import Final

from sspsam.utils.paths import printable

_LICENSE_ID: Final = re.compile(r"[a-z0-9][a-z0-9.+-]*", re.IGNORECASE)  # as the Hub has them, such as apache-2.0
_URL: Final = re.compile(r"https?://\S+")


def yaml_string(text: str) -> str:
    """Return a text as a double-quoted scalar of YAML."""
    characters = (f"\\{character}" if character in '"\\' else character for character in text)
    return '"' + "".join(c if c.isprintable() or len(c) > 1 else f"\\U{ord(c):08x}" for c in characters) + '"'


def table_cell(text: str) -> str:
    """Return a text for a cell of a Markdown table: one line, without the character that ends a cell."""
    return printable(" ".join(text.split())).replace("|", "\\|")


def license_header(name: str) -> str:
    """Return the lines about a licence for the YAML header of a model card.

    Args:
        name: an identifier of the Hub, a URL or a free text, for which the Hub's identifier is `other`.
    """
    text = " ".join(name.split())
    if _LICENSE_ID.fullmatch(text) and text != "unknown":
        return f"license: {yaml_string(text)}"
    return "license: other" + (f"\nlicense_link: {yaml_string(text)}" if _URL.fullmatch(text) else "")
