"""Sphinx settings of the documentation; CONTRIBUTING.md has the command that builds it.

The pages need no network, neither to be built nor to be read: no page of another project is looked up, formulas are
MathML, and no font or script comes from another host.
"""

import sys
from pathlib import Path

from sspsam import __version__

sys.path.append(str(Path(__file__).parent / "extensions"))

project = "sspsam"
author = "the sspsam authors"
project_copyright = "the sspsam authors, Apache-2.0"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "inserted_files",
    "mathml",
    "command_help",
    "docstrings",
]
exclude_patterns = ["_build", "extensions"]

# the pages are also read on code hosts, so that they keep to what those understand: ```math blocks and $`...`$
myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 4

html_theme = "furo"
html_title = f"sspsam {__version__}"
html_static_path = ["_static"]
html_css_files = ["sspsam.css"]
html_show_sphinx = False
html_copy_source = False
html_math_renderer = "mathml"
html_theme_options = {"navigation_with_keys": True}

# docstrings mark code as Markdown does, with single backticks
default_role = "code"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False

# types of other projects, whose pages are not looked up, and types that pass between two modules only
nitpick_ignore_regex = [
    ("py:.*", r"(torch|numpy|np|PIL|NDArray|collections|pathlib|os|supervision|ray|typing|types|click|datetime)\b.*"),
    ("py:class", r"sspsam\.(models|images|utils)\.\w+\.\w+"),
    ("py:class", r"sspsam\.messages\.\w+"),
    ("py:class", r"sspsam\.(evaluation\.datasets\.entry\.ImageContent|serving\.app\.ServingApp)"),
]
