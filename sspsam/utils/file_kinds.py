"""Recognition of files by their first bytes: pointers, answers of servers and other kinds in the place of a file."""

import os
import re
import zlib
from pathlib import Path
from typing import Final

from sspsam.utils.paths import shown

HEAD_BYTES: Final = 4096  # that `foreign_kind` needs, at most
SAFETENSORS: Final = "is a safetensors file"

_LFS_POINTER: Final = ("version https://git-lfs.github.com/spec/", "version https://hawser.github.com/spec/")
_ANNEX_POINTER: Final = re.compile(r"[./\\]*([/\\]?\.git)?[/\\]annex[/\\]objects[/\\]")
_COMMENTS: Final = re.compile(r"(\s*<!--.*?-->)*\s*", re.DOTALL)
_XML_DECLARATION: Final = re.compile(r"<\?xml.*?>\s*", re.DOTALL)
_CONTROL: Final = re.compile(r"[\0-\x08\x0e-\x1f\x7f]")  # characters that no text holds
_MARKUP: Final = re.compile(r"<[a-z!?]", re.IGNORECASE)
_GZIP: Final = b"\x1f\x8b"
_MAX_HEADER_BYTES: Final = 100_000_000  # of a safetensors file, as its library allows
_MAX_QUOTED: Final = 80  # characters
# other kinds by their beginning: kind, description
_BINARY: Final = (
    (b"PK\x03\x04", "zip", "is a zip archive, such as a folder of files or a .pth checkpoint; unpack or convert it"),
    (b"BZh", "bzip2", "is compressed by bzip2; unpack it with: bunzip2"),
    (b"\xfd7zXZ\0", "xz", "is compressed by xz; unpack it with: unxz"),
    (b"\x28\xb5\x2f\xfd", "zstd", "is compressed by Zstandard; unpack it with: unzstd"),
    (b"%PDF-", "PDF", "is a PDF document; save the page or the image in it as a PNG"),
    (b"\x93NUMPY", "NumPy", "is a NumPy array; load it with numpy.load and pass the array"),
    (b"\x89HDF\r\n", "HDF5", "is an HDF5 file"),
    (b"GGUF", "GGUF", "is a GGUF file, in which llama.cpp keeps weights"),
)


def foreign_kind(head: bytes, expected: str = "") -> str:
    """Describe the kind of a file that stands in the place of another one, as the end of a sentence.

    Args:
        head: the first `HEAD_BYTES` of the file, or all of a shorter one.
        expected: the kind that is right and not described: `"zip"`, `"safetensors"`, `"JSON"`; empty: none of these.

    Returns:
        The rest of a sentence about the file, without a full stop, such as "is an empty file"; empty if the kind is
        the expected one or is not recognised.
    """
    if not head:
        return "is an empty file; a download or a copy of it was not finished"
    if not head.strip(b"\0"):
        return "holds only zeros; a download or a copy of it was not finished"
    if head.startswith(_GZIP):
        return _gzip_kind(head)
    for beginning, kind, description in _BINARY:
        if head.startswith(beginning):
            return "" if kind == expected else description
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= _MAX_HEADER_BYTES:
        return "" if expected == "safetensors" else SAFETENSORS
    return _text_kind(_decoded(head), expected)


def missing_target(path: Path) -> str:
    """Describe the target of a link to nothing, in parentheses after a blank; empty for a path that is no link."""
    try:
        target = os.readlink(path)
    except (OSError, ValueError):
        return ""
    if _ANNEX_POINTER.search(target):
        return " (a link of git-annex whose content is not here; fetch it with: git annex get)"
    return f" (a link to {shown(target)}, which does not exist)"


def _gzip_kind(head: bytes) -> str:
    try:
        content = zlib.decompressobj(wbits=31).decompress(head, HEAD_BYTES)
    except zlib.error:
        content = b""
    inner = foreign_kind(content) if content and not content.startswith(_GZIP) else ""
    return f"is compressed by gzip, and unpacked it {inner}" if inner else "is compressed by gzip; unpack it: gunzip"


def _decoded(head: bytes) -> str:
    """The beginning of a file as text, with replacement characters for what is no text."""
    encoding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
    text = head.decode(encoding, "replace")
    if len(head) >= HEAD_BYTES:
        text = text[:-1]  # perhaps a part of a character
    return text.strip("\ufeff \t\n\v\f\r\x85\xa0")


def _text_kind(text: str, expected: str) -> str:
    if not text:
        return "holds only blanks; a download or a copy of it was not finished"
    if text.startswith(_LFS_POINTER):
        return "is a Git LFS pointer, not the file itself; fetch the file with: git lfs pull"
    if _ANNEX_POINTER.match(text):
        return "is a git-annex pointer, not the file itself; fetch the file with: git annex get"
    if _CONTROL.search(text):
        return ""  # binary data, even where its first bytes look like markup
    markup = _COMMENTS.sub("", text, count=1)
    if _MARKUP.match(markup):
        return f"is {_markup_kind(markup)}, perhaps of a login or of an error, saved in the place of the file"
    if not all(character.isprintable() or character.isspace() for character in text) or "\ufffd" in text:
        return ""
    start = shown(" ".join(text[: 2 * _MAX_QUOTED].split())[:_MAX_QUOTED])
    if text[0] in "{[":
        return "" if expected == "JSON" else f"is a JSON document, perhaps the answer of a server: {start}"
    return f"holds text, perhaps the answer of a server: {start}"


def _markup_kind(markup: str) -> str:
    root = _COMMENTS.sub("", _XML_DECLARATION.sub("", markup, count=1), count=1).lower()
    if root.startswith(("<svg", "<!doctype svg")):
        return "an SVG drawing"
    is_xml = root.startswith("<error") or markup.startswith("<?xml")
    return "an XML document" if is_xml and not root.startswith(("<!doctype html", "<html")) else "an HTML page"
