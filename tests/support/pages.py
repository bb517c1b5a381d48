"""The README and the pages of `docs/`: their snippets, commands, links and headings."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import sspsam

ROOT = Path(__file__).parents[2]
PACKAGE = Path(sspsam.__file__).parent  # not always in the checkout: `.ci/run` tests the installed package
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
PAGES = {
    str(path.relative_to(ROOT)): _COMMENT.sub("", path.read_text())
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if "_build" not in path.parts
}
OTHER_TEXTS = {name: (ROOT / name).read_text() for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")}
CARD = "sspsam/bundled/shapes/README.md"

_BLOCK = re.compile(r"^ {0,3}(`{3,})([^\n`]*)\n(.*?)^ {0,3}\1 *$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#{1,6} +(.*?) *$", re.MULTILINE)
_LINK = re.compile(r"\]\((?!\w+:)([^)\s]*)\)")


class Block(NamedTuple):
    """A block of code between fences.

    Args:
        page: path of its file in the repository.
        language: the first word after the fence.
        text: its lines.
    """

    page: str
    language: str
    text: str


def place_of(name: str) -> Path:
    """Path of a file or folder of the repository; that of the package may lie elsewhere."""
    first, _, rest = name.partition("/")
    return PACKAGE / rest if first == "sspsam" else ROOT / name


def blocks(page: str, *languages: str) -> list[Block]:
    """Blocks of a page in some languages; of all languages if none is named."""
    found = [Block(page, match[2].strip().partition(" ")[0], match[3]) for match in _BLOCK.finditer(PAGES[page])]
    return [block for block in found if not languages or block.language in languages]


def commands(page: str) -> list[str]:
    """Command lines of a page, without comments; a line that ends in a backslash continues."""
    found = []
    for block in blocks(page, "bash", "console", "text"):
        lines = [line.strip() for line in block.text.replace("\\\n", " ").splitlines()]
        if block.language == "console":  # with what the commands print
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        if block.language == "text":
            lines = [line for line in lines if re.match(r"(sspsam|python -m|curl|docker|pip) ", line)]
        found += [line for line in lines if line and not line.startswith("#")]
    return found


def words(text: str) -> list[str]:
    """Pieces of inline code of a text."""
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", _BLOCK.sub("", text))


def links(text: str) -> list[str]:
    """Targets of the links of a text that stay in the repository."""
    return _LINK.findall(_BLOCK.sub("", text))


def anchors(text: str) -> Iterator[str]:
    """Anchors of the headings of a text, as code hosts name them."""
    for heading in _HEADING.findall(_BLOCK.sub("", text)):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
