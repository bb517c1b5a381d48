"""Docstrings for Sphinx: they are written for the reader of the code, in plain text with backticks."""

import re
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.inspect import signature, stringify_signature

_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_RETURNED = ("Returns:", "Yields:")
_FORMATTED_DEFAULT = re.compile(r"= f(\"[^\"]*\"|'[^']*')")


def as_restructured_text(app: Sphinx, kind: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Change `code` to ``code`` and indented blocks at the left margin to literal blocks, in place."""
    changed: list[str] = []
    literal = False
    for number, line in enumerate(lines):
        before = lines[number - 2] if number > 1 and not lines[number - 1] else " "
        if line.startswith("    ") and before and not before.startswith(" "):
            changed += ["::", ""]
            literal = True
        literal = literal and (not line or line.startswith("    "))
        changed.append(line if literal else _CODE.sub(_literal, line))
    for number, line in enumerate(changed):
        is_first_of_value = number == 0 and kind in {"attribute", "property", "data"}
        if is_first_of_value or (number > 0 and changed[number - 1] in _RETURNED):
            changed[number] = line.replace(": ", " -- ")  # napoleon takes words before a colon for a type
    lines[:] = changed


def _literal(match: re.Match[str]) -> str:
    return f"``{match[1].strip()}``"


def readable_signature(
    app: Sphinx, kind: str, name: str, value: Any, options: Any, text: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Show the arguments of `__init__`, not of `__new__`, and `...` in place of a formatted default."""
    if kind == "class" and text and "*arguments" in text:
        text = stringify_signature(
            signature(value.__init__, bound_method=True), False, False, unqualified_typehints=True
        )
    return text and _FORMATTED_DEFAULT.sub("= ...", text), returned


def setup(app: Sphinx) -> dict[str, bool]:
    """Register both conversions, that of docstrings before napoleon's."""
    app.connect("autodoc-process-docstring", as_restructured_text, priority=100)
    app.connect("autodoc-process-signature", readable_signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
