"""Formulas as MathML, which browsers draw themselves; Sphinx's own ways need a script or an installation of TeX."""

import re
from html import escape
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util.logging import getLogger

_LOGGER = getLogger(__name__)
_INLINE_OF_CODE_HOSTS = re.compile(r"\$`([^`]+)`\$")
# docutils takes the index of a letter with an accent for a limit below both, unless a group holds more than the letter
_ACCENTED = re.compile(r"(\\(?:hat|bar)\s*\w)(?=_)")


def mathml(node: nodes.math | nodes.math_block, as_block: bool = False) -> str:
    """Return a formula of LaTeX as MathML; a command that docutils does not know is a warning, and stays LaTeX."""
    formula = node.astext()
    try:
        return tex2mathml(_ACCENTED.sub(r"{\1{}}", formula), as_block=as_block)
    except MathError as error:
        _LOGGER.warning("%s in the formula %s", error, formula, location=node)
        return f"<code>{escape(formula)}</code>"


def inline_formula(translator: Any, node: nodes.math) -> None:
    """Write a formula in a line of text."""
    translator.body.append(mathml(node))
    raise nodes.SkipNode


def block_formula(translator: Any, node: nodes.math_block) -> None:
    """Write a formula on lines of its own."""
    translator.body.append(f'<div class="formula">{mathml(node, as_block=True)}</div>')
    raise nodes.SkipNode


def read_inline_formulas(app: Sphinx, name: str, content: list[str]) -> None:
    """Replace $`...`$, as code hosts write a formula, with the $...$ of MyST."""
    content[0] = _INLINE_OF_CODE_HOSTS.sub(r"$\1$", content[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer `mathml`."""
    app.add_html_math_renderer("mathml", (inline_formula, None), (block_formula, None))
    app.connect("source-read", read_inline_formulas)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
