"""Formulas as MathML, which browsers draw themselves; Sphinx's own ways need a script or an installation of TeX."""

import re
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

_INLINE_OF_CODE_HOSTS = re.compile(r"\$`([^`]+)`\$")


def inline_formula(translator: Any, node: nodes.math) -> None:
    """Write a formula in a line of text."""
    translator.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def block_formula(translator: Any, node: nodes.math_block) -> None:
    """Write a formula on lines of its own."""
    translator.body.append(f'<div class="formula">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def read_inline_formulas(app: Sphinx, name: str, content: list[str]) -> None:
    """Replace $`...`$, as code hosts write a formula, with the $...$ of MyST."""
    content[0] = _INLINE_OF_CODE_HOSTS.sub(r"$\1$", content[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer `mathml`."""
    app.add_html_math_renderer("mathml", (inline_formula, None), (block_formula, None))
    app.connect("source-read", read_inline_formulas)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
