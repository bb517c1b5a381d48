"""Files of the repository as pages, and links to them.

A line `[README](../README.md) <!-- insert -->` is replaced with the text of that file, and `<!-- pages a b -->` with
the names of the pages a and b that exist. Links to a file that is inserted in a page lead to the page, so that the
sources of the pages have links that also work on a code host.
"""

import posixpath
import re
from pathlib import Path

from sphinx.application import Sphinx

PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "sspsam/bundled/shapes/README.md": "bundled-model.md",
}

_INSERTED = re.compile(r"^\[[^\]]+\]\((\S+)\) <!-- insert -->$", re.MULTILINE)
_PAGES = re.compile(r"^<!-- pages (.+) -->$", re.MULTILINE)
_LINK = re.compile(r"(\]\()(?!\w+:|#|<)([^)\s#]+)")
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_TITLE = re.compile(r"\A\s*# .*\n")


def insert_files(app: Sphinx, page: str, content: list[str]) -> None:
    """Insert the files that a page names, and point all links at pages, in place."""
    folder = Path(app.srcdir)

    def text_of_file(name: str) -> str:
        path = folder / name
        app.env.note_dependency(path)
        place = posixpath.dirname(posixpath.normpath(posixpath.join("docs", name)))
        return _TITLE.sub("", _FRONT_MATTER.sub("", _with_links(path.read_text("utf-8"), place)))

    def existing_pages(match: re.Match[str]) -> str:
        return "\n".join(name for name in match[1].split() if (folder / f"{name}.md").is_file())

    pieces = _INSERTED.split(_PAGES.sub(existing_pages, content[0]))  # text, path, text, path, ..., text
    pieces[::2] = [_with_links(text, posixpath.dirname(f"docs/{page}")) for text in pieces[::2]]
    pieces[1::2] = [text_of_file(path) for path in pieces[1::2]]
    content[0] = "".join(pieces)


def _with_links(text: str, folder: str) -> str:
    """Return the text of a file of `folder`, a path in the repository, with its links relative to `docs`."""

    def link(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, match[2]))
        # pages in folders of `docs` link to their neighbours only
        if folder.startswith("docs/"):
            return match[0]
        return match[1] + PAGES.get(path, posixpath.relpath(path, "docs"))

    return _LINK.sub(link, text)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the insertion, before formulas are read."""
    app.connect("source-read", insert_files, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
